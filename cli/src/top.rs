//! `outgate top`: watches the handshakes that fail, from Envoy's admin endpoint, from the log, or both.

mod follow;
mod frame;
mod stats;
mod terminal;
mod window;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use follow::Follow;
use frame::Frame;
use stats::{Rates, Stats};
use terminal::Terminal;
use window::Window;

/// What `outgate top` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Envoy's counters tell categories and reasons; who fails is in the log alone.
With neither --admin nor --log, Envoy is asked on 127.0.0.1:9901. Ctrl-C ends it.

Status: 0; 1 if the terminal cannot be written; 2 if --once could read neither.")]
pub struct TopArgs {
    /// Envoy's admin interface
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// The log: of `outgate run`, or any that explain-tls reads; its rotation is followed
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How far back in the log is looked; 0 is its beginning
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    window: u32,
    /// Rows of each table
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=100))]
    rows: u16,
    /// Print one frame and end
    #[arg(long)]
    once: bool,
}

/// Of a log that is already long, this much of its end is read.
const PAST: u64 = 64 * 1024 * 1024;

/// What is watched.
struct Watched {
    admin: Option<SocketAddr>,
    log: Option<Follow>,
    window: Window,
    before: Option<(Instant, Stats)>,
    rows: usize,
}

/// Watches until it is interrupted.
pub fn run(args: &TopArgs) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("outgate: cannot watch for signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    let mut watched = Watched::new(args);
    if args.once {
        let frame = watched.look();
        let nothing = frame.is_blind();
        return match Terminal::plain().draw(&frame) {
            Err(error) => cannot_write(&error),
            Ok(()) if nothing => ExitCode::from(2),
            Ok(()) => ExitCode::SUCCESS,
        };
    }
    let mut terminal = Terminal::open();
    loop {
        let begun = Instant::now();
        if let Err(error) = terminal.draw(&watched.look()) {
            drop(terminal);
            return cannot_write(&error);
        }
        while begun.elapsed() < Duration::from_secs(1) {
            if interrupted.load(Ordering::Relaxed) {
                return ExitCode::SUCCESS;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn cannot_write(error: &std::io::Error) -> ExitCode {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // Whoever reads has seen enough.
        return ExitCode::SUCCESS;
    }
    eprintln!("outgate: cannot write: {error}");
    ExitCode::FAILURE
}

impl Watched {
    fn new(args: &TopArgs) -> Self {
        const DEFAULT_ADMIN: SocketAddr =
            SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);
        Self {
            admin: args.admin.or_else(|| args.log.is_none().then_some(DEFAULT_ADMIN)),
            log: args
                .log
                .as_deref()
                .map(|path| Follow::new(path, if args.window == 0 { u64::MAX } else { PAST })),
            window: Window::new(args.window),
            before: None,
            rows: usize::from(args.rows),
        }
    }

    fn look(&mut self) -> Frame {
        let now = OffsetDateTime::now_utc();
        let stats = self.admin.map(|admin| (admin, Stats::ask(admin)));
        let rates = match (&stats, &self.before) {
            (Some((_, Ok(stats))), Some((asked, before))) => {
                Some(Rates::between(before, stats, asked.elapsed()))
            }
            _ => None,
        };
        if let Some((_, Ok(stats))) = &stats {
            self.before = Some((Instant::now(), stats.clone()));
        }
        let log = self.log.as_mut().map(|log| {
            let window = &mut self.window;
            (log.path().to_owned(), log.read(|line| window.add(line, now)))
        });
        Frame {
            at: now,
            stats,
            rates,
            log: log.map(|(path, read)| (path, read.map(|()| self.window.seen(now)))),
            window: self.window.seconds(),
            rows: self.rows,
        }
    }
}
