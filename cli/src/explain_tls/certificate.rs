//! What a server that demands client certificates would find wrong with one.
//!
//! Two sources: facts read from the certificate itself, and, if CAs are given, a verification by rustls-webpki. Both
//! are told apart, because libraries stop at different faults of a certificate with several.

use std::fmt::Write as _;

use outgate_handshake::certificate::Certificate;
use outgate_handshake::presented::timestamp;
use outgate_handshake::taxonomy::SubReason::{self, *};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder, anchor_from_trusted_cert,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::line::printable;
use super::pages;
use super::reading::{about, who, wrapped};

/// Sooner than this is said.
const SOON: Duration = Duration::days(14);

/// Why a certificate could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CertificateInputError {
    /// The PEM is damaged.
    #[error("block {0} of the PEM does not parse as a certificate ({1}); was all of it copied?")]
    Block(usize, String),
    /// There is none.
    #[error("this PEM holds no certificate{0}")]
    None(&'static str),
    /// `--ca` is no CA.
    #[error("`--ca` cannot be used: {0}")]
    Authorities(String),
    /// `--crl` is no CRL.
    #[error(
        "`--crl` cannot be used: {0}; rustls-webpki reads CRLs in PEM, of version 2 and with a crlNumber"
    )]
    RevocationLists(String),
}

/// A client's certificate, what it sent along, and what is wrong.
#[derive(Debug)]
pub struct Examination {
    at: OffsetDateTime,
    certificates: Vec<Certificate>,
    findings: Vec<Finding>,
    /// Who judged the chain, and what it said; none without CAs.
    chain: Option<Result<(), String>>,
    unchecked: Vec<&'static str>,
}

/// Something that is wrong, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is called.
    pub sub_reason: SubReason,
    /// Whether a server refuses for it; some do not.
    pub severity: Severity,
    /// Which certificate of the input, 0 is the client's own; none if it is about the chain.
    pub certificate: Option<usize>,
    /// What was found.
    pub detail: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Every server refuses.
    Refused,
    /// Some servers do.
    Warning,
}

/// What a server trusts, in PEM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// CAs.
    pub authorities: Option<&'a [u8]>,
    /// Their revocation lists.
    pub revocation_lists: Option<&'a [u8]>,
}

impl Examination {
    /// Looks at PEM as a server would at this time. The first certificate is the client's own, others are sent along.
    pub fn of(pem: &[u8], at: OffsetDateTime, trust: Trust<'_>) -> Result<Self, CertificateInputError> {
        let chain = blocks(pem)?;
        let mut certificates = Vec::new();
        let mut findings = Vec::new();
        for (index, der) in chain.iter().enumerate() {
            let parsed = Certificate::from_der(der).map_err(|error| error.to_string()).and_then(|told| {
                let (_, facts) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
                findings.extend(findings_of(index, &told, &facts, at));
                Ok(told)
            });
            certificates.push(parsed.map_err(|error| CertificateInputError::Block(index + 1, error))?);
        }
        let mut unchecked = vec![
            "whether the client holds the private key",
            "the names and pins that the listener may demand",
        ];
        if trust.revocation_lists.is_none() {
            unchecked.push("revocation: give the CRLs with --crl");
        }
        let chain = match trust.authorities {
            None => {
                unchecked.push("the chain: give the listener's CAs with --ca");
                None
            }
            Some(authorities) => {
                let verdict = verify(&chain, authorities, trust.revocation_lists, at, &mut findings)?;
                if verdict.is_err() && findings.iter().any(|finding| finding.sub_reason == CaUsedAsLeaf) {
                    unchecked.push("the chain: rustls-webpki does not judge a CA in the client's place");
                }
                Some(verdict)
            }
        };
        findings.sort_by_key(|finding| finding.severity == Severity::Warning);
        Ok(Self { at, certificates, findings, chain, unchecked })
    }

