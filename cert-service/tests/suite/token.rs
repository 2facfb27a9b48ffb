//! CAs whose keys are on a PKCS#11 token; SoftHSM is one.

use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(feature = "pkcs11")]
use crate::authorities::{Authority, Key, Recipe, active_directory};
use crate::support::Directory;

/// The configuration with a key on a token.
fn configuration(directory: &Directory, module: &Path, token: &str, key: &str) -> PathBuf {
    let text = format!(
        "pools: {{main: {{cas: [{{certificate: ca.pem, pkcs11: {{module: {}, token: {token}, key: {key}}}, passphraseFile: pin, state: active}}]}}}}",
        module.display()
    );
    directory.write("pools.yaml", text, 0o644)
}

fn mint(directory: &Directory) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cert-service"))
        .args(["mint", "--dry-run", "www.example.com", "--config", "pools.yaml"])
        .current_dir(directory.path(""))
        .env("SOFTHSM2_CONF", directory.path("softhsm2.conf"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), said)
}

#[test]
#[cfg(not(feature = "pkcs11"))]
fn a_build_without_tokens_says_so() {
    let directory = Directory::new();
    directory.write("pin", "1234", 0o600);
    configuration(&directory, Path::new("/usr/lib/none.so"), "one", "ca");
    let (success, said) = mint(&directory);
    assert!(!success && said.contains("knows no PKCS#11: build it with `--features pkcs11`"), "{said}");
}

#[test]
#[cfg(feature = "pkcs11")]
fn a_key_on_a_token_signs() {
    let modules = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let Some(module) = modules.iter().map(Path::new).find(|path| path.exists()) else {
        eprintln!("skipped: there is no SoftHSM here (Debian: softhsm2)");
        return;
    };
    for (kind, key) in [("P-256", Key::p256()), ("P-384", Key::p384()), ("RSA-2048", Key::rsa())] {
        let directory = Directory::new();
        std::fs::create_dir(directory.path("tokens")).unwrap();
        let conf = format!("directories.tokendir = {}\n", directory.path("tokens").display());
        directory.write("softhsm2.conf", conf, 0o644);
        let root = Authority::root(key, Recipe { subject: active_directory(), ..Recipe::default() });
        directory.write("ca.pem", root.pem(), 0o644);
        directory.write("ca.key", root.key.pkcs8(), 0o600);
        directory.write("pin", "1234\n", 0o600);
        for arguments in [
            "--init-token --free --label one --pin 1234 --so-pin 5678",
            "--import ca.key --token one --label ca --id 01 --pin 1234",
        ] {
            let output = Command::new("softhsm2-util")
                .args(arguments.split(' '))
                .current_dir(directory.path(""))
                .env("SOFTHSM2_CONF", directory.path("softhsm2.conf"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        std::fs::remove_file(directory.path("ca.key")).unwrap();

        configuration(&directory, module, "one", "ca");
        // The probe has verified a signature before; what is printed is another leaf, checked the same way.
        let (success, said) = mint(&directory);
        assert!(
            success && said.contains("issuer     DC=com, DC=corp, CN=Corp Issuing CA 1"),
            "{kind}: {said}"
        );
        for (token, key, pin, mode, message) in [
            ("two", "ca", "1234", 0o600, "no token has this label"),
            ("one", "cb", "1234", 0o600, "0 objects of class"),
            ("one", "ca", "4321", 0o600, "the PIN in `passphraseFile`"),
            ("one", "ca", "1234", 0o644, "run `chmod 600 "),
        ] {
            directory.write("pin", pin, mode);
            configuration(&directory, module, token, key);
            let (success, said) = mint(&directory);
            assert!(!success && said.contains(message), "{kind}, {message}: {said}");
            assert!(!said.contains(pin), "{said}");
        }
    }
}
