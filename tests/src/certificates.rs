//! Certificates of origins and clients: good ones, and ones with every fault that a handshake can have.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// A CA of our own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    /// The chain, as PEM.
    pub certificate_pem: String,
    /// The key, as PEM.
    pub key_pem: String,
}

/// What is special about a certificate; a sound one by default.
#[derive(Clone, Debug)]
pub struct Profile {
    /// From when it is valid, in days from now.
    pub from_days: i64,
    /// Until when, in days from now.
    pub until_days: i64,
    /// For servers or for clients.
    pub purpose: ExtendedKeyUsagePurpose,
    /// The serial number, if a CRL is to name it.
    pub serial: Option<u64>,
}

impl Authority {
    /// A root named `name`.
    pub fn new(name: &str) -> Self {
        let mut parameters = parameters(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(parameters, key).unwrap() }
    }

    /// The root, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The root.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A sound server certificate.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue(names, &Profile::server())
    }

    /// A sound client certificate.
    pub fn client(&self, name: &str) -> Identity {
        self.issue(&[name], &Profile::client())
    }

    /// A certificate for these names (DNS names, or URIs) with this profile.
    pub fn issue(&self, names: &[&str], profile: &Profile) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf_parameters(names, profile).signed_by(&key, &self.issuer).unwrap();
        Identity::new(&certificate, &key)
    }

    /// A revocation list that names one serial number.
    pub fn revocation_list(&self, serial: u64) -> String {
        let now = OffsetDateTime::now_utc();
        CertificateRevocationListParams {
            this_update: now - Duration::DAY,
            next_update: now + Duration::WEEK,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now - Duration::HOUR,
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}

impl Identity {
    /// A certificate that nobody but its key vouches for.
    pub fn self_signed(names: &[&str], profile: &Profile) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = leaf_parameters(names, profile);
        // As `openssl req -x509` makes them: nothing in it says that it could not be its own issuer.
        parameters.key_usages.clear();
        parameters.use_authority_key_identifier_extension = false;
        let certificate = parameters.self_signed(&key).unwrap();
        Self::new(&certificate, &key)
    }

    /// The chain, for rustls.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The key, for rustls.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

impl Profile {
    /// Of a sound server certificate.
    pub fn server() -> Self {
        Self { from_days: -1, until_days: 30, purpose: ExtendedKeyUsagePurpose::ServerAuth, serial: None }
    }

    /// Of a sound client certificate.
    pub fn client() -> Self {
        Self { purpose: ExtendedKeyUsagePurpose::ClientAuth, ..Self::server() }
    }

    /// Expired yesterday.
    pub fn expired(self) -> Self {
        Self { from_days: -30, until_days: -1, ..self }
    }

    /// Valid from tomorrow.
    pub fn not_yet_valid(self) -> Self {
        Self { from_days: 1, until_days: 30, ..self }
    }
}

fn leaf_parameters(names: &[&str], profile: &Profile) -> CertificateParams {
    let mut parameters = parameters(names.first().copied().unwrap_or("nobody"));
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now + Duration::days(profile.from_days);
    parameters.not_after = now + Duration::days(profile.until_days);
    parameters.subject_alt_names = alternative_names(names);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![profile.purpose.clone()];
    parameters.serial_number = profile.serial.map(SerialNumber::from);
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

/// URIs, and names.
pub fn alternative_names(names: &[&str]) -> Vec<SanType> {
    let kind = |name: &&str| {
        let text = (*name).try_into().unwrap();
        if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
    };
    names.iter().map(kind).collect()
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::OrganizationName, "Example");
    parameters.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - Duration::DAY;
    parameters.not_after = now + Duration::days(365);
    parameters
}
