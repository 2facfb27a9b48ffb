//! What we need to know of a CA's certificate, read from its DER once.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

/// RSA (two identifiers) and ECDSA with SHA-1.
const SHA1_SIGNATURES: [&str; 3] = ["1.2.840.113549.1.1.5", "1.3.14.3.2.29", "1.2.840.10045.4.1"];

/// A certificate of a CA's chain.
pub struct CaCertificate {
    pub(super) der: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) subject_text: String,
    pub(super) issuer: Vec<u8>,
    pub(super) key_id: Option<Vec<u8>>,
    pub(super) public_key: Vec<u8>,
    pub(super) rsa_bits: Option<usize>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) is_ca: bool,
    pub(super) path_length: Option<u32>,
    pub(super) signs_certificates: bool,
    pub(super) signed_with_sha1: bool,
    pub(super) constrains_names: bool,
}

impl CaCertificate {
    /// Reads one certificate; `Err` says what is wrong with it.
    pub fn from_der(der: &[u8]) -> Result<CaCertificate, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there are bytes after its end".to_owned());
        }
        let constraints = certificate.basic_constraints().map_err(|error| error.to_string())?;
        let usage = certificate.key_usage().map_err(|error| error.to_string())?;
        let key_id =
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) if !id.0.is_empty() => Some(id.0.to_vec()),
                _ => None,
            });
        let constrains_names = certificate
            .extensions()
            .iter()
            .any(|extension| matches!(extension.parsed_extension(), ParsedExtension::NameConstraints(_)));
        let algorithm = &certificate.signature_algorithm.algorithm;
        let rsa_bits = match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()),
            _ => None,
        };
        Ok(CaCertificate {
            der: der.to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            subject_text: certificate.subject().to_string(),
            issuer: certificate.issuer().as_raw().to_vec(),
            key_id,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            rsa_bits,
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            is_ca: constraints.as_ref().is_some_and(|found| found.value.ca),
            path_length: constraints.and_then(|found| found.value.path_len_constraint),
            signs_certificates: usage.is_some_and(|found| found.value.key_cert_sign()),
            signed_with_sha1: SHA1_SIGNATURES.contains(&algorithm.to_id_string().as_str()),
            constrains_names,
        })
    }

    /// True if it names itself as its issuer.
    pub fn is_root(&self) -> bool {
        self.subject == self.issuer
    }

    /// True if `issuer` issued this certificate, as far as we can check its kind of signature.
    pub fn is_issued_by(&self, issuer: &CaCertificate) -> bool {
        if self.issuer != issuer.subject {
            return false;
        }
        let (Ok((_, certificate)), Ok((_, signer))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&issuer.der))
        else {
            return false;
        };
        match certificate.verify_signature(Some(signer.public_key())) {
            // Clients may know algorithms that we do not.
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
            Err(_) => false,
        }
    }
}
