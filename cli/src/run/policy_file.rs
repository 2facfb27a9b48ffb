//! The policy file, watched. A version counts once it was renamed into place or lay still for half a second.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outgate_policy::{Engine, PolicyErrors};
use serde_json::Value;

const STILL: Duration = Duration::from_millis(500);

/// A policy that compiled.
#[derive(Debug)]
pub struct Policy {
    /// As its file says it.
    pub value: Value,
    /// Compiled.
    pub engine: Engine,
}

/// Why a policy file does not count.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("cannot read the policy `{}`: {error}; give its path with --policy", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It does not compile.
    #[error("the policy `{}` does not compile:\n{errors}", .path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        errors: PolicyErrors,
    },
    /// Somebody is still writing it.
    #[error("the policy `{}` is a mere prefix of the one in force, half written perhaps; write it whole, or rename it into place", .0.display())]
    Prefix(PathBuf),
}

/// What has become of the file.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// A new policy.
    Policy(Box<Policy>),
    /// Something that does not count.
    Refused(PolicyFileError),
}

/// The watched file.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    /// What was read last, whether it counted or not.
    seen: Stamp,
    /// A change that does not lie still yet.
    moving: Option<(Stamp, Instant)>,
    /// The text in force.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl PolicyFile {
    /// Reads and compiles the first version.
    pub fn open(path: &Path) -> Result<(Self, Policy), PolicyFileError> {
        let failed = |error| PolicyFileError::Read { path: path.to_owned(), error };
        let seen = Stamp::of(path).map_err(failed)?;
        let text = fs::read_to_string(path).map_err(failed)?;
        let policy = compile(path, &text)?;
        Ok((Self { path: path.to_owned(), seen, moving: None, text }, policy))
    }

    /// What has happened since the last call.
    pub fn poll(&mut self) -> Change {
        // A file that is gone for a moment is being replaced.
        let Ok(stamp) = Stamp::of(&self.path) else { return Change::None };
        if stamp == self.seen {
            self.moving = None;
            return Change::None;
        }
        let renamed = (stamp.device, stamp.inode) != (self.seen.device, self.seen.inode);
        let still = match self.moving {
            Some((moving, since)) if moving == stamp => since.elapsed() >= STILL,
            _ => {
                self.moving = Some((stamp, Instant::now()));
                false
            }
        };
        if !renamed && !still {
            return Change::None;
        }
        self.seen = stamp;
        self.moving = None;
        match self.read() {
            Ok(policy) => Change::Policy(Box::new(policy)),
            Err(error) => Change::Refused(error),
        }
    }

    fn read(&mut self) -> Result<Policy, PolicyFileError> {
        let text = fs::read_to_string(&self.path)
            .map_err(|error| PolicyFileError::Read { path: self.path.clone(), error })?;
        if text.len() < self.text.len()
            && self.text.starts_with(&text)
            && !self.text.trim_end().eq(text.trim_end())
        {
            return Err(PolicyFileError::Prefix(self.path.clone()));
        }
        let policy = compile(&self.path, &text)?;
        self.text = text;
        Ok(policy)
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn compile(path: &Path, text: &str) -> Result<Policy, PolicyFileError> {
    let compiled = outgate_policy::document::parse_text(text)
        .and_then(|value| Engine::from_value(&value).map(|engine| Policy { value, engine }));
    compiled.map_err(|errors| PolicyFileError::Policy { path: path.to_owned(), errors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const FIRST: &str = "name: first\nrules:\n- {name: all, enabled: true, priority: 1, basicProfile: ALLOW, sessionMatcher: 'true'}\n";

    fn directory(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("outgate-policy-file-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn replace(directory: &Path, text: &str) {
        fs::write(directory.join("new"), text).unwrap();
        fs::rename(directory.join("new"), directory.join("policy.yaml")).unwrap();
    }

    #[test]
    fn a_renamed_file_counts_at_once_and_a_written_one_when_it_lies_still() {
        let directory = directory("counts");
        let path = directory.join("policy.yaml");
        fs::write(&path, FIRST).unwrap();
        let (mut file, policy) = PolicyFile::open(&path).unwrap();
        assert_eq!(policy.engine.document().name, "first");
        assert!(matches!(file.poll(), Change::None));

        replace(&directory, &FIRST.replace("first", "second"));
        assert!(matches!(file.poll(), Change::Policy(_)));
        assert!(matches!(file.poll(), Change::None));

        fs::write(&path, FIRST.replace("first", "third-written")).unwrap();
        assert!(matches!(file.poll(), Change::None));
        sleep(STILL + Duration::from_millis(50));
        assert!(
            matches!(file.poll(), Change::Policy(policy) if policy.engine.document().name == "third-written")
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_prefix_and_a_broken_policy_are_refused_with_a_reason() {
        let directory = directory("refused");
        let path = directory.join("policy.yaml");
        let two_rules = format!(
            "{FIRST}- {{name: last, enabled: true, priority: 2, basicProfile: DENY, sessionMatcher: 'true'}}\n"
        );
        fs::write(&path, &two_rules).unwrap();
        let (mut file, _) = PolicyFile::open(&path).unwrap();
        for (text, expected) in
            [(FIRST.to_owned(), "mere prefix"), (FIRST.replace("'true'", "hosts()"), "does not compile")]
        {
            replace(&directory, &text);
            let Change::Refused(error) = file.poll() else { panic!("not refused") };
            assert!(error.to_string().contains(expected), "{error}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
