//! `outgate explain-tls`: why TLS handshakes failed, from whatever somebody has of it.

mod alert;
mod certificate;
pub mod line;
mod openssl;
mod pages;
mod reading;
mod recognise;
pub mod totals;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use certificate::{CertificateInputError, Examination, Trust};
use reading::Reading;
use recognise::recognise;
use totals::Totals;

/// No PEM is longer.
const MAXIMUM_PEM: u64 = 4 * 1024 * 1024;

/// What `outgate explain-tls` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  outgate explain-tls 'TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end'
  outgate explain-tls 1000007d
  outgate explain-tls alert 48
  outgate explain-tls client.pem --ca clients-ca.pem
  kubectl logs ingress | outgate explain-tls

Status: 0 explained; 1 nothing of it was recognised; 2 it could not be read.")]
pub struct ExplainTlsArgs {
    /// Envoy's reason, a code of BoringSSL or OpenSSL, an alert, a name; or files: logs, or a certificate in PEM; `-` is
    /// standard input [default: standard input]
    #[arg(value_name = "TEXT|FILE")]
    input: Vec<String>,
    /// Certificates: the CAs that the listener trusts
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Certificates: the CRLs of these CAs
    #[arg(long, value_name = "PEM", requires = "ca")]
    crl: Option<PathBuf>,
    /// Certificates: the time of the handshake, as 2026-11-23T03:00:00Z, 2026-11-23 or seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<OffsetDateTime>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Why nothing could be explained.
#[derive(Debug, thiserror::Error)]
enum ExplainTlsError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    /// Nothing was given.
    #[error(
        "nothing to explain; give a reason, a code, an alert or a file, or pipe a log into it (--help has examples)"
    )]
    Nothing,
    /// A text is nothing that is known.
    #[error(
        "`{0}` is no reason of Envoy, no code of BoringSSL or OpenSSL, no alert, no PEM and no file that exists; quote a reason, its `|` and `:` included"
    )]
    Unknown(String),
    /// A log tells of no failure.
    #[error(
        "{lines} lines, {malformed} of them broken JSON, and none tells of a failed handshake; \
         does the access log of the *listener* print %DOWNSTREAM_TRANSPORT_FAILURE_REASON%?"
    )]
    NoFailure { lines: u64, malformed: u64 },
    /// A certificate could not be looked at.
    #[error(transparent)]
    Certificate(#[from] CertificateInputError),
}

/// Explains on standard output.
pub fn run(args: &ExplainTlsArgs) -> ExitCode {
    let explained = explain(args).and_then(|text| {
        let written = io::stdout().lock().write_all(text.as_bytes());
        match written {
            // Whoever reads has seen enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(ExplainTlsError::Read { path: PathBuf::from("standard output"), error })
            }
            _ => Ok(()),
        }
    });
    let Err(error) = explained else { return ExitCode::SUCCESS };
    eprintln!("outgate: {error}");
    match error {
        ExplainTlsError::Read { .. } | ExplainTlsError::Nothing => ExitCode::from(2),
        ExplainTlsError::Certificate(_) | ExplainTlsError::Unknown(_) | ExplainTlsError::NoFailure { .. } => {
            ExitCode::FAILURE
        }
    }
}

fn explain(args: &ExplainTlsArgs) -> Result<String, ExplainTlsError> {
    if args.input.is_empty() {
        if io::stdin().is_terminal() {
            return Err(ExplainTlsError::Nothing);
        }
        return explain_files(args, &[PathBuf::from("-")]);
    }
    let files: Vec<PathBuf> = args.input.iter().map(PathBuf::from).collect();
    // The first decides: of several logs, one that is missing is an error and no text.
    if files.first().is_some_and(|path| is_standard_input(path) || path.exists()) {
        return explain_files(args, &files);
    }
    // Words that the shell took apart.
    let text = args.input.join(" ");
    if is_certificate(text.as_bytes()) {
        return explain_certificate(args, text.as_bytes());
    }
    explain_text(args, &text).ok_or_else(|| ExplainTlsError::Unknown(line::printable(&text, 200)))
}

