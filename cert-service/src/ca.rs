//! The CA that signs: a development CA of our own, or one that the operator brings.

mod development;
pub mod facts;
pub mod key;
mod store;
#[cfg(feature = "pkcs11")]
mod token;

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::certificate::hex;
use crate::leaf;
use crate::pem::{self, PemError};
pub(crate) use store::read_key;

use facts::CaCertificate;
use key::{KeyError, KeyKind, SigningKey};

/// Where clients find the certificate that they must trust.
pub const TRUST_FILE: &str = "ca.pem";
/// Where the development CA keeps its key and, in the same file, its certificate.
pub const KEY_FILE: &str = "ca-key.pem";
/// The development CA that is to sign next, once clients trust it; like [`KEY_FILE`].
pub const NEXT_KEY_FILE: &str = "ca-key-next.pem";
/// The development CA that signed before; like [`KEY_FILE`].
pub const DRAINING_KEY_FILE: &str = "ca-key-draining.pem";

/// Where the parts of a CA are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFiles {
    /// The certificate, then its intermediates, as PEM.
    pub certificate: PathBuf,
    /// The private key.
    pub key: KeyPlace,
    /// The file whose first line is the passphrase of the key, or the PIN of its token.
    pub passphrase: Option<PathBuf>,
}

/// Where a private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// A PEM file.
    File(PathBuf),
    /// A PKCS#11 token.
    Token(TokenKey),
}

/// A key on a PKCS#11 token.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// The library of the token's maker.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The label of the key, private and public.
    pub key: String,
}

impl KeyPlace {
    fn open(&self, passphrase: Option<&Path>) -> Result<SigningKey, CaError> {
        match self {
            KeyPlace::File(path) => {
                let passphrase = passphrase.map(store::read_passphrase).transpose()?;
                let text = store::read_key(path)?;
                pem::decode(&text)
                    .map_err(KeyError::from)
                    .and_then(|blocks| {
                        SigningKey::from_blocks(&blocks, passphrase.as_deref().map(Vec::as_slice))
                    })
                    .map_err(|source| CaError::Key { path: path.clone(), source })
            }
            #[cfg(feature = "pkcs11")]
            KeyPlace::Token(key) => token::open(key, passphrase),
            #[cfg(not(feature = "pkcs11"))]
            KeyPlace::Token(key) => {
                Err(CaError::Key { path: key.module.clone(), source: KeyError::NoTokens })
            }
        }
    }
}

/// A CA that has proved that it can sign what clients accept.
pub struct Ca {
    id: String,
    fingerprint: String,
    issuing: CaCertificate,
    key: SigningKey,
    chain_pem: String,
    trust_pem: String,
    trust_der: Vec<u8>,
    not_after: OffsetDateTime,
    warnings: Vec<String>,
    created: bool,
}

