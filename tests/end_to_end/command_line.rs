//! `outgate` as a user meets it: clear messages, right statuses.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use outgate_tests::outgate::{Options, Outgate, executable, free_address};

const DENY_ALL: &str = "name: deny-all\nrules: []\n";

fn run(arguments: &[&str]) -> Output {
    Command::new(executable()).args(arguments).env_remove("ENVOY").output().unwrap()
}

/// `outgate run` with a sound policy in a folder of its own, and these arguments.
fn run_with(folder: &Path, policy: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let file = folder.join("policy.yaml");
    fs::write(&file, policy).unwrap();
    let state = folder.join("state");
    let [listen, admin, cert_http] = std::array::from_fn(|_| free_address().to_string());
    let mut all = vec!["run", "--policy", file.to_str().unwrap()];
    let defaults = [
        ("--listen", listen.as_str()),
        ("--admin", &admin),
        ("--cert-http", &cert_http),
        ("--state", state.to_str().unwrap()),
    ];
    for (option, value) in defaults {
        if !arguments.contains(&option) {
            all.extend([option, value]);
        }
    }
    all.extend(arguments);
    let output = run(&all);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_keeps_it_from_starting_is_said_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (policy, arguments, status, words) in [
        (DENY_ALL, vec!["--listen", &taken], 1, vec!["--listen", &taken, "in use"]),
        (DENY_ALL, vec!["--admin", &taken], 1, vec!["--admin", "in use"]),
        (DENY_ALL, vec!["--listen", "127.0.0.1:0"], 1, vec!["port 0", "choose a port"]),
        (DENY_ALL, vec!["--envoy", "/no/such/envoy"], 1, vec!["--envoy", "/no/such/envoy"]),
        (DENY_ALL, vec!["--envoy", "/bin/false"], 1, vec!["Envoy refuses"]),
        (DENY_ALL, vec!["--upstream-ca", "/no/such.pem"], 1, vec!["--upstream-ca", "/no/such.pem"]),
        (
            DENY_ALL,
            vec!["--mtls-listen", "127.0.0.1:18999", "--mtls-ca", "/no/such.pem"],
            1,
            vec!["--mtls-ca", "/no/such.pem"],
        ),
        (
            DENY_ALL,
            vec!["--resolve", "*:443:10.0.0.1", "--resolve", "*:443:10.0.0.2"],
            1,
            vec!["--resolve", "10.0.0.2"],
        ),
        (DENY_ALL, vec!["--resolve", "a.test:443"], 2, vec!["HOST:PORT:ADDR"]),
        (DENY_ALL, vec!["--mtls-listen", "127.0.0.1:1"], 2, vec!["--mtls-ca"]),
        (
            "rules: [{name: a, priority: 1, basicProfile: ALLOW, sessionMatcher: 'hots()'}]",
            vec![],
            2,
            vec!["rule `a`", "hots", "column"],
        ),
        ("rulez: []", vec![], 2, vec!["rulez", "rules"]),
    ] {
        let (code, said) = run_with(folder.path(), policy, &arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?} lacks `{word}`: {said}");
        }
    }
    let [listen, admin, cert_http] = std::array::from_fn(|_| free_address().to_string());
    let missing = run(&[
        "run",
        "--policy",
        "/no/such.yaml",
        "--listen",
        &listen,
        "--admin",
        &admin,
        "--cert-http",
        &cert_http,
    ]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such.yaml"));
}

#[test]
fn the_development_ca_is_kept_between_runs_and_one_run_has_it_at_a_time() {
    let state = tempfile::tempdir().unwrap();
    let first = Outgate::start(DENY_ALL, Options::default().state(state.path()));
    let ca = fs::read_to_string(first.ca_file()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run_with(folder.path(), DENY_ALL, &["--state", state.path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another outgate runs"), "{said}");
    drop(first);
    let second = Outgate::start(DENY_ALL, Options::default().state(state.path()));
    assert_eq!(fs::read_to_string(second.ca_file()).unwrap(), ca);
    assert!(ca.contains("BEGIN CERTIFICATE"));
}

#[test]
fn render_is_deterministic_and_its_examples_are_current() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let policy = top.join("examples/demo/policy.yaml");
    let render = || run(&["render", "--policy", policy.to_str().unwrap(), "--target", "envoy"]);
    let (first, second) = (render(), render());
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(first.stdout, second.stdout);
    let checked = Command::new(top.join("scripts/render-examples")).arg("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
