//! PEM files that operators give: each is looked at before Envoy stumbles over it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a PEM file does not serve.
#[derive(Debug, thiserror::Error)]
pub enum PemFileError {
    /// It cannot be read.
    #[error("cannot read `{}` of {option}: {error}", .path.display())]
    Read {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It holds something else.
    #[error("`{}` of {option} has no `-----BEGIN {tag}-----`; give such a PEM file", .path.display())]
    Content {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        tag: &'static str,
    },
}

/// Checks that a file has a PEM block whose tag ends like this.
pub fn check(option: &'static str, path: &Path, tag: &'static str) -> Result<(), PemFileError> {
    let text = fs::read(path).map_err(|error| PemFileError::Read { option, path: path.to_owned(), error })?;
    let blocks = pem::parse_many(&text).unwrap_or_default();
    if blocks.iter().any(|block| block.tag().ends_with(tag)) {
        Ok(())
    } else {
        Err(PemFileError::Content { option, path: path.to_owned(), tag })
    }
}