/// Why a CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key can be read by others.
    #[error(
        "other users can reach the private key `{}` (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display()
    )]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The certificate file is no PEM.
    #[error("cannot read the certificates of `{}`: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PemError,
    },
    /// The key file holds no usable key.
    #[error("cannot use the private key of `{}`: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// There is no certificate.
    #[error(
        "`{}` holds no certificate: it must hold the issuing CA's, then its intermediates, as PEM", path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be parsed.
    #[error("certificate {number} of `{}` is not valid DER: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its place, from 1.
        number: usize,
        /// What is wrong.
        detail: String,
    },
    /// The key belongs to no certificate.
    #[error(
        "the private key belongs to none of the certificates of `{}`: give the key of the issuing CA, whose subject is `{subject}`", path.display()
    )]
    KeyMismatch {
        /// The file.
        path: PathBuf,
        /// The first certificate's subject.
        subject: String,
    },
    /// Not a CA.
    #[error(
        "`{subject}` is not a CA certificate (no basicConstraints CA:TRUE): issue it from a template for subordinate CAs"
    )]
    NotCa {
        /// Whose certificate.
        subject: String,
    },
    /// The certificate's key must not sign certificates.
    #[error(
        "`{subject}` may not sign certificates (its keyUsage lacks keyCertSign): issue it again with keyCertSign"
    )]
    NoCertSign {
        /// Whose certificate.
        subject: String,
    },
    /// No subject key identifier.
    #[error(
        "`{subject}` has no subject key identifier, so strict clients would refuse its leaves: issue it again with one"
    )]
    NoKeyId {
        /// Whose certificate.
        subject: String,
    },
    /// Over, or not yet begun.
    #[error(
        "`{subject}` is valid from {not_before} to {not_after} and it is {now}: renew it, or set the clock"
    )]
    NotValidNow {
        /// Whose certificate.
        subject: String,
        /// Its first second.
        not_before: String,
        /// Its last second.
        not_after: String,
        /// The time now.
        now: String,
    },
    /// More CAs below than allowed.
    #[error(
        "`{subject}` allows {allowed} CAs below it and there are {below}: issue it again with a longer path length"
    )]
    PathTooLong {
        /// Whose certificate.
        subject: String,
        /// Its path length.
        allowed: u32,
        /// The CAs below it.
        below: usize,
    },
    /// A signature by SHA-1.
    #[error("`{subject}` is signed with SHA-1, which clients refuse: issue it again with SHA-256")]
    Sha1 {
        /// Whose certificate.
        subject: String,
    },
    /// A short RSA key.
    #[error(
        "`{subject}` has an RSA key of {bits} bits, which clients refuse: use P-256, or RSA of 2048 bits or more"
    )]
    WeakKey {
        /// Whose certificate.
        subject: String,
        /// Its size.
        bits: usize,
    },
    /// The probe leaf was not what it should be.
    #[error("a probe certificate by `{subject}` is not right: {detail}")]
    Probe {
        /// Whose certificate.
        subject: String,
        /// What is wrong.
        detail: String,
    },
}

impl Ca {
    /// The development CA of this state directory, created there the first time.
    pub fn development(state: &Path, now: OffsetDateTime) -> Result<Ca, CaError> {
        let created = store::with_lock(state, || development::ensure(state, now))?;
        let key_path = state.join(KEY_FILE);
        let key_text = store::read_key(&key_path)?;
        // The key's own file has the certificate too: the other file names whom clients trust,
        // and that is somebody else after a run with `--ca`.
        let certificates_path = match certificates(&key_path, &key_text)? {
            found if found.is_empty() => state.join(TRUST_FILE),
            _ => key_path.clone(),
        };
        let files =
            CaFiles { certificate: certificates_path, key: KeyPlace::File(key_path), passphrase: None };
        let mut ca = Ca::open(&files, now)?;
        ca.created = created;
        ca.warnings.clear();
        publish(state, &ca.trust_pem)?;
        Ok(ca)
    }

    /// The operator's CA; what clients must trust is published in the state directory.
    pub fn supplied(chain: &Path, key: &Path, state: &Path, now: OffsetDateTime) -> Result<Ca, CaError> {
        let files =
            CaFiles { certificate: chain.to_owned(), key: KeyPlace::File(key.to_owned()), passphrase: None };
        let ca = Ca::open(&files, now)?;
        publish(state, &ca.trust_pem)?;
        Ok(ca)
    }

