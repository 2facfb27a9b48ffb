//! Envoys on other machines: TCP with mutual TLS, for those whose certificate has an allowed name.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::ca::{CaError, read_key};
use crate::pools::{Sight, sight};

/// The part of the command line that says how Envoys on other machines reach us.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ListenOptions {
    /// TCP address for ADS, SDS and grants, with mutual TLS: private keys go over it.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The certificate chain that --listen shows, as PEM.
    #[arg(long, value_name = "PEM", requires_all = ["listen", "listen_key", "listen_client_ca"])]
    pub listen_cert: Option<PathBuf>,
    /// The key of --listen-cert.
    #[arg(long, value_name = "PEM", requires = "listen_cert")]
    pub listen_key: Option<PathBuf>,
    /// The CAs of the certificates that Envoys show to --listen.
    #[arg(long, value_name = "PEM", requires_all = ["listen_cert", "allow_san"])]
    pub listen_client_ca: Option<PathBuf>,
    /// A DNS name or URI (SPIFFE) that an Envoy's certificate may have; may be repeated.
    #[arg(long, value_name = "NAME", requires = "listen_client_ca")]
    pub allow_san: Vec<String>,
    /// Listen without TLS although the address is not loopback: whoever can read along has the keys of every leaf.
    #[arg(long, requires = "listen", conflicts_with = "listen_cert")]
    pub insecure_plaintext: bool,
}

/// Why nothing listens on TCP.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No TLS where others could read along.
    #[error(
        "`--listen {0}` has no TLS and is not loopback: private keys go over it, so give `--listen-cert`, `--listen-key`, `--listen-client-ca` and `--allow-san`, or insist with `--insecure-plaintext`"
    )]
    Plaintext(SocketAddr),
    /// A file of certificates cannot be read.
    #[error("cannot use `{}`: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The key file cannot be read, or others can read it too.
    #[error(transparent)]
    Key(#[from] CaError),
    /// The address is taken or not ours.
    #[error("cannot listen on `{address}`: {source}: choose another `--listen`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a client was turned away.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No handshake.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// A certificate of a CA that we trust, of somebody else.
    #[error(
        "the client's certificate is for {0}: add one of its names with `--allow-san`, if it is an Envoy of yours"
    )]
    NotAllowed(String),
}

/// How connections over TCP are made.
pub enum Security {
    /// With mutual TLS.
    Tls(Box<Tls>),
    /// Without any.
    Plaintext,
}

/// Mutual TLS whose files are read again when they change.
pub struct Tls {
    files: TlsFiles,
    allowed: Vec<String>,
    current: Mutex<(Vec<Sight>, Arc<ServerConfig>)>,
}

#[derive(Clone)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

impl ListenOptions {
    /// How `--listen` is protected; refuses plaintext that others could read.
    pub fn security(&self, address: SocketAddr) -> Result<Security, TransportError> {
        match (&self.listen_cert, &self.listen_key, &self.listen_client_ca) {
            (Some(certificate), Some(key), Some(client_ca)) => {
                let files = TlsFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_ca: client_ca.clone(),
                };
                let current = Mutex::new((files.look(), files.read()?));
                Ok(Security::Tls(Box::new(Tls { files, allowed: self.allow_san.clone(), current })))
            }
            _ if self.insecure_plaintext || address.ip().is_loopback() => Ok(Security::Plaintext),
            _ => Err(TransportError::Plaintext(address)),
        }
    }
}

impl Tls {
    /// Shakes hands; only who shows an allowed name gets through.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, PeerError> {
        let stream = TlsAcceptor::from(self.configuration()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let names = session.peer_certificates().and_then(<[_]>::first).map(names).unwrap_or_default();
        if names.iter().any(|name| self.allowed.iter().any(|allowed| is_same(allowed, name))) {
            Ok(stream)
        } else {
            let names: Vec<String> = names.iter().map(|name| format!("`{}`", name.escape_debug())).collect();
            Err(PeerError::NotAllowed(if names.is_empty() { "no name".to_owned() } else { names.join(", ") }))
        }
    }

    /// The configuration; files that changed are read again, and if they are not right those before go on.
    fn configuration(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.files.look();
        if seen != current.0
            && let Ok(configuration) = self.files.read()
        {
            *current = (seen, configuration);
        }
        current.1.clone()
    }
}

impl TlsFiles {
    fn look(&self) -> Vec<Sight> {
        [&self.certificate, &self.key, &self.client_ca].map(|path| sight(path)).into()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TransportError> {
        let wrong = |path: &Path, detail: String| TransportError::File { path: path.to_owned(), detail };
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.client_ca)? {
            roots.add(root).map_err(|error| wrong(&self.client_ca, error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| wrong(&self.client_ca, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&read_key(&self.key)?)
            .map_err(|error| wrong(&self.key, error.to_string()))?;
        let mut configuration = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(|error| wrong(&self.certificate, error.to_string()))?;
        configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(configuration))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let wrong = |detail: String| TransportError::File { path: path.to_owned(), detail };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(found) }
}

/// The DNS names and URIs of a certificate; its common name does not count (RFC 9525, 6.3).
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

/// DNS names know no case, URIs do.
fn is_same(allowed: &str, name: &str) -> bool {
    allowed == name || !allowed.contains(':') && allowed.eq_ignore_ascii_case(name)
}
