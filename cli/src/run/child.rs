//! The processes that `outgate run` starts, which must end with it whatever ends it.
//!
//! Each is started through `outgate child`, which asks the kernel to end it with its parent and then
//! becomes the program: so even SIGKILL leaves nothing behind (on Linux).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// The hidden subcommand that becomes a child.
pub const SUBCOMMAND: &str = "child";

/// `outgate child PARENT PROGRAM ARGUMENT…`: dies with the parent, becomes the program.
pub fn become_child(arguments: &[OsString]) -> ExitCode {
    let [parent, program, rest @ ..] = arguments else {
        return ExitCode::from(64);
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        eprintln!("outgate: cannot bind `{}` to the life of its parent: {error}", program.display());
        return ExitCode::FAILURE;
    }
    // The parent may have ended before the request to the kernel.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_deref() != parent.to_str() {
        return ExitCode::FAILURE;
    }
    raise_file_limit();
    let error = Command::new(program).args(rest).exec();
    eprintln!("outgate: cannot start `{}`: {error}", program.display());
    ExitCode::FAILURE
}

/// Every connection is a file or two, and the usual limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The program that runs now, even if its file was replaced meanwhile.
fn own_executable() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts `program`; must be called from the main thread, because the kernel binds the child to the thread.
    pub fn start(
        name: &'static str,
        program: &Path,
        arguments: &[OsString],
        stdout: Stdio,
        stderr: Stdio,
    ) -> io::Result<Self> {
        let child = Command::new(own_executable()?)
            .arg(SUBCOMMAND)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // A group of its own: Ctrl-C reaches us alone, and we end the others in order.
            .process_group(0)
            .spawn()?;
        Ok(Self { name, child })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The pipes that were asked for.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// SIGTERM, and SIGKILL after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        eprintln!("outgate: {} did not end within {} s; killing it", self.name, grace.as_secs());
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _already_gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}
