//! Pools from a configuration file, and what happens when it, or a file that it names, changes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cert_service::pools::{Authorities, CaState, Source};
use cert_service::xds::DELTA_ADS;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authorities::{Authority, Key, Recipe, common_name, days};
use crate::envoy::{Running, only_secret, parts};
use crate::support::{Directory, openssl};

fn authority(name: &str) -> Authority {
    Authority::root(Key::p256(), Recipe { subject: common_name(name), ..Recipe::default() })
}

/// Writes `NAME.pem` and `NAME.key`.
fn write(directory: &Directory, name: &str, authority: &Authority) {
    directory.write(&format!("{name}.pem"), authority.pem(), 0o644);
    directory.write(&format!("{name}.key"), authority.key.pkcs8(), 0o600);
}

/// A file with these pools: `main: old=active new=standby; …`.
fn configure(directory: &Directory, pools: &str) -> PathBuf {
    let mut text = "pools:\n".to_owned();
    for pool in pools.split("; ") {
        let (name, cas) = pool.split_once(": ").unwrap();
        text += &format!("  {name}:\n    cas:\n");
        for ca in cas.split(' ') {
            let (file, state) = ca.split_once('=').unwrap();
            text += &format!("      - {{certificate: {file}.pem, key: {file}.key, state: {state}}}\n");
        }
    }
    // Whole or not at all, as one who edits a file in use should.
    let path = directory.path("pools.yaml");
    std::fs::rename(directory.write("pools.new", text, 0o644), &path).unwrap();
    path
}

fn load(path: PathBuf) -> Result<cert_service::pools::Pools, String> {
    let source = Source {
        state: path.with_file_name("state"),
        authorities: Authorities::Configuration(path),
        names: Default::default(),
    };
    source.load(OffsetDateTime::now_utc()).map_err(|error| error.to_string())
}

/// The issuer of the leaf of the one secret in a response.
fn issuer(response: &cert_service::xds::messages::DeltaDiscoveryResponse) -> String {
    let (chain, _) = parts(&only_secret(response).2);
    let blocks = cert_service::pem::decode(chain.as_bytes()).unwrap();
    X509Certificate::from_der(&blocks[0].der).unwrap().1.issuer().to_string()
}

#[test]
fn a_configuration_that_is_not_right_is_refused_with_the_place_and_the_remedy() {
    let directory = Directory::new();
    write(&directory, "a", &authority("A"));
    let ended = Recipe { valid: days(-10, -1), ..Recipe::default() };
    write(&directory, "ended", &Authority::root(Key::p256(), ended));
    directory.write("open.key", std::fs::read(directory.path("a.key")).unwrap(), 0o644);
    let a = "certificate: a.pem, key: a.key";
    for (text, messages) in [
        ("", &["pools.yaml` is not right"][..]),
        ("pools: {}", &["pools: there is none; name at least one"]),
        ("pool: {}", &["unknown field `pool`, expected `pools`; remove it or correct its name"]),
        ("pools: {main: {cas: []}}", &["pools.main.cas: 0 are active; exactly one must be"]),
        ("pools: {\"a b\": {cas: []}}", &["pools.a b: `a b` is not a pool name: it takes"]),
        (
            &format!("pools: {{main: {{cas: [{{{a}, state: active, pasphraseFile: x}}]}}}}"),
            &["pools.main.cas[0]", "unknown field `pasphraseFile`", "expected", "correct its name"],
        ),
        (&format!("pools: {{main: {{cas: [{{{a}, state: Active}}]}}}}"), &["cas[0].state: unknown variant"]),
        (&format!("pools: {{main: {{cas: [{{{a}}}]}}}}"), &["cas[0]", "missing field `state`"]),
        (
            "pools: {main: {cas: [{certificate: a.pem, state: active}]}}",
            &["pools.main.cas[0]: give either `key` or `pkcs11`"],
        ),
        ("pools: {main: {cas: [], cas: []}}", &["cas", "line 1"]),
        (
            &format!("pools: {{main: {{cas: [{{{a}, state: active}}, {{{a}, state: draining}}]}}}}"),
            &["pools.main.cas[1]: the same files as a CA before it; remove one"],
        ),
        (
            &format!(
                "pools: {{main: {{cas: [{{{a}, state: active}}, {{certificate: b.pem, key: b.key, state: standby}}]}}}}"
            ),
            &["pool `main`, standby CA: cannot read `", "b.key"],
        ),
        (
            "pools: {main: {cas: [{certificate: a.pem, key: open.key, state: active}]}}",
            &["pool `main`, active CA: other users can reach the private key `", "run `chmod 600 "],
        ),
        (
            "pools: {main: {cas: [{certificate: ended.pem, key: ended.key, state: active}]}}",
            &["pool `main`, active CA: `CN=Test CA` is valid from", "renew it, or set the clock"],
        ),
    ] {
        let error = load(directory.write("pools.yaml", text, 0o644)).err();
        let error = error.unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(messages.iter().all(|message| error.contains(message)), "{text}\n{error}");
    }
}