/// Logs, all together, or a certificate.
fn explain_files(args: &ExplainTlsArgs, files: &[PathBuf]) -> Result<String, ExplainTlsError> {
    let mut totals = Totals::default();
    let mut first = String::new();
    for path in files {
        let failed = |error| ExplainTlsError::Read { path: path.clone(), error };
        let mut reader = open(path).map_err(failed)?;
        if is_certificate(reader.fill_buf().map_err(failed)?) {
            let mut pem = Vec::new();
            reader.take(MAXIMUM_PEM).read_to_end(&mut pem).map_err(failed)?;
            return explain_certificate(args, &pem);
        }
        let mut kept = Kept { reader, first: Vec::new() };
        totals.read(BufReader::with_capacity(1 << 16, &mut kept)).map_err(failed)?;
        first = String::from_utf8_lossy(&kept.first).into_owned();
    }
    // A single line is a question of its own, of which more is said than one row of a table.
    if totals.lines() == 1
        && let Some(answer) = explain_text(args, &first)
    {
        return Ok(answer);
    }
    if !totals.recognised() && is_certificate(first.as_bytes()) {
        // Its beginning came late, as from `openssl s_client -showcerts`.
        return explain_certificate(args, first.as_bytes());
    }
    if !totals.recognised() {
        return Err(ExplainTlsError::NoFailure { lines: totals.lines(), malformed: totals.malformed() });
    }
    Ok(if args.json { totals.json().to_string() + "\n" } else { totals.text() })
}

fn explain_text(args: &ExplainTlsArgs, text: &str) -> Option<String> {
    let readings = match line::Line::read(text.as_bytes()) {
        line::Line::Failure(failed) if text.trim_start().starts_with('{') => {
            let mut reading = Reading::exact("a line of a log", failed.sub_reason);
            reading.failure.certainty = failed.certainty;
            vec![reading]
        }
        _ => recognise(text),
    };
    if readings.is_empty() {
        return None;
    }
    Some(if args.json {
        let values: Vec<_> = readings.iter().map(Reading::json).collect();
        json!({"kind": "reason", "input": line::printable(text.trim(), 4096), "readings": values}).to_string()
            + "\n"
    } else {
        readings.iter().map(Reading::text).collect::<Vec<_>>().join("\n")
    })
}

fn explain_certificate(args: &ExplainTlsArgs, pem: &[u8]) -> Result<String, ExplainTlsError> {
    let read = |path: &Option<PathBuf>| {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| ExplainTlsError::Read { path: path.clone(), error })
        };
        path.as_ref().map(read).transpose()
    };
    let (authorities, revocation_lists) = (read(&args.ca)?, read(&args.crl)?);
    let at = args.at.unwrap_or_else(OffsetDateTime::now_utc);
    let trust = Trust { authorities: authorities.as_deref(), revocation_lists: revocation_lists.as_deref() };
    let examination = Examination::of(pem, at, trust)?;
    Ok(if args.json { examination.json().to_string() + "\n" } else { examination.text() })
}

/// Whether PEM begins within this: logs that quote certificates do so within a line.
fn is_certificate(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().any(|line| {
        let line = line.trim_start().trim_start_matches('"');
        line.starts_with("-----BEGIN ") || line.starts_with("-----BEGIN%20")
    })
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    Ok(if is_standard_input(path) {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, File::open(path)?))
    })
}

/// Keeps the beginning of what is read through it.
struct Kept<R> {
    reader: R,
    first: Vec<u8>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const KEPT: usize = 1 << 16;
        let count = self.reader.read(buffer)?;
        let room = KEPT.saturating_sub(self.first.len()).min(count);
        self.first.extend(buffer.iter().take(room));
        Ok(count)
    }
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    let seconds = || text.parse().ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339))
        .ok()
        .or_else(seconds)
        .ok_or_else(|| "write it as 2026-11-23T03:00:00Z, 2026-11-23 or seconds since 1970".to_owned())
}

#[cfg(test)]
mod tests;
