//! `cert-service ca …` and `cert-service mint --dry-run`, and the page for those who install a CA.

use std::path::Path;
use std::process::{Command, Output};

use crate::authorities::{Authority, Key, Recipe, common_name};
use crate::envoy::Running;
use crate::support::Directory;

fn tool(arguments: &[&str], directory: &Path) -> (bool, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_cert-service"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), said)
}

#[test]
fn a_ca_is_made_shown_and_mints() {
    let directory = Directory::new();
    let here = directory.path("");
    let succeeds = |arguments: &[&str]| {
        let (success, said) = tool(arguments, &here);
        assert!(success, "{arguments:?}: {said}");
        said
    };
    let made = succeeds(&["ca", "init", "new"]);
    assert!(made.starts_with("CN=Outgate development CA ") && made.contains("clients must trust new/ca.pem"));
    let shown = succeeds(&["ca", "show", "--state", "new"]);
    for line in ["pool       any", "state      active", "key        P-256"] {
        assert!(shown.contains(line), "{shown}");
    }
    for (name, said) in [
        ("Example.COM", "dNSName example.com"),
        ("[::1]", "iPAddress [::1]"),
        ("bücher.example", "dNSName xn--bcher-kva.example"),
    ] {
        let minted = succeeds(&["mint", "--dry-run", name, "--state", "new"]);
        assert!(
            minted.starts_with("-----BEGIN CERTIFICATE-----")
                && minted.contains(&format!("name       {said}\n")),
            "{minted}"
        );
        assert!(!minted.contains("PRIVATE KEY"), "{minted}");
    }
    for (arguments, words) in [
        (&["ca", "init", "new"][..], "`new/ca-key.pem` exists: choose another"),
        (
            &["ca", "show", "--state", "none"],
            "`none/ca-key.pem` does not exist: make it with `cert-service ca init`",
        ),
        (&["ca", "rotate", "none"], "`none/ca-key.pem` does not exist"),
        (&["mint", "--dry-run", "a b", "--state", "new"], "`a b`"),
        (&["mint", "example.com", "--state", "new"], "--dry-run"),
        (&["ca", "show"], "required"),
        (&["ca", "show", "--config", "none.yaml"], "cannot read `none.yaml`"),
    ] {
        let (success, said) = tool(arguments, &here);
        assert!(!success && said.contains(words), "{arguments:?}: {said}");
    }
    assert!(!directory.path("none").exists(), "to look creates nothing");
}

#[tokio::test]
async fn the_development_ca_is_rotated_in_three_steps_while_the_service_runs() {
    let directory = Directory::new();
    let running = Running::start(&directory, &[]).await;
    let first = running.service.ca().unwrap().id().to_owned();
    let published = || {
        let pem = std::fs::read(directory.path("state").join("ca.pem")).unwrap();
        cert_service::pem::decode(&pem).unwrap().len()
    };
    let states = || -> Vec<String> {
        let pools = running.service.pools();
        let members = pools.first().unwrap().members();
        members
            .map(|one| format!("{} {}", if one.ca.id() == first { "first" } else { "second" }, one.state))
            .collect()
    };
    for (said, expected, count) in [
        ("standby: a new CA is in ca.pem", vec!["first active", "second standby"], 2),
        ("active: the new CA signs", vec!["second active", "first draining"], 2),
        ("retired: the old CA is gone", vec!["second active"], 1),
    ] {
        let (success, output) = tool(&["ca", "rotate", "state"], &directory.path(""));
        assert!(success && output.starts_with(said), "{output}");
        let start = std::time::Instant::now();
        while states() != expected {
            assert!(start.elapsed().as_secs() < 5, "{:?}, not {expected:?}", states());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(published(), count, "{said}");
    }
    running.stop().await;
}

#[tokio::test]
async fn the_page_names_every_ca_and_how_to_install_it() {
    let directory = Directory::new();
    let subject = common_name("<b>Evil & Co</b>");
    let root = Authority::root(Key::p256(), Recipe { subject, ..Recipe::default() });
    let ca = directory.write("ca.pem", root.pem(), 0o644);
    let key = directory.write("ca.key", root.key.pkcs8(), 0o600);
    let arguments = ["--ca", ca.to_str().unwrap(), "--ca-key", key.to_str().unwrap()];
    let running = Running::start(&directory, &arguments).await;
    let (status, kind, page) = running.get("/").await;
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert_eq!((status, kind.as_deref()), (200, Some("text/html; charset=utf-8")));
    assert!(page.contains(running.service.ca().unwrap().fingerprint()));
    assert!(page.contains("CN=&lt;b&gt;Evil &amp; Co&lt;/b&gt;") && !page.contains("<b>"), "{page}");
    for words in ["update-ca-certificates", "update-ca-trust", "add-trusted-cert", "Import-Certificate"] {
        assert!(page.contains(words), "{words}");
    }
    running.stop().await;
}
