//! Finds what `outgate run` starts: the filter, cert-service, Envoy.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something that was not found, and how to get it.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// A file of our own build.
    #[error("cannot find `{file}` near `{executable}`; `make build` makes it, or name it by {variable}")]
    Built {
        /// The file.
        file: &'static str,
        /// Our executable.
        executable: PathBuf,
        /// The environment variable that names it.
        variable: &'static str,
    },
    /// A path that the operator gave.
    #[error("{source_name} names `{path}`, which is no file; correct it")]
    Given {
        /// The option or variable.
        source_name: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// No Envoy at all.
    #[error(
        "cannot find Envoy; name one by --envoy or ENVOY, put func-e on PATH, or let `make envoy` fetch one"
    )]
    Envoy,
}

/// `outgate.wasm`
pub fn wasm() -> Result<PathBuf, LocateError> {
    built("OUTGATE_WASM", "outgate.wasm", &["outgate.wasm", "wasm32-wasip1/wasm/outgate_filter.wasm"])
}

/// The cert-service executable.
pub fn cert_service() -> Result<PathBuf, LocateError> {
    built("OUTGATE_CERT_SERVICE", "cert-service", &["cert-service"])
}

/// Envoy: `--envoy`, `ENVOY`, func-e, the one that `make envoy` fetched.
pub fn envoy(option: Option<&Path>) -> Result<PathBuf, LocateError> {
    if let Some(path) = option {
        return given("--envoy", path.to_owned());
    }
    if let Some(path) = env::var_os("ENVOY").filter(|path| !path.is_empty()) {
        return given("ENVOY", path.into());
    }
    func_e().or_else(|| near_executable(&["envoy/envoy", "envoy"])).ok_or(LocateError::Envoy)
}

fn built(variable: &'static str, file: &'static str, places: &[&str]) -> Result<PathBuf, LocateError> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return given(variable, path.into());
    }
    near_executable(places).ok_or_else(|| LocateError::Built {
        file,
        executable: env::current_exe().unwrap_or_default(),
        variable,
    })
}

fn given(source_name: &'static str, path: PathBuf) -> Result<PathBuf, LocateError> {
    match path.canonicalize() {
        Ok(found) if found.is_file() => Ok(found),
        _ => Err(LocateError::Given { source_name, path }),
    }
}

/// Beside the executable, or in the folders around it: an installation, or cargo's target directory.
fn near_executable(places: &[&str]) -> Option<PathBuf> {
    let executable = env::current_exe().ok()?.canonicalize().ok()?;
    executable
        .ancestors()
        .skip(1)
        .take(3)
        .flat_map(|folder| places.iter().map(move |place| folder.join(place)))
        .find(|candidate| candidate.is_file())
        .and_then(|found| found.canonicalize().ok())
}

/// The Envoy that func-e would run, if it has one; never a download.
fn func_e() -> Option<PathBuf> {
    let output =
        Command::new("func-e").arg("which").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && path.is_file()).then_some(path)
}