    /// Reads, checks, and mints a leaf for nobody as a probe.
    pub fn open(files: &CaFiles, now: OffsetDateTime) -> Result<Ca, CaError> {
        let chain_path = files.certificate.as_path();
        let key = files.key.open(files.passphrase.as_deref())?;
        let found = certificates(chain_path, &store::read(chain_path)?)?;
        let chain = Chain::build(chain_path, found, &key)?;
        chain.check(now)?;
        let warnings = chain.warnings(&key, now);
        let Chain { issuing, above, .. } = chain;

        let trusted = above.last().unwrap_or(&issuing);
        let trust_pem = pem::encode("CERTIFICATE", &trusted.der).to_string();
        let trust_der = trusted.der.clone();
        let chain_pem = std::iter::once(&issuing)
            .chain(&above)
            .filter(|certificate| !certificate.is_root())
            .map(|certificate| pem::encode("CERTIFICATE", &certificate.der).to_string())
            .collect();
        let not_after = above
            .iter()
            .map(|certificate| certificate.not_after)
            .fold(issuing.not_after, OffsetDateTime::min);
        let fingerprint = hex(digest::digest(&digest::SHA256, &issuing.der).as_ref());
        let ca = Ca {
            id: fingerprint.chars().take(16).collect(),
            fingerprint,
            issuing,
            key,
            chain_pem,
            trust_pem,
            trust_der,
            not_after,
            warnings,
            created: false,
        };
        leaf::probe(&ca, now)
            .map_err(|detail| CaError::Probe { subject: ca.subject_text().to_owned(), detail })?;
        Ok(ca)
    }

    /// The first 16 hexadecimal digits of the issuing certificate's SHA-256.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The issuing certificate's SHA-256, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The issuing certificate's subject as people write it.
    pub fn subject_text(&self) -> &str {
        &self.issuing.subject_text
    }

    /// The issuing certificate's subject, byte for byte.
    pub fn subject(&self) -> &[u8] {
        &self.issuing.subject
    }

    /// The issuing certificate in DER.
    pub fn issuing_der(&self) -> &[u8] {
        &self.issuing.der
    }

    /// The issuing certificate's subject key identifier.
    pub fn key_id(&self) -> &[u8] {
        // Loading refuses a certificate without one.
        self.issuing.key_id.as_deref().unwrap_or_default()
    }

    /// The key that signs.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// What follows the leaf on the wire: issuing and intermediate certificates, no root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// What clients must trust, as PEM.
    pub fn trust_pem(&self) -> &str {
        &self.trust_pem
    }

    /// What clients must trust, as DER.
    pub fn trust_der(&self) -> &[u8] {
        &self.trust_der
    }

    /// The issuing certificate's first second.
    pub fn not_before(&self) -> OffsetDateTime {
        self.issuing.not_before
    }

    /// The last second at which every certificate of the chain is valid.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// True while a leaf signed now would be of use.
    pub fn can_sign(&self, now: OffsetDateTime) -> bool {
        now >= self.issuing.not_before && now.saturating_add(time::Duration::MINUTE) < self.not_after
    }

    /// What an operator should know though it works.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// True if this run created the development CA.
    pub fn created(&self) -> bool {
        self.created
    }
}

/// The issuing certificate and those above it, each issued by the next.
struct Chain {
    issuing: CaCertificate,
    above: Vec<CaCertificate>,
    unused: usize,
}

impl Chain {
    /// Starts at the certificate of the key and follows the issuers, whatever their order in the file.
    fn build(path: &Path, mut found: Vec<CaCertificate>, key: &SigningKey) -> Result<Chain, CaError> {
        let Some(first) = found.first() else {
            return Err(CaError::NoCertificate { path: path.to_owned() });
        };
        let subject = first.subject_text.clone();
        let Some(place) = found.iter().position(|one| one.public_key == key.public_key()) else {
            return Err(CaError::KeyMismatch { path: path.to_owned(), subject });
        };
        let issuing = found.remove(place);
        let mut above: Vec<CaCertificate> = Vec::new();
        loop {
            let top = above.last().unwrap_or(&issuing);
            if top.is_root() {
                break;
            }
            let Some(place) = found.iter().position(|one| top.is_issued_by(one)) else {
                break;
            };
            above.push(found.remove(place));
        }
        Ok(Chain { issuing, above, unused: found.len() })
    }