    fn verdict(&self) -> &'static str {
        let refused = self.findings.iter().any(|finding| finding.severity == Severity::Refused);
        match (&self.chain, refused) {
            (_, true) => "refused",
            (Some(Ok(())), false) => "accepted",
            (Some(Err(_)) | None, false) => "unknown",
        }
    }

    /// Stable: members are added, never renamed.
    pub fn json(&self) -> Value {
        let certificates: Vec<_> = self
            .certificates
            .iter()
            .map(|certificate| {
                json!({
                    "subject": certificate.subject,
                    "issuer": certificate.issuer,
                    "serial_number": certificate.serial,
                    "not_before": timestamp(certificate.not_before),
                    "not_after": timestamp(certificate.not_after),
                    "sha256": certificate.sha256,
                    "alternative_names":
                        certificate.alternative_names.iter().map(|name| &name.text).collect::<Vec<_>>(),
                    "public_key_algorithm": certificate.key_algorithm,
                    "public_key_size": certificate.key_size,
                    "signature_algorithm": certificate.signature_algorithm,
                    "ca": certificate.is_ca,
                })
            })
            .collect();
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let mut value = about(finding.sub_reason);
                if let Value::Object(members) = &mut value {
                    members.insert("severity".to_owned(), json!(finding.severity.as_str()));
                    members.insert("certificate".to_owned(), json!(finding.certificate));
                    members.insert("detail".to_owned(), json!(finding.detail));
                }
                value
            })
            .collect();
        json!({
            "kind": "certificate",
            "at": timestamp(self.at),
            "verdict": self.verdict(),
            "certificates": certificates,
            "findings": findings,
            "unchecked": self.unchecked,
        })
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (index, certificate) in self.certificates.iter().enumerate() {
            let role = if index == 0 { "the client's certificate" } else { "sent along" };
            let _infallible = writeln!(text, "{role}\n");
            let key = match certificate.key_size {
                Some(bits) => format!("{} {bits}", certificate.key_algorithm),
                None => certificate.key_algorithm.clone(),
            };
            let names: Vec<_> = certificate.alternative_names.iter().map(|name| name.text.as_str()).collect();
            for (name, value) in [
                ("subject", certificate.subject.clone()),
                ("issuer", certificate.issuer.clone()),
                ("serial", certificate.serial.clone()),
                ("valid", span(certificate.not_before, certificate.not_after, self.at)),
                ("names", names.join(", ")),
                ("key", format!("{key}, signed with {}", certificate.signature_algorithm)),
                ("sha256", certificate.sha256.clone()),
            ] {
                wrapped(&mut text, name, if value.is_empty() { "-" } else { &value });
            }
            text.push('\n');
        }
        let _infallible = match (self.verdict(), &self.chain) {
            ("refused", _) => writeln!(text, "A server REFUSES it:\n"),
            ("accepted", _) => writeln!(text, "A server with these CAs ACCEPTS it.\n"),
            (_, Some(Err(error))) => writeln!(text, "rustls-webpki did not accept its chain: {error}.\n"),
            _ => writeln!(text, "Nothing in the certificate itself is a reason to refuse it.\n"),
        };
        for finding in &self.findings {
            let sub_reason = finding.sub_reason;
            let warning =
                if finding.severity == Severity::Warning { "  (some servers refuse it)" } else { "" };
            let _infallible = writeln!(text, "* {} / {sub_reason}{warning}", sub_reason.category());
            wrapped(&mut text, "found", &finding.detail);
            wrapped(&mut text, "who", who(sub_reason.blame()));
            wrapped(&mut text, "fix", sub_reason.remedy());
            wrapped(&mut text, "more", &pages::address(sub_reason));
            text.push('\n');
        }
        let _infallible = writeln!(text, "Not checked: {}.", self.unchecked.join("; "));
        text
    }
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Warning => "warning",
        }
    }
}