#[test]
fn states_and_what_is_published() {
    let directory = Directory::new();
    for name in ["a", "b", "c"] {
        write(&directory, name, &authority(name));
    }
    let ended = Recipe { valid: days(-10, -1), ..Recipe::default() };
    write(&directory, "ended", &Authority::root(Key::p256(), ended));
    // A retired CA is not opened: its files may be gone. One that drains may have ended.
    let path = configure(
        &directory,
        "main: b=standby a=active ended=draining gone=retired; other: c=active b=draining",
    );
    let pools = load(path).unwrap();
    let states: Vec<(String, String, CaState)> = pools
        .all()
        .flat_map(|(name, pool)| {
            pool.members().map(move |one| (name.to_owned(), one.ca.subject_text().to_owned(), one.state))
        })
        .collect();
    let expected = [
        ("main", "CN=a", CaState::Active),
        ("main", "CN=b", CaState::Standby),
        ("other", "CN=c", CaState::Active),
        ("other", "CN=b", CaState::Draining),
    ];
    assert_eq!(states, expected.map(|(pool, subject, state)| (pool.to_owned(), subject.to_owned(), state)));
    let published = cert_service::pem::decode(pools.trust_pem().as_bytes()).unwrap();
    let subjects: Vec<String> = published
        .iter()
        .map(|block| X509Certificate::from_der(&block.der).unwrap().1.subject().to_string())
        .collect();
    assert_eq!(subjects, ["CN=a", "CN=c", "CN=b"], "those that sign first, each once");
    assert!(pools.warnings().iter().any(|warning| warning.contains("pool `main`, draining CA, is left out")));
}

#[test]
fn a_key_that_is_encrypted_is_opened_with_its_passphrase() {
    let directory = Directory::new();
    let here = directory.path("");
    let root = authority("A");
    write(&directory, "a", &root);
    for (case, how, old) in [
        ("aes256", "-topk8 -v2 aes256", false),
        ("aes128, SHA-512", "-topk8 -v2 aes128 -v2prf hmacWithSHA512", false),
        ("scrypt", "-topk8 -scrypt -scrypt_N 1024", false),
        ("of old", "-topk8 -v1 PBE-SHA1-3DES", true),
    ] {
        let command = format!("pkcs8 {how} -in a.key -out locked.key -passout pass:hunter2");
        let Some(said) = openssl(&command.split(' ').collect::<Vec<_>>(), &here) else { return };
        said.unwrap();
        let locked = std::fs::read(directory.path("locked.key")).unwrap();
        directory.write("locked.key", locked, 0o600);
        for (passphrase, mode, message) in [
            (Some("hunter2\n"), 0o600, None),
            (Some("hunter2\r\nanything"), 0o400, None),
            (Some("wrong\n"), 0o600, Some("is the first line of the passphrase file the right one?")),
            (Some("hunter2\n"), 0o644, Some("passphrase` (mode 0644): run `chmod 600 ")),
            (None, 0o600, Some("its key is encrypted: name the file of its passphrase")),
        ] {
            let _ = std::fs::remove_file(directory.path("passphrase"));
            let file = passphrase.map(|text| {
                directory.write("passphrase", text, mode);
                ", passphraseFile: passphrase"
            });
            let text = format!(
                "pools: {{main: {{cas: [{{certificate: a.pem, key: locked.key, state: active{}}}]}}}}",
                file.unwrap_or_default()
            );
            let loaded = load(directory.write("pools.yaml", text, 0o644)).err();
            let message = message.or(old.then_some("its key cannot be decrypted"));
            match (loaded, message) {
                (None, None) => {}
                (Some(error), Some(message)) => {
                    assert!(error.contains(message), "{case}: {error}");
                    assert!(!error.contains("hunter2"), "{case}: {error}");
                }
                (loaded, _) => panic!("{case}, {passphrase:?}: {loaded:?}"),
            }
        }
    }
}

