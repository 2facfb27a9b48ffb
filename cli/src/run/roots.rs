//! The roots that origins of inspected requests must chain to.

use std::fs;
use std::io;
use std::path::PathBuf;

use outgate_policy::Engine;
use pem::Pem;

const CERTIFICATE: &str = "CERTIFICATE";

/// Why the roots could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file that cannot be read.
    #[error("cannot read the roots `{}` of {source_name}: {error}", .path.display())]
    Read {
        /// The option or key that names it.
        source_name: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No certificate in it.
    #[error("{source_name} holds no certificate; give PEM with `-----BEGIN CERTIFICATE-----`")]
    Empty {
        /// The option or key.
        source_name: String,
    },
}

/// All roots as PEM: Mozilla's unless the policy excludes them, the policy's own, the operator's.
pub fn pem(engine: &Engine, upstream_cas: &[PathBuf]) -> Result<String, RootsError> {
    let mut certificates: Vec<Pem> = Vec::new();
    let policy = engine.document().tls_inspection.as_ref();
    if !policy.is_some_and(|policy| policy.exclude_public_ca_set) {
        certificates.extend(
            webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| Pem::new(CERTIFICATE, der.as_ref())),
        );
    }
    if let Some(trust) = policy.and_then(|policy| policy.trust.as_ref()) {
        let source_name = format!("outgate.trustConfigs `{}`", trust.name);
        let text = match (&trust.pem, &trust.pem_file) {
            (Some(pem), _) => pem.clone(),
            (None, Some(path)) => read(&source_name, path.into())?,
            (None, None) => String::new(),
        };
        certificates.extend(parse(&source_name, &text)?);
    }
    for path in upstream_cas {
        let source_name = format!("--upstream-ca {}", path.display());
        let text = read(&source_name, path.clone())?;
        certificates.extend(parse(&source_name, &text)?);
    }
    Ok(pem::encode_many(&certificates))
}

fn read(source_name: &str, path: PathBuf) -> Result<String, RootsError> {
    fs::read_to_string(&path).map_err(|error| RootsError::Read {
        source_name: source_name.to_owned(),
        path,
        error,
    })
}

fn parse(source_name: &str, text: &str) -> Result<Vec<Pem>, RootsError> {
    let certificates: Vec<Pem> = pem::parse_many(text)
        .unwrap_or_default()
        .into_iter()
        .filter(|pem| pem.tag() == CERTIFICATE)
        .collect();
    if certificates.is_empty() {
        return Err(RootsError::Empty { source_name: source_name.to_owned() });
    }
    Ok(certificates)
}