/// The certificates of PEM, whatever stands between them; also URL-encoded, as Envoy writes it in headers and logs.
fn blocks(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateInputError> {
    let decoded = String::from_utf8_lossy(pem)
        .replace("%20", " ")
        .replace("%0A", "\n")
        .replace("%0a", "\n")
        .replace("%2B", "+")
        .replace("%2b", "+")
        .replace("%2F", "/")
        .replace("%2f", "/")
        .replace("%3D", "=")
        .replace("%3d", "=")
        // As JSON writes it.
        .replace("\\n", "\n");
    let mut chain = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(decoded.as_bytes()).enumerate() {
        chain.push(certificate.map_err(|error| CertificateInputError::Block(index + 1, error.to_string()))?);
    }
    if chain.is_empty() {
        let key = decoded.contains("PRIVATE KEY-----");
        let request = decoded.contains("BEGIN CERTIFICATE REQUEST");
        return Err(CertificateInputError::None(if key {
            " but a private key, which should be shown to nobody"
        } else if request {
            " but a request for one: ask for what the CA made of it"
        } else {
            "; it begins with `-----BEGIN CERTIFICATE-----` and ends with `-----END CERTIFICATE-----`"
        }));
    }
    Ok(chain)
}

fn findings_of(
    index: usize,
    told: &Certificate,
    facts: &X509Certificate<'_>,
    at: OffsetDateTime,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, sub_reason, detail: String| {
        findings.push(Finding { sub_reason, severity, certificate: Some(index), detail });
    };
    use Severity::{Refused, Warning};
    if at > told.not_after {
        add(
            Refused,
            Expired,
            format!("its time ended {}, {} ago", day(told.not_after), days(at - told.not_after)),
        );
    } else if at < told.not_before {
        add(
            Refused,
            NotYetValid,
            format!("its time begins {}, in {}", day(told.not_before), days(told.not_before - at)),
        );
    } else if told.not_after - at < SOON {
        add(
            Warning,
            Expired,
            format!("its time ends soon: {}, in {}", day(told.not_after), days(told.not_after - at)),
        );
    }
    if index == 0
        && (told.key_algorithm.starts_with("Ed") || told.key_algorithm == "EC" && told.key_size.is_none())
    {
        let detail = format!(
            "Envoy does not ask for signatures by its kind of key ({}); libraries then send no certificate at all",
            told.key_algorithm
        );
        add(Warning, NoClientCertificate, detail);
    }
    if let Some(detail) = weak(told) {
        add(Warning, WeakKeyOrSignature, detail);
    }
    for extension in facts.extensions() {
        let unknown = matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. });
        if extension.critical && unknown {
            let oid = extension.oid.to_id_string();
            add(
                Refused,
                UnhandledCriticalExtension,
                format!("the extension {oid} is critical, and servers do not know it"),
            );
        }
    }
    if let Some(defect) = told.defect {
        add(Refused, MalformedCertificate, defect.to_owned());
    }
    if index > 0 {
        if !told.is_ca {
            add(
                Warning,
                InvalidCa,
                "it is sent along as a CA, but says that it is none (CA:FALSE)".to_owned(),
            );
        }
        return findings;
    }
    if told.self_signed && facts.verify_signature(None).is_ok() {
        add(
            Refused,
            SelfSigned,
            "it signed itself; a server accepts that only if it trusts this very certificate".to_owned(),
        );
    }
    if told.is_ca {
        let detail =
            "it says that it is a CA (CA:TRUE); rustls refuses that in a client, Envoy goes by its key usage";
        add(Warning, CaUsedAsLeaf, detail.to_owned());
    }
    if let Ok(Some(usage)) = facts.extended_key_usage()
        && !usage.value.client_auth
    {
        let has = purposes(usage.value);
        add(Refused, WrongPurpose, format!("its extended key usage has no clientAuth, only {has}"));
    }
    if let Ok(Some(usage)) = facts.key_usage()
        && !usage.value.digital_signature()
        && !usage.value.key_agreement()
    {
        add(Refused, WrongPurpose, "its key usage has no digitalSignature".to_owned());
    }
    if told.alternative_names.is_empty() {
        let detail = "it has no subject alternative name: listeners that look for one refuse it, the common name does not count";
        add(Warning, SanMismatch, detail.to_owned());
    }
    if facts.version().0 != 2 {
        add(Warning, MalformedCertificate, "it is X.509 version 1; rustls demands version 3".to_owned());
    }
    findings
}

