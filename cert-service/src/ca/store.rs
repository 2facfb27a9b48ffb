//! Files of the state directory: written whole or not at all, keys for our eyes only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::CaError;

/// Runs `action` while no other process does the same in this directory, which it creates.
pub(super) fn with_lock<T>(state: &Path, action: impl FnOnce() -> Result<T, CaError>) -> Result<T, CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(failed("create the directory", state))?;
    let path = state.join(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("create", &path))?;
    lock.lock().map_err(failed("lock", &path))?;
    action()
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    fs::read(path).map_err(failed("read", path))
}

/// Reads a private key, unless others could too.
pub(crate) fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CaError::KeyExposed { path: path.to_owned(), mode });
    }
    read(path).map(Zeroizing::new)
}

/// Reads a passphrase, the first line of its file, unless others could too.
pub(super) fn read_passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let mut text = read_key(path)?;
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(text.len());
    text.truncate(end);
    Ok(text)
}

/// Writes a file that everyone may read, unless it says the same already.
pub(super) fn write_if_changed(path: &Path, contents: &[u8]) -> Result<(), CaError> {
    if fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    write(path, contents, 0o644)
}

/// Writes a file through a temporary one beside it.
pub(super) fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), CaError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = Path::new(&name);
    // Left behind by a process of the same number that was killed.
    let _ = fs::remove_file(temporary);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(temporary, path))
        // The rename is durable once the directory is.
        .and_then(|()| path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()));
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written.map_err(failed("write", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CaError {
    move |source| CaError::File { action, path: path.to_owned(), source }
}
