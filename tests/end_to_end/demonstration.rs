//! `make run`, on ports of its own: every exchange turns out as it says.

use std::path::Path;
use std::process::Command;

use outgate_tests::outgate::{executable, free_address};

fn demonstrate(mut command: Command) -> std::process::Output {
    let state = tempfile::tempdir().unwrap();
    for option in ["--listen", "--admin", "--cert-http", "--mtls-listen"] {
        command.args([option, &free_address().to_string()]);
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    command.arg("--once").arg("--state").arg(state.path()).current_dir(top).output().unwrap()
}

#[test]
fn five_exchanges() {
    let output = demonstrate(Command::new(executable().with_file_name("outgate-demo")));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "verdict `allow`, rule `plain-site`",
        "verdict `deny`, no rule, default_denied",
        "verdict `tunnel`, rule `banks-unread`",
        "verdict `allow`, rule `grpc-sources`",
        "certificate_expired / expired",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn five_exchanges_under_func_e() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/with-func-e");
    let output = demonstrate(Command::new(script));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    if said.contains("skipped") {
        eprintln!("{}", said.trim());
        return;
    }
    assert!(said.contains("certificate_expired / expired"), "{said}");
}