/// What is weak about the key or the signature.
fn weak(told: &Certificate) -> Option<String> {
    let signature = told.signature_algorithm.as_str();
    match (told.key_algorithm.as_str(), told.key_size) {
        ("RSA", Some(bits)) if bits < 2048 => {
            Some(format!("its RSA key has {bits} bits; 2048 are the least"))
        }
        _ if signature.starts_with("md5") || signature.to_ascii_lowercase().contains("sha1") => {
            Some(format!("it is signed with {signature}"))
        }
        _ => None,
    }
}

fn purposes(usage: &x509_parser::extensions::ExtendedKeyUsage<'_>) -> String {
    let mut names: Vec<String> = [
        (usage.server_auth, "serverAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
        (usage.any, "anyExtendedKeyUsage"),
    ]
    .into_iter()
    .filter(|(there, _)| *there)
    .map(|(_, name)| name.to_owned())
    .collect();
    names.extend(usage.other.iter().map(x509_parser::oid_registry::Oid::to_id_string));
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What rustls-webpki says of the chain; what it finds is added unless the facts had it already.
fn verify(
    chain: &[CertificateDer<'_>],
    authorities: &[u8],
    revocation_lists: Option<&[u8]>,
    at: OffsetDateTime,
    findings: &mut Vec<Finding>,
) -> Result<Result<(), String>, CertificateInputError> {
    let authorities = authorities_of(authorities)?;
    let lists = match revocation_lists {
        Some(pem) => revocation_lists_of(pem)?,
        None => Vec::new(),
    };
    let Some((leaf, along)) = chain.split_first() else { return Ok(Ok(())) };
    trusted_as_itself(leaf, &authorities, findings);
    expired_authorities(chain, &authorities, at, findings);
    let anchors: Vec<TrustAnchor<'_>> = authorities
        .iter()
        .map(|authority| anchor_from_trusted_cert(authority))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            CertificateInputError::Authorities(format!("not a CA that rustls-webpki takes: {error}"))
        })?;
    let mut faults = Vec::new();
    // Once at the time that was asked for, once within the leaf's own, so that one fault does not hide another.
    for at in [at, within(leaf, at)] {
        if let Err(error) = judge(leaf, &anchors, along, &lists, at) {
            faults.push(error);
        }
    }
    for error in &faults {
        let Some((sub_reason, severity)) = meaning(error) else { continue };
        if let Some(known) = findings.iter_mut().find(|finding| finding.sub_reason == sub_reason) {
            if severity == Severity::Refused {
                known.severity = severity;
            }
            continue;
        }
        let self_signed = findings.iter().any(|finding| finding.sub_reason == SelfSigned);
        if sub_reason != UnknownIssuer || !self_signed {
            let detail = format!("rustls-webpki, of the chain to the CAs given: {error:?}");
            findings.push(Finding {
                sub_reason,
                severity,
                certificate: None,
                detail: printable(&detail, 400),
            });
        }
    }
    Ok(faults.into_iter().next().map_or(Ok(()), |error| Err(format!("{error:?}"))))
}

fn judge(
    leaf: &CertificateDer<'_>,
    anchors: &[TrustAnchor<'_>],
    along: &[CertificateDer<'_>],
    lists: &[CertRevocationList<'_>],
    at: OffsetDateTime,
) -> Result<(), webpki::Error> {
    let lists: Vec<_> = lists.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&lists)
        .ok()
        .map(|builder| builder.with_depth(RevocationCheckDepth::EndEntity))
        .map(|builder| builder.with_expiration_policy(ExpirationPolicy::Enforce).build());
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            anchors,
            along,
            at,
            KeyUsage::client_auth(),
            revocation,
            None,
        )
        .map(|_| ())
}

/// A self-signed certificate that is one of the CAs is trusted.
fn trusted_as_itself(
    leaf: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    findings: &mut Vec<Finding>,
) {
    if authorities.iter().any(|authority| authority == leaf) {
        findings.retain(|finding| finding.sub_reason != SelfSigned);
    }
}

/// webpki does not look at the time of trust anchors; BoringSSL does.
fn expired_authorities(
    chain: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'_>],
    at: OffsetDateTime,
    findings: &mut Vec<Finding>,
) {
    let issuers: Vec<_> = chain
        .iter()
        .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1.issuer().as_raw().to_vec()))
        .collect();
    for authority in authorities {
        let Ok((_, facts)) = X509Certificate::from_der(authority) else { continue };
        let Ok(told) = Certificate::from_der(authority) else { continue };
        if at > told.not_after && issuers.iter().any(|issuer| issuer == facts.subject().as_raw()) {
            findings.push(Finding {
                sub_reason: Expired,
                severity: Severity::Refused,
                certificate: None,
                detail: format!("the CA `{}` itself ended {}", told.subject, day(told.not_after)),
            });
        }
    }
}

