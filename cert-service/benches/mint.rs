//! Leaves per second of one core, beside what `openssl speed` signs on the same curve and what rcgen mints.
//!
//! Processor time, not wall-clock time: other work on the machine costs caches, but no turns. The three take turns, and
//! the best round of each counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may fail by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cert_service::ca::Ca;
use cert_service::leaf;
use outgate_policy::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm,
};
use serde_json::json;
use time::OffsetDateTime;

/// A measurement's processor time, and how often each is repeated.
const SPAN: Duration = Duration::from_millis(700);
const ROUNDS: usize = 3;

fn main() {
    // `cargo test` builds benchmarks too and calls them without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    fs::create_dir_all(&target).unwrap();
    let kinds: [(&str, &str, &SignatureAlgorithm); 3] = [
        ("P-256", "ecdsap256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", "ecdsap384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("RSA-2048", "rsa2048", &rcgen::PKCS_RSA_SHA256),
    ];
    println!("A fresh P-256 key and a leaf, per second of one core; `openssl speed` only signs.\n");
    println!("| CA | cert-service | rcgen | openssl speed | cert-service / openssl |");
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for (kind, speed, algorithm) in kinds {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Benchmark CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let ca = load(&target, &certificate.pem(), &key.serialize_pem());
        let issuer = Issuer::new(params, key);

        let [mut ours, mut rcgens, mut openssl] = [0.0_f64; 3];
        for _ in 0..ROUNDS {
            ours = ours.max(rate(|name| {
                let host = HostName::parse(name).unwrap();
                let leaf =
                    leaf::mint(&ca, &host, Duration::from_secs(86_400), OffsetDateTime::now_utc()).unwrap();
                leaf.chain_pem.len() + leaf.key_pem.len()
            }));
            rcgens = rcgens.max(rate(|name| rcgen_mint(name, &issuer, &certificate)));
            openssl = openssl.max(openssl_signs(speed).unwrap_or_default());
        }
        let share = |rate: f64| {
            if openssl > 0.0 { format!("{:.0} %", 100.0 * rate / openssl) } else { "-".to_owned() }
        };
        println!("| {kind} | {ours:.0} | {rcgens:.0} | {openssl:.0} | {} |", share(ours));
        rows.push(json!({
            "ca": kind,
            "certService": ours.round(),
            "rcgen": rcgens.round(),
            "opensslSigns": openssl.round(),
            "share": if openssl > 0.0 { Some(ours / openssl) } else { None },
        }));
    }
    let file = target.join("mint.json");
    fs::write(&file, format!("{:#}\n", json!({ "unit": "leaves per second of one core", "rows": rows })))
        .unwrap();
    println!("\nopenssl: {}; written to target/bench/mint.json", openssl_version());
}

/// What rcgen does for one name, from the same inputs to the same outputs.
fn rcgen_mint(name: &str, issuer: &Issuer<'_, KeyPair>, ca: &rcgen::Certificate) -> usize {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + time::Duration::DAY;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, issuer).unwrap();
    leaf.pem().len() + ca.pem().len() + key.serialize_pem().len()
}

/// How often one core does this in a second.
fn rate(mint: impl Fn(&str) -> usize) -> f64 {
    let start = processor_time();
    let (mut count, mut bytes) = (0_u32, 0);
    loop {
        for _ in 0..20 {
            count += 1;
            bytes += mint(&format!("host{count}.bench.example"));
        }
        let passed = processor_time() - start;
        if passed >= SPAN {
            assert!(bytes > 0);
            return f64::from(count) / passed.as_secs_f64();
        }
    }
}

/// The processor time of this thread (`schedstat` of proc(5), in nanoseconds).
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Signatures per second, as `openssl speed` counts them: by processor time too.
fn openssl_signs(algorithm: &str) -> Option<f64> {
    let output = Command::new("openssl").args(["speed", "-seconds", "1", algorithm]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `256 bits ecdsa (nistp256)   0.0000s   0.0001s  29800.0  10800.0`: after the times come the rates, signing first.
    let line = text.lines().rfind(|line| line.contains("bits") && line.contains("0.0"))?;
    let is_time = |word: &&str| word.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok());
    line.split_whitespace().skip_while(|word| !is_time(word)).find(|word| !is_time(word))?.parse().ok()
}

fn openssl_version() -> String {
    let output = Command::new("openssl").arg("version").output();
    output.map_or("none here".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn load(target: &Path, chain: &str, key: &str) -> Ca {
    let folder = target.join("mint-ca");
    fs::create_dir_all(&folder).unwrap();
    let (chain_file, key_file) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain_file, chain).unwrap();
    fs::write(&key_file, key).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    Ca::supplied(&chain_file, &key_file, &folder, OffsetDateTime::now_utc()).unwrap()
}
