//! The certificate that a client sees, judged by software that is not ours.

use std::fs;
use std::process::{Command, Stdio};

use outgate_tests::client::{self, Tls};
use rustls_pki_types::{ServerName, UnixTime};

use crate::setting::{INSPECT_ALL, Setting};

#[tokio::test(flavor = "multi_thread")]
async fn openssl_webpki_and_python_accept_the_leaf() {
    let setting = Setting::with(INSPECT_ALL).await;
    let host = "judged.site.test";
    let stream = client::connect(setting.proxy(), &format!("{host}:443")).await.unwrap();
    let stream = Tls::new(host, Vec::new()).handshake(stream).await.unwrap();
    let leaf = client::peer(&stream);

    // rustls-webpki
    let roots: Vec<_> = setting.outgate.roots();
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let certificate = webpki::EndEntityCert::try_from(&leaf).unwrap();
    certificate
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            UnixTime::now(),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .unwrap();
    certificate.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).unwrap();

    // OpenSSL, with its strict rules
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leaf.der");
    fs::write(&file, &leaf).unwrap();
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", host, "-CAfile"])
        .arg(setting.outgate.ca_file())
        .arg(&file)
        .output();
    match verified {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: openssl: {error}"),
    }

    // Python's ssl with the flags that are its default from 3.13 on: a whole handshake through the proxy
    let script = "
import socket, ssl, sys
proxy, port, ca, host = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
s = socket.create_connection((proxy, port))
s.sendall(f'CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}:443\\r\\n\\r\\n'.encode())
assert b' 200 ' in s.recv(4096)
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT | getattr(ssl, 'VERIFY_X509_PARTIAL_CHAIN', 0)
s = context.wrap_socket(s, server_hostname=host)
assert s.getpeercert()['subjectAltName'] == (('DNS', host),)
s.sendall(f'GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
assert b' 200 ' in s.recv(65536)
";
    let proxy = setting.proxy();
    let output = Command::new("python3")
        .args(["-c", script, &proxy.ip().to_string(), &proxy.port().to_string()])
        .arg(setting.outgate.ca_file())
        .arg(host)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Chromium with a database of its own for trusted CAs, as an administrator fills it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and certutil: `make judge-browser`"]
async fn chromium_accepts_the_leaf_once_it_trusts_our_ca() {
    let setting = Setting::with(INSPECT_ALL).await;
    let home = tempfile::tempdir().unwrap();
    let database = home.path().join(".pki/nssdb");
    fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    let certutil = |arguments: &[&str]| {
        let output = Command::new("certutil").args(["-d", &database]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    certutil(&["-N", "--empty-password"]);
    let page = |host: &str| {
        let output = Command::new("timeout")
            .args([
                "60",
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", home.path().join(host).display()))
            .arg(format!("--proxy-server=http://{}", setting.proxy()))
            .args(["--dump-dom", &format!("https://{host}/page")])
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!page("stranger.site.test").contains("\"/page\""), "our CA is not trusted yet");
    setting.outgate.line(|line| line["event"]["reason"] == "intercept_rejected").await;

    certutil(&["-A", "-n", "outgate", "-t", "C,,", "-i", setting.outgate.ca_file().to_str().unwrap()]);
    let shown = page("trusted.site.test");
    assert!(shown.contains("\"/page\""), "{shown}");
    assert_eq!(setting.secure.last().authority, "trusted.site.test");
}