    fn certificates(&self) -> impl Iterator<Item = &CaCertificate> {
        std::iter::once(&self.issuing).chain(&self.above)
    }

    /// Refuses what clients would refuse.
    fn check(&self, now: OffsetDateTime) -> Result<(), CaError> {
        for (below, certificate) in self.certificates().enumerate() {
            let subject = certificate.subject_text.clone();
            if !certificate.is_ca {
                return Err(CaError::NotCa { subject });
            }
            if !certificate.signs_certificates {
                return Err(CaError::NoCertSign { subject });
            }
            // A root above others needs none: nothing of ours points at it.
            if certificate.key_id.is_none() && (below == 0 || !certificate.is_root()) {
                return Err(CaError::NoKeyId { subject });
            }
            if now < certificate.not_before || now > certificate.not_after {
                return Err(CaError::NotValidNow {
                    subject,
                    not_before: timestamp(certificate.not_before),
                    not_after: timestamp(certificate.not_after),
                    now: timestamp(now),
                });
            }
            if let Some(allowed) = certificate.path_length
                && usize::try_from(allowed).is_ok_and(|allowed| below > allowed)
            {
                return Err(CaError::PathTooLong { subject, allowed, below });
            }
            // Nobody checks a root's own signature.
            if certificate.signed_with_sha1 && !certificate.is_root() {
                return Err(CaError::Sha1 { subject });
            }
            if let Some(bits) = certificate.rsa_bits
                && bits < 2048
            {
                return Err(CaError::WeakKey { subject, bits });
            }
        }
        Ok(())
    }

    fn warnings(&self, key: &SigningKey, now: OffsetDateTime) -> Vec<String> {
        let mut warnings = Vec::new();
        match key.kind() {
            KeyKind::P256 => {}
            kind => warnings.push(format!(
                "the CA's key is {kind}: each new host costs several times the processor time of a P-256 CA"
            )),
        }
        for certificate in self.certificates() {
            let left = certificate.not_after - now;
            if left < time::Duration::days(30) {
                warnings.push(format!(
                    "`{}` expires in {} days, on {}",
                    certificate.subject_text,
                    left.whole_days(),
                    timestamp(certificate.not_after)
                ));
            }
        }
        if !self.certificates().any(|certificate| certificate.constrains_names) {
            warnings.push(
                "no certificate of the chain constrains names: whoever has the key can impersonate any host"
                    .to_owned(),
            );
        }
        if !self.certificates().any(CaCertificate::is_root) {
            warnings.push(format!(
                "the chain ends below its root: `ca.pem` is its last certificate, `{}`, and clients must trust that one or know the root already",
                self.above.last().unwrap_or(&self.issuing).subject_text
            ));
        }
        if self.unused > 0 {
            warnings.push(format!("{} certificates of the file are not part of the chain", self.unused));
        }
        warnings
    }
}

/// Writes what clients must trust into the state directory.
pub(crate) fn publish(state: &Path, trust_pem: &str) -> Result<(), CaError> {
    store::with_lock(state, || store::write_if_changed(&state.join(TRUST_FILE), trust_pem.as_bytes()))
}

/// Creates another development CA: its key, and in the same file its certificate.
pub(crate) fn create_development(path: &Path, now: OffsetDateTime) -> Result<(), CaError> {
    development::write_new(path, now)
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn timestamp(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// How far leaves and new CAs reach back, for clients whose clocks are slow.
pub(crate) const BACKDATE: time::Duration = time::Duration::HOUR;

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CaCertificate>, CaError> {
    let blocks = pem::decode(text).map_err(|source| CaError::Pem { path: path.to_owned(), source })?;
    blocks
        .iter()
        .filter(|block| matches!(block.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE"))
        .enumerate()
        .map(|(index, block)| {
            CaCertificate::from_der(&block.der).map_err(|detail| CaError::Malformed {
                path: path.to_owned(),
                number: index + 1,
                detail,
            })
        })
        .collect()
}
