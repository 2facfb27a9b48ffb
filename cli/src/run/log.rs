//! Sorts what Envoy prints: lines of the filter to the log, the rest to Envoy's own log file.
//!
//! Envoy's output is always read, so that a log that stalls never holds a worker: lines that the
//! writer cannot take are dropped and counted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::rejections::{Rejected, Rejections};

/// Lines that may wait for a slow reader of the log.
const WAITING: usize = 65_536;

/// The log of decisions and handshake failures.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    rejected: Arc<Mutex<(Rejections, Vec<Rejected>)>>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// The file was renamed: go on in a new one of the old name.
    Reopen,
}

impl DecisionLog {
    /// Appends to `file`, or to standard output.
    pub fn open(file: Option<&Path>) -> io::Result<Self> {
        let file = file.map(Path::to_owned);
        let mut sink = open(file.as_deref())?;
        let (sender, messages) = sync_channel(WAITING);
        thread::spawn(move || {
            for message in messages {
                match message {
                    // Whoever reads the log may be gone; the proxy goes on.
                    Message::Line(line) => {
                        let _reader_gone = sink.write_all(line.as_bytes()).and_then(|()| sink.flush());
                    }
                    Message::Reopen => match open(file.as_deref()) {
                        Ok(new) => sink = new,
                        Err(error) => eprintln!(
                            "outgate: cannot open the log anew: {error}; going on with the old file"
                        ),
                    },
                }
            }
        });
        Ok(Self { messages: sender, dropped: Arc::default(), rejected: Arc::default() })
    }

    /// Goes on in a new file of the same name; no line is lost.
    pub fn reopen(&self) {
        let _writer_gone = self.messages.send(Message::Reopen);
    }

    /// How many lines found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hosts whose clients reject our certificates, each once.
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut rejected.1)
    }

    fn write(&self, line: &str) {
        {
            let (rejections, rejected) = &mut *self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
            rejected.extend(rejections.note(line));
        }
        match self.messages.try_send(Message::Line(format!("{line}\n"))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Reads Envoy's output to its end on a thread of its own.
    pub fn sort(&self, output: impl Read + Send + 'static, mut rest: File) {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line);
                match filter_line(&line) {
                    Some(json) => log.write(json),
                    None => {
                        let _disk_full = writeln!(rest, "{line}");
                    }
                }
            }
        });
    }
}

fn open(file: Option<&Path>) -> io::Result<Box<dyn Write + Send>> {
    Ok(match file {
        Some(path) => Box::new(File::options().create(true).append(true).open(path)?),
        None => Box::new(io::stdout()),
    })
}

/// The JSON object of a line that the filter logged, `… wasm log <plugin>: {…}`, or that Envoy's own access log wrote.
fn filter_line(line: &str) -> Option<&str> {
    if line.starts_with("{\"") {
        return Some(line).filter(|json| json.ends_with('}'));
    }
    let (_, message) = line.split_once("wasm log")?;
    let (_, object) = message.split_once(": {\"")?;
    let start = line.len().checked_sub(object.len() + 2)?;
    line.get(start..).filter(|json| json.ends_with('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_filter_go_to_the_log() {
        for (line, expected) in [
            (r#"[info][wasm] wasm log explicit outgate: {"a":1}"#, Some(r#"{"a":1}"#)),
            (r#"[info][wasm] wasm log explicit: {"a":": {\"b"}"#, Some(r#"{"a":": {\"b"}"#)),
            (r#"{"event":{"action":"outgate.request"}}"#, Some(r#"{"event":{"action":"outgate.request"}}"#)),
            ("[info][wasm] wasm log explicit: policy 0123456789abcdef with 2 rules compiled in 1 ms", None),
            (r#"[warning][config] {"a":1}"#, None),
        ] {
            assert_eq!(filter_line(line), expected, "{line}");
        }
    }
}
