//! PEM, read leniently and written in buffers that are wiped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// One block of a PEM file.
pub struct PemBlock {
    /// What stands after `BEGIN`.
    pub label: String,
    /// True if the block says that it is encrypted.
    pub encrypted: bool,
    /// The decoded bytes; empty if the block is encrypted in the manner of RFC 1421.
    pub der: Zeroizing<Vec<u8>>,
}

/// Why a PEM file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// There is no block at all.
    #[error(
        "it holds no PEM block (is it DER? convert it with `openssl x509 -inform der` or `openssl pkey -inform der`)"
    )]
    Empty,
    /// A block begins and does not end.
    #[error("the PEM block `{0}` has no end line (is the file cut off?)")]
    Unfinished(String),
    /// The text between the lines is not base64.
    #[error("the PEM block `{0}` is not base64 (was it pasted with extra characters?)")]
    NotBase64(String),
}

/// Reads every block; text around the blocks is ignored.
pub fn decode(text: &[u8]) -> Result<Vec<PemBlock>, PemError> {
    let mut blocks = Vec::new();
    let mut open: Option<OpenBlock> = None;
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        match &mut open {
            None => {
                open = label_of(line, "-----BEGIN ").map(|label| OpenBlock {
                    label,
                    encrypted: false,
                    // No growth while it fills: a grown buffer leaves its old copy behind.
                    base64: Zeroizing::new(Vec::with_capacity(text.len())),
                });
            }
            Some(_) if line.starts_with(b"-----END ") => {
                if let Some(block) = open.take() {
                    blocks.push(block.close()?);
                }
            }
            Some(block) if line.contains(&b':') => {
                block.encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
            }
            Some(block) if line.starts_with(b"DEK-Info") => block.encrypted = true,
            Some(block) => block.base64.extend_from_slice(line),
        }
    }
    match open {
        Some(block) => Err(PemError::Unfinished(block.label)),
        None if blocks.is_empty() => Err(PemError::Empty),
        None => Ok(blocks),
    }
}

/// Writes one block with lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    const BYTES_OF_A_LINE: usize = 48;
    let lines = der.len().div_ceil(BYTES_OF_A_LINE);
    let mut text =
        Zeroizing::new(String::with_capacity(lines.saturating_mul(65).saturating_add(2 * label.len()) + 40));
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    for line in der.chunks(BYTES_OF_A_LINE) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
    text
}

struct OpenBlock {
    label: String,
    encrypted: bool,
    base64: Zeroizing<Vec<u8>>,
}

impl OpenBlock {
    fn close(self) -> Result<PemBlock, PemError> {
        let der = if self.encrypted {
            Vec::new()
        } else {
            let Ok(der) = STANDARD.decode(self.base64.as_slice()) else {
                return Err(PemError::NotBase64(self.label));
            };
            der
        };
        Ok(PemBlock { label: self.label, encrypted: self.encrypted, der: Zeroizing::new(der) })
    }
}

fn label_of(line: &[u8], prefix: &str) -> Option<String> {
    let rest = line.strip_prefix(prefix.as_bytes())?;
    let label = rest.strip_suffix(b"-----")?;
    std::str::from_utf8(label).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let der: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let text = format!("a comment: of a tool\n{}", encode("THING", &der).as_str());
            let blocks = decode(text.replace('\n', "\r\n").as_bytes()).unwrap();
            assert_eq!(blocks.len(), 1);
            assert_eq!((blocks[0].label.as_str(), blocks[0].der.as_slice()), ("THING", &der[..]));
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("", "holds no PEM block"),
            ("\u{0}\u{1}", "holds no PEM block"),
            ("-----BEGIN A-----\nAAAA\n", "`A` has no end line"),
            ("-----BEGIN A-----\n!!\n-----END A-----\n", "`A` is not base64"),
        ] {
            let error = decode(text.as_bytes()).err().unwrap().to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }
}