/// The time, or the nearest within the certificate's own.
fn within(leaf: &CertificateDer<'_>, at: OffsetDateTime) -> OffsetDateTime {
    match Certificate::from_der(leaf) {
        Ok(told) if told.not_before <= told.not_after => at.clamp(told.not_before, told.not_after),
        _ => at,
    }
}

fn authorities_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateInputError> {
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateInputError::Authorities(error.to_string()))?;
    if authorities.is_empty() {
        return Err(CertificateInputError::Authorities("it holds no certificate in PEM".to_owned()));
    }
    Ok(authorities)
}

fn revocation_lists_of(pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, CertificateInputError> {
    let fail = |error: String| CertificateInputError::RevocationLists(error);
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = list.map_err(|error| fail(error.to_string()))?;
        lists.push(
            OwnedCertRevocationList::from_der(&list).map_err(|error| fail(format!("{error:?}")))?.into(),
        );
    }
    if lists.is_empty() { Err(fail("it holds no CRL in PEM".to_owned())) } else { Ok(lists) }
}

/// webpki's errors in our words (`docs/tls`); none if it says nothing of the certificate.
fn meaning(error: &webpki::Error) -> Option<(SubReason, Severity)> {
    use webpki::Error as E;
    let sub_reason = match error {
        E::CertExpired { .. } => Expired,
        E::CertNotValidYet { .. } => NotYetValid,
        E::CertRevoked => Revoked,
        E::CrlExpired { .. } => CrlExpired,
        E::UnknownRevocationStatus => CrlMissing,
        E::InvalidCrlSignatureForPublicKey | E::IssuerNotCrlSigner => CrlInvalid,
        E::UnknownIssuer => UnknownIssuer,
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => BadSignature,
        E::EndEntityUsedAsCa => InvalidCa,
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => ChainTooLong,
        E::NameConstraintViolation => NameConstraints,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => WrongPurpose,
        E::UnsupportedCriticalExtension => UnhandledCriticalExtension,
        // Where libraries differ.
        E::CaUsedAsEndEntity => return Some((CaUsedAsLeaf, Severity::Warning)),
        E::UnsupportedCertVersion => return Some((MalformedCertificate, Severity::Warning)),
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            return Some((WeakKeyOrSignature, Severity::Warning));
        }
        E::BadDer
        | E::BadDerTime
        | E::ExtensionValueInvalid
        | E::InvalidCertValidity
        | E::MalformedExtensions
        | E::InvalidSerialNumber
        | E::TrailingData(_)
        | E::MalformedNameConstraint => MalformedCertificate,
        _ => return None,
    };
    Some((sub_reason, Severity::Refused))
}

fn span(from: OffsetDateTime, until: OffsetDateTime, at: OffsetDateTime) -> String {
    let state = if at > until {
        format!("ended {} ago", days(at - until))
    } else if at < from {
        format!("begins in {}", days(from - at))
    } else {
        format!("{} left", days(until - at))
    };
    format!("{} to {} ({state})", day(from), day(until))
}

fn day(at: OffsetDateTime) -> String {
    timestamp(at).unwrap_or_else(|| at.to_string())
}

fn days(duration: Duration) -> String {
    match (duration.whole_days(), duration.whole_hours()) {
        (0, 0) => format!("{} minutes", duration.whole_minutes()),
        (0, 1) => "1 hour".to_owned(),
        (0, hours) => format!("{hours} hours"),
        (1, _) => "1 day".to_owned(),
        (days, _) => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests;