#[tokio::test]
async fn each_pool_signs_with_its_own_ca() {
    let directory = Directory::new();
    write(&directory, "a", &authority("A"));
    write(&directory, "b", &authority("B"));
    let path = configure(&directory, "main: a=active; other: b=active a=standby");
    let running = Running::start(&directory, &["--config", path.to_str().unwrap()]).await;
    let mut envoy = running.envoy(DELTA_ADS).await;
    for (pool, host, ca) in [("main", "a.example", "CN=A"), ("other", "b.example", "CN=B")] {
        assert_eq!(running.grant(pool, host).await.0, 200);
        envoy.subscribe(&[host]);
        assert_eq!(issuer(&envoy.next().await), ca);
    }
    let (status, problem) = running.grant("third", "c.example").await;
    assert_eq!((status, problem["reason"].as_str()), (400, Some("unknown_pool")));
    for (pool, authority) in
        running.service.pools().all().map(|(pool, found)| (pool.to_owned(), found.active().clone()))
    {
        let (id, sha256) = (authority.id(), authority.fingerprint());
        let info = format!(
            "cert_service_ca_info{{pool=\"{pool}\",ca=\"{id}\",state=\"active\",sha256=\"{sha256}\"}}"
        );
        assert_eq!(running.metric(&info).await, 1.0);
        let mints = format!("cert_service_mints_total{{ca=\"{id}\",result=\"ok\"}}");
        assert_eq!(running.metric(&mints).await, 1.0, "{pool}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_ca_goes_from_standby_to_retired_by_edits_of_the_file() {
    let directory = Directory::new();
    write(&directory, "old", &authority("Old"));
    write(&directory, "new", &authority("New"));
    let path = configure(&directory, "main: old=active new=standby");
    let running = Running::start(&directory, &["--config", path.to_str().unwrap()]).await;
    let old = running.service.ca().unwrap().id().to_owned();
    let mut envoy = running.envoy(DELTA_ADS).await;
    assert_eq!(running.grant("main", "a.example").await.0, 200);
    envoy.subscribe(&["a.example"]);
    let first = envoy.next().await;
    assert_eq!(issuer(&first), "CN=Old");

    let start = Instant::now();
    configure(&directory, "main: old=draining new=active");
    assert_eq!(issuer(&envoy.next().await), "CN=New", "replaced, not removed");
    eprintln!("a new leaf {:?} after the edit", start.elapsed());
    // An Envoy that is back with a leaf of the CA that drains has a right to it, and gets another.
    let (name, version, _) = only_secret(&first);
    let mut back = running.envoy(DELTA_ADS).await;
    back.resume(&[(&name, &version)]);
    assert_eq!(issuer(&back.next().await), "CN=New");
    drop(back);

    // Back again, and gone at once: what the removed one signed is taken back.
    configure(&directory, "main: old=active new=draining");
    assert_eq!(issuer(&envoy.next().await), "CN=Old");
    configure(&directory, "main: old=retired new=active");
    assert_eq!(envoy.next().await.removed_resources, ["a.example"]);
    envoy.unsubscribe(&["a.example"]);
    envoy.subscribe(&["a.example"]);
    assert_eq!(issuer(&envoy.next().await), "CN=New");
    let mut back = running.envoy(DELTA_ADS).await;
    back.resume(&[(&name, &version)]);
    assert_eq!(issuer(&back.next().await), "CN=New", "a version of a removed CA proves nothing");

    assert_eq!(running.metric("cert_service_leases_withdrawn_total{reason=\"ca_removed\"}").await, 1.0);
    let states: Vec<(String, String)> = running
        .log
        .events("ca_state")
        .iter()
        .filter(|line| line["ca"] == old.as_str())
        .map(|line| (line["from"].as_str().unwrap().to_owned(), line["to"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("active", "draining"), ("draining", "active"), ("active", "retired")];
    assert_eq!(states, expected.map(|(from, to)| (from.to_owned(), to.to_owned())));
    let reloads = running.log.events("reload");
    assert_eq!(reloads.len(), 3);
    assert!(reloads.iter().all(|line| line["cause"] == "file" && line["result"] == "ok"), "{reloads:?}");
    assert_eq!(running.metric("cert_service_reloads_total{result=\"ok\"}").await, 3.0);
    running.stop().await;
}

#[tokio::test]
async fn pools_that_are_not_right_leave_those_before_in_force() {
    let directory = Directory::new();
    write(&directory, "a", &authority("A"));
    write(&directory, "b", &authority("B"));
    let path = configure(&directory, "main: a=active");
    let running = Running::start(&directory, &["--config", path.to_str().unwrap()]).await;
    let published = || std::fs::read_to_string(directory.path("state").join("ca.pem")).unwrap();
    let before = published();
    // The key is somebody else's: the pool is refused before anything changes.
    directory.write("b.key", Key::p256().pkcs8(), 0o600);
    configure(&directory, "main: b=active a=draining");
    let (status, problem) = running.post("/v1/reload", "").await;
    assert_eq!((status, problem["reason"].as_str()), (422, Some("not_reloaded")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("pool `main`, active CA: the private key belongs to none"), "{detail}");
    assert_eq!(published(), before);
    assert_eq!(running.metric("cert_service_reload_failed").await, 1.0);
    assert_eq!(running.get("/readyz").await.0, 200, "it goes on");
    let mut envoy = running.envoy(DELTA_ADS).await;
    assert_eq!(running.grant("main", "a.example").await.0, 200);
    envoy.subscribe(&["a.example"]);
    assert_eq!(issuer(&envoy.next().await), "CN=A");
    let reloads = running.log.events("reload");
    assert!(reloads.iter().any(|line| line["result"] == "error" && line["error"].as_str() == Some(detail)));

    // The remedy is seen without another order.
    let b = authority("B");
    write(&directory, "b", &b);
    assert_eq!(issuer(&envoy.next().await), "CN=B");
    assert_eq!(running.metric("cert_service_reload_failed").await, 0.0);
    assert_eq!(published(), format!("{}{before}", b.pem()));
    running.stop().await;
}

#[tokio::test]
async fn a_mounted_secret_changes_by_a_link_in_its_middle() {
    use std::os::unix::fs::symlink;
    let directory = Directory::new();
    // As Kubernetes lays it out: ca.pem -> ..data/ca.pem, ..data -> ..2026_1.
    for (version, name) in [("..2026_1", "First"), ("..2026_2", "Second")] {
        std::fs::create_dir(directory.path(version)).unwrap();
        let authority = authority(name);
        directory.write(&format!("{version}/ca.pem"), authority.pem(), 0o644);
        directory.write(&format!("{version}/ca.key"), authority.key.pkcs8(), 0o600);
    }
    symlink("..2026_1", directory.path("..data")).unwrap();
    for file in ["ca.pem", "ca.key"] {
        symlink(format!("..data/{file}"), directory.path(file)).unwrap();
    }
    let (ca, key) = (directory.path("ca.pem"), directory.path("ca.key"));
    let arguments = ["--ca", ca.to_str().unwrap(), "--ca-key", key.to_str().unwrap(), "--pool", "main"];
    let running = Running::start(&directory, &arguments).await;
    assert_eq!(running.service.ca().unwrap().subject_text(), "CN=First");
    symlink("..2026_2", directory.path("..data_tmp")).unwrap();
    std::fs::rename(directory.path("..data_tmp"), directory.path("..data")).unwrap();
    let start = Instant::now();
    while running.service.ca().unwrap().subject_text() != "CN=Second" {
        assert!(start.elapsed() < Duration::from_secs(5), "not reloaded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
}
