//! Hostile input for everything that reads what a peer wrote: nothing panics, every line is bounded JSON of one line.
//!
//! `make fuzz` sets `PROPTEST_CASES` for a long run.

use proptest::collection::vec;
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::certificate::Certificate;
use crate::certificate::tests::hostile;
use crate::classify::{Evidence, Failure, Progress, Side, classify};
use crate::configuration::HandshakeConfiguration;
use crate::fields::{FIELDS, Fields};
use crate::line::{Connection, MAXIMUM_LINE, record, written};
use crate::presented::{Attributes, Presented};
use crate::reason::Reason;
use crate::shape::Shape;
use crate::taxonomy::SubReason;
use crate::verify::{Signatures, Untrusted, verify};

const PEM: &[u8] = include_bytes!("certificate/fixtures/sans.pem");

/// Words of Envoy's reasons, in any order, and anything between them.
fn reason() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("TLS_error:|".to_owned()),
        Just("TLS_error|error:".to_owned()),
        Just("268435581".to_owned()),
        Just(":SSL routines:OPENSSL_internal:".to_owned()),
        Just("CERTIFICATE_VERIFY_FAILED".to_owned()),
        Just(":verify cert failed: X509_verify_cert: certificate verification error at depth ".to_owned()),
        Just(": certificate has expired".to_owned()),
        Just("SAN matcher, certificate SANs are [".to_owned()),
        Just("|".to_owned()),
        Just(":TLS_error_end".to_owned()),
        any::<u32>().prop_map(|number| number.to_string()),
        ".{0,12}",
    ];
    vec(word, 0..12).prop_map(|words| words.concat())
}

/// DER of a certificate with some bytes changed.
fn nearly_a_certificate() -> impl Strategy<Value = Vec<u8>> {
    let der = CertificateDer::from_pem_slice(PEM).unwrap().to_vec();
    vec((0..der.len(), any::<u8>()), 0..6).prop_map(move |changes| {
        let mut der = der.clone();
        for (place, byte) in changes {
            der[place] = byte;
        }
        der
    })
}

fn checked(record: &serde_json::Map<String, Value>, shape: Shape, fields: &Fields) -> Value {
    let line = written(record, shape, fields);
    assert!(line.len() <= MAXIMUM_LINE, "{} bytes", line.len());
    assert!(!line.contains(['\n', '\r']) && line.chars().all(|character| !character.is_control()));
    serde_json::from_str(&line).unwrap()
}

struct Nobody;

impl Signatures for Nobody {
    fn verify(&self, _: &str, _: &[u8], _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_reason_is_classified(
        reason in prop_oneof![reason(), ".{0,300}"],
        details in ".{0,40}",
        flags in any::<u64>(),
        known in any::<[bool; 5]>(),
        ja4 in proptest::option::of(".{0,20}"),
    ) {
        let [certificate, server_name, filter_chain, proxy_protocol, inspecting] = known;
        let failure = classify(&Evidence {
            reason: &reason,
            termination_details: &details,
            code_details: &details,
            flags,
            progress: Progress::Begun,
            certificate,
            bytes_arrived: None,
            server_name,
            filter_chain,
            without_tls: false,
            proxy_protocol,
            ja4: ja4.as_deref(),
            side: if inspecting { Side::Inspecting } else { Side::Mtls },
        });
        // Expiry is said of nothing but a code and, anchored, its text.
        if failure.is_some_and(|failure| failure.sub_reason == SubReason::Expired) {
            let detailed = matches!(Reason::parse(&reason), Reason::Handshake { detail: Some(_), .. });
            prop_assert!(detailed, "{reason}");
        }
    }

    #[test]
    fn any_certificate_is_read_or_refused(bytes in prop_oneof![nearly_a_certificate(), vec(any::<u8>(), 0..400)]) {
        let _pem = Certificate::from_pem(&bytes);
        if let Ok(certificate) = Certificate::from_der(&bytes) {
            prop_assert!(certificate.subject.len() <= 300 && certificate.serial.len() <= 100);
            prop_assert!(certificate.alternative_names.len() <= 32);
        }
        let demands = Untrusted {
            ca: String::from_utf8_lossy(PEM).into_owned(),
            crl: Some(String::from_utf8_lossy(&bytes).into_owned()),
            ..Untrusted::default()
        };
        let _judged = verify(&bytes, &demands, OffsetDateTime::UNIX_EPOCH, &Nobody);
    }

    #[test]
    fn any_line_is_bounded_json_in_every_shape(
        message in prop_oneof![reason(), ".{0,3000}"],
        server_name in ".{0,400}",
        attribute in vec(any::<u8>(), 0..2000),
        sub_reason in (0..SubReason::ALL.len()).prop_map(|index| SubReason::ALL[index]),
        ja in ".{0,100}",
        hide in vec((0..FIELDS.len()).prop_map(|index| FIELDS[index]), 0..6),
        maximum_length in 64..1024_usize,
    ) {
        let attributes = Attributes {
            subject: Some(&attribute),
            sha256: Some(&attribute),
            uri: Some(&attribute),
            dns: Some(&attribute),
        };
        let record = record(
            &Failure::exact(sub_reason),
            &Connection {
                message: Some(&message),
                server_name: Some(&server_name),
                ja3: Some(&ja),
                ja4: Some(&ja),
                tls_version: Some(&ja),
                certificate: Some(Presented::read(None, attributes, OffsetDateTime::UNIX_EPOCH)),
                ..Connection::ended(OffsetDateTime::UNIX_EPOCH)
            },
        );
        let (drop, hash) = hide.split_at(hide.len() / 2);
        let fields = json!({
            "drop": drop, "hash": hash, "key": "0123456789abcdef", "maximum_length": maximum_length,
        });
        let configuration = json!({"listener": "mtls", "fields": fields}).to_string();
        let fields = HandshakeConfiguration::parse(configuration.as_bytes()).unwrap().fields;
        for shape in [Shape::Ecs, Shape::Otel, Shape::Ocsf] {
            let line = checked(&record, shape, &fields).to_string();
            for hidden in drop {
                prop_assert!(*hidden != "tls.client.subject" || !line.contains("\"subject\""));
            }
        }
    }

    #[test]
    fn any_configuration_is_read_or_refused(text in ".{0,200}") {
        let _read = HandshakeConfiguration::parse(text.as_bytes());
    }
}

#[test]
fn the_most_hostile_certificate_is_bounded_json_in_every_shape() {
    // A common name of 10 kB, 1,000 alternative names, control characters, bidirectional marks, no UTF-8.
    let pem = hostile();
    let presented = Presented::read(Some(pem.as_bytes()), Attributes::default(), OffsetDateTime::UNIX_EPOCH);
    let connection = Connection {
        server_name: Some("\u{202e}\0\u{1b}[2J\""),
        certificate: Some(presented),
        ..Connection::ended(OffsetDateTime::UNIX_EPOCH)
    };
    let record = record(&Failure::exact(SubReason::Expired), &connection);
    for shape in [Shape::Ecs, Shape::Otel, Shape::Ocsf] {
        let text = checked(&record, shape, &Fields::default()).to_string();
        assert!(!text.contains('\u{202e}'), "{shape:?}");
        assert!(text.contains("…(+"), "{shape:?}: what was cut is said");
    }
}
