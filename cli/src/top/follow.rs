//! Follows a growing log, over its rotation.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::explain_tls::line::Line;
use crate::explain_tls::totals::next_line;

/// A last line without an end may be as long as this.
const MAXIMUM_PENDING: usize = 256 * 1024;

/// A log.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    past: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// A line that has not ended yet.
    pending: Vec<u8>,
}

impl Follow {
    /// The log at this path, which need not be there yet; of what is in it, so many last bytes are read.
    pub fn new(path: &Path, past: u64) -> Self {
        Self { path: path.to_owned(), past, open: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives every line that was added since, also those of a file that has taken the log's place.
    pub fn read(&mut self, mut each: impl FnMut(&Line)) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            open.read(&mut each)?;
            match std::fs::metadata(&self.path) {
                Ok(now) if open.is(&now)? => return Ok(()),
                // Rotated: what was written to the old file in between is read, then the new one from its beginning.
                Ok(_) => open.read(&mut each)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
            self.open = None;
        }
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        let skipped = length.saturating_sub(self.past);
        file.seek(SeekFrom::Start(skipped))?;
        // Only the beginning of a file may be long; what takes its place is read whole.
        self.past = u64::MAX;
        let mut open = Open { file, pending: Vec::new() };
        // In the middle of a file, the first line is the end of one.
        let mut whole = skipped == 0;
        open.read(&mut |line: &Line| {
            if std::mem::replace(&mut whole, true) {
                each(line);
            }
        })?;
        self.open = Some(open);
        Ok(())
    }
}

impl Open {
    /// Whether this is still the file at the path, and has not been cut.
    fn is(&mut self, now: &Metadata) -> io::Result<bool> {
        let own = self.file.metadata()?;
        let same = (own.dev(), own.ino()) == (now.dev(), now.ino());
        Ok(same && now.len() >= self.file.stream_position()?)
    }

    fn read(&mut self, each: &mut impl FnMut(&Line)) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut reader = BufReader::new(io::Cursor::new(pending).chain(&self.file));
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line)? {
            if line.last() == Some(&b'\n') {
                each(&Line::read(&line));
            } else if line.len() < MAXIMUM_PENDING {
                self.pending = std::mem::take(&mut line);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const LINE: &str =
        "x 192.0.2.1 TLS_error:|268435612:SSL_routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end\n";

    fn count(follow: &mut Follow) -> usize {
        let mut count = 0;
        follow.read(|line| count += usize::from(matches!(line, Line::Failure(_)))).unwrap();
        count
    }

    #[test]
    fn a_log_is_followed_over_its_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut follow = Follow::new(&path, u64::MAX);
        assert!(follow.read(|_| {}).is_err(), "not there yet");
        fs::write(&path, LINE.repeat(3)).unwrap();
        assert_eq!(count(&mut follow), 3);
        assert_eq!(count(&mut follow), 0);
        let mut log = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let (half, rest) = LINE.split_at(40);
        log.write_all(half.as_bytes()).unwrap();
        assert_eq!(count(&mut follow), 0, "half a line");
        log.write_all(rest.as_bytes()).unwrap();
        assert_eq!(count(&mut follow), 1);

        // Renamed, written to once more, then replaced.
        fs::rename(&path, folder.path().join("log.1")).unwrap();
        log.write_all(LINE.as_bytes()).unwrap();
        assert_eq!(count(&mut follow), 1);
        log.write_all(LINE.as_bytes()).unwrap();
        fs::write(&path, LINE.repeat(2)).unwrap();
        assert_eq!(count(&mut follow), 3);

        // Cut in place, as `copytruncate` does.
        fs::write(&path, LINE).unwrap();
        assert_eq!(count(&mut follow), 1);
        assert_eq!(count(&mut follow), 0);
    }

    #[test]
    fn of_a_long_log_whole_lines_of_the_end_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, LINE.repeat(100)).unwrap();
        let length = u64::try_from(LINE.len()).unwrap();
        assert_eq!(count(&mut Follow::new(&path, 10 * length + 5)), 10);
        assert_eq!(count(&mut Follow::new(&path, 100 * length)), 100);
    }
}
