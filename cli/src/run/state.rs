//! The state directory: the development CA, and the working files of one run.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use outgate_policy::PolicyErrors;
use outgate_policy::document::parse_text;
use rustix::fs::{FlockOperation, flock};

use crate::render::{RenderError, Rendering};

/// A Unix socket's path has 108 bytes on Linux, its end included, and 104 elsewhere.
const SOCKET_PATH: usize = 100;

/// Why the state directory does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Something in it cannot be written.
    #[error("cannot write `{}`: {error}; choose another directory with --state", .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another run has it.
    #[error("another outgate runs with the state directory `{}`; stop that one or choose another with --state", .0.display())]
    Locked(PathBuf),
    /// A configuration could not be made.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// What was made of the template is no YAML.
    #[error("the rendered configuration does not parse: {0}; this is a defect of outgate")]
    Yaml(PolicyErrors),
}

/// The state directory, locked while this lives.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    socket: PathBuf,
    _lock: File,
}

impl State {
    /// Makes and locks the directory.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Write { path, error }
        };
        fs::create_dir_all(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed(&path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StateError::Locked(path));
        }
        let run = path.join("run");
        for directory in [&run, &run.join("filters")] {
            fs::create_dir_all(directory).map_err(failed(directory))?;
        }
        let mut socket = run.join("cert-service.sock");
        if socket.as_os_str().len() > SOCKET_PATH {
            let short = std::env::temp_dir().join(format!("outgate-{}", std::process::id()));
            fs::create_dir_all(&short).map_err(failed(&short))?;
            fs::set_permissions(&short, Permissions::from_mode(0o700)).map_err(failed(&short))?;
            socket = short.join("cert-service.sock");
        }
        Ok(Self { path, socket, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    /// cert-service's socket.
    pub fn cert_socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Envoy's own log.
    pub fn envoy_log(&self) -> PathBuf {
        self.path.join("envoy.log")
    }

    /// cert-service's log.
    pub fn cert_service_log(&self) -> PathBuf {
        self.path.join("cert-service.log")
    }

    /// What cert-service minted and refused, as JSON lines.
    pub fn cert_service_audit(&self) -> PathBuf {
        self.path.join("cert-service-audit.jsonl")
    }

    /// Envoy's configuration.
    pub fn bootstrap(&self) -> PathBuf {
        self.path.join("run/envoy.json")
    }

    /// The folder that Envoy watches for the filters' configuration.
    pub fn discovery(&self) -> PathBuf {
        self.path.join("run/filters")
    }

    /// Writes Envoy's configuration: in JSON, since Envoy's reader of YAML keeps 80 MB for one with 64 shards.
    pub fn write_bootstrap(&self, yaml: &str) -> Result<(), StateError> {
        let value = parse_text(yaml).map_err(StateError::Yaml)?;
        write(&self.bootstrap(), &value.to_string())
    }

    /// Writes the configuration of the filter that has the policy.
    pub fn write_discovery(&self, rendering: &Rendering) -> Result<(), StateError> {
        write(&Rendering::discovery_file(&self.discovery()), &rendering.discovery_response()?)
    }

    /// Writes the roots of origins; the name tells the content, so that a change is seen.
    pub fn write_roots(&self, pem: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(format!("run/upstream-roots-{:016x}.pem", checksum(pem)));
        if !path.exists() {
            write(&path, pem)?;
        }
        Ok(path)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let (false, Some(folder)) = (self.socket.starts_with(&self.path), self.socket.parent()) {
            let _already_gone = fs::remove_dir_all(folder);
        }
    }
}

/// Opens a log file for appending.
pub fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// The last lines of a log, to follow a message.
pub fn tail(path: &Path) -> String {
    let Ok(text) = fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| !line.is_empty()).take(5).collect();
    if lines.is_empty() {
        return String::new();
    }
    lines.reverse();
    format!("; the last lines of `{}`:\n  {}", path.display(), lines.join("\n  "))
}

/// Renames a whole file into place: a reader sees the old one or the new one.
fn write(path: &Path, text: &str) -> Result<(), StateError> {
    let failed = |error| StateError::Write { path: path.to_owned(), error };
    // Outside the watched folder, so that Envoy sees one event.
    let temporary = path.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join(".outgate.tmp");
    fs::write(&temporary, text).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

fn checksum(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}
