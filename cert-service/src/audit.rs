//! One JSON line per mint, denial and change, written by a thread of its own.

use std::io::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lines that wait while the reader stalls; beyond it they are dropped and counted.
const BACKLOG: usize = 8192;

/// The audit log. It never blocks who writes to it.
pub struct Audit {
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: AtomicU64,
}

/// What a line is about; the variant's name is the member `event`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The service is ready.
    Started {
        /// The Unix socket.
        socket: &'a str,
        /// The address of the operators' listener.
        http: &'a str,
        /// The address for Envoys on other machines.
        #[serde(skip_serializing_if = "Option::is_none")]
        listen: Option<&'a str>,
        /// The CA's short id.
        ca: &'a str,
        /// The version of this program.
        version: &'a str,
    },
    /// A CA was loaded and has passed its probe.
    CaLoaded {
        /// The pool; `*` is any.
        pool: &'a str,
        /// What it does there.
        state: &'a str,
        /// The CA's short id.
        ca: &'a str,
        /// Its subject.
        subject: &'a str,
        /// The kind of its key.
        key: &'a str,
        /// RFC 3339.
        not_after: &'a str,
        /// True if it was made just now.
        created: bool,
        /// The file that clients must trust.
        trust: &'a str,
    },
    /// A CA does something else in its pool than before.
    CaState {
        /// The pool; `*` is any.
        pool: &'a str,
        /// The CA's short id.
        ca: &'a str,
        /// Its subject.
        subject: &'a str,
        /// What it did; nothing if it was not there.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
        /// What it does.
        to: &'a str,
    },
    /// The pools were read again.
    Reload {
        /// `ok`, or `error` if the ones before go on.
        result: &'a str,
        /// What made us read them: `signal`, `file` or `order`.
        cause: &'a str,
        /// What was wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        /// Leases that get a new leaf.
        replaced: usize,
        /// Leases that were taken back.
        withdrawn: usize,
    },
    /// Something works but should not stay so.
    Warning {
        /// What.
        message: &'a str,
    },
    /// A leaf was minted.
    Mint {
        /// The name as Envoy asked for it.
        name: &'a str,
        /// The name on the leaf.
        host: &'a str,
        /// The pool that signed.
        pool: &'a str,
        /// Hexadecimal.
        serial: &'a str,
        /// Hexadecimal.
        sha256: &'a str,
        /// RFC 3339.
        not_before: &'a str,
        /// RFC 3339.
        not_after: &'a str,
        /// The CA's short id.
        ca: &'a str,
        /// Why now: `asked` or `renewal`.
        cause: &'a str,
        /// Envoy's node id.
        node: &'a str,
    },
    /// A name or a grant was refused.
    Denial {
        /// The name as it was asked for, cut if it is long.
        name: &'a str,
        /// The pool, if one was named.
        #[serde(skip_serializing_if = "Option::is_none")]
        pool: Option<&'a str>,
        /// A stable reason.
        reason: &'a str,
        /// Envoy's node id, for a name that Envoy asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<&'a str>,
    },
    /// Envoy did not accept what we sent.
    Nack {
        /// Envoy's node id.
        node: &'a str,
        /// What Envoy said.
        message: &'a str,
    },
    /// A client of `--listen` was turned away.
    PeerRefused {
        /// Its address.
        peer: &'a str,
        /// Why.
        message: &'a str,
    },
    /// Leases were taken back.
    Withdrawn {
        /// A stable reason.
        reason: &'a str,
        /// The host, if it was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<&'a str>,
        /// How many.
        leases: usize,
    },
    /// A stream of Envoy's began, went on with what Envoy held before, or ended.
    Stream {
        /// `opened`, `resumed` or `closed`.
        state: &'a str,
        /// Envoy's node id.
        node: &'a str,
        /// Names that it held before and may go on with.
        kept: usize,
    },
    /// The service ends.
    Stopped {
        /// What made it end.
        cause: &'a str,
        /// Whether all connections ended in time.
        drained: bool,
    },
}

impl Audit {
    /// An audit log that writes to `out`.
    pub fn new(mut out: impl Write + Send + 'static) -> std::io::Result<Audit> {
        let (lines, queue) = sync_channel::<Vec<u8>>(BACKLOG);
        let writer = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for line in queue {
                // A reader that is gone takes its log with it; certificates go on.
                let _ = out.write_all(&line).and_then(|()| out.flush());
            }
        })?;
        Ok(Audit {
            lines: Mutex::new(Some(lines)),
            writer: Mutex::new(Some(writer)),
            dropped: AtomicU64::new(0),
        })
    }

    /// Writes one line.
    pub fn log(&self, event: &Event<'_>) {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        self.write(&Line { time: moment(), event });
    }

    /// Writes a line that has its own time and event.
    pub fn write(&self, line: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(line) else { return };
        line.push(b'\n');
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = lines.as_ref().map(|lines| lines.try_send(line));
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped because their reader stalled.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits and ends; blocks as long as the reader does.
    pub fn close(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // The writer does not panic; if it did there would be nothing to do about it.
            let _ = writer.join();
        }
    }
}

/// Now, to the millisecond.
fn moment() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// The part of a foreign text that a line may hold.
pub fn excerpt(text: &str) -> &str {
    const LIMIT: usize = 300;
    let end = text.char_indices().map(|(start, _)| start).find(|&start| start >= LIMIT);
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}
