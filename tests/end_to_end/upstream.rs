//! Origins that the proxy must not trust, or cannot reach.

use outgate_tests::certificates::{Authority, Identity, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::origin::Origin;
use outgate_tests::outgate::{Options, free_address};

use crate::setting::{INSPECT_ALL, Setting, assert_refused, is_ours, issuer};

#[tokio::test(flavor = "multi_thread")]
async fn origins_with_a_bad_certificate_are_refused_without_a_word_of_why() {
    let origins = Authority::new("Origins CA");
    let stranger = Authority::new("Stranger CA");
    let bad = [
        ("expired.site.test", origins.issue(&["expired.site.test"], &Profile::server().expired())),
        ("early.site.test", origins.issue(&["early.site.test"], &Profile::server().not_yet_valid())),
        ("named.site.test", origins.server(&["somebody-else.test"])),
        ("stranger.site.test", stranger.server(&["stranger.site.test"])),
        ("self.site.test", Identity::self_signed(&["self.site.test"], &Profile::server())),
        ("client.site.test", origins.issue(&["client.site.test"], &Profile::client())),
    ];
    let mut options = Options::default();
    let mut running = Vec::new();
    for (host, identity) in &bad {
        let origin = Origin::tls(identity).await;
        options = options.resolve(host, 443, origin.address);
        running.push(origin);
    }
    // The CA of these origins is trusted: it is their certificates that are bad.
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, origins.pem()).unwrap();
    let setting =
        Setting::with_options(INSPECT_ALL, options.with(&["--upstream-ca", roots.to_str().unwrap()])).await;

    for (host, _) in &bad {
        let (reply, seen) = setting.https(host, "/").await;
        assert!(is_ours(&seen));
        assert_refused(&reply, 502, "upstream_tls");
        for leak in ["TLS_error", "CERTIFICATE", "expired\"", "issuer", "Stranger"] {
            assert!(!reply.body.contains(leak), "{host}: {}", reply.body);
        }
        let line = setting
            .outgate
            .line(|line| line["destination"]["domain"] == *host && line["event"]["reason"] == "upstream_tls")
            .await;
        assert!(
            line["message"].as_str().unwrap().contains("CERTIFICATE_VERIFY_FAILED"),
            "the log says why: {line}"
        );
    }
    assert!(running.iter().all(|origin| origin.received().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_that_do_not_answer_are_told_apart() {
    let nobody = free_address();
    let options =
        Options::default().resolve("gone.site.test", 443, nobody).resolve("gone.site.test", 80, nobody);
    let setting = Setting::with_options(INSPECT_ALL, options).await;
    let (reply, _) = setting.https("gone.site.test", "/").await;
    assert_refused(&reply, 502, "upstream_unreachable");
    assert_refused(
        &client::get(setting.proxy(), "http://gone.site.test/").await,
        502,
        "upstream_unreachable",
    );
    // No `--resolve` for this port, and no such name.
    let reply = client::get(setting.proxy(), "http://no-such-name.invalid:8080/").await;
    assert_refused(&reply, 502, "upstream_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tls_inspection_policy_counts_on_both_legs() {
    let policy = INSPECT_ALL.replace("TLS_1_2", "TLS_1_3");
    let setting = Setting::with(&policy).await;
    let (reply, _) = setting.https("good.site.test", "/").await;
    assert_eq!(reply.status, 200);
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    let old = Tls::new("good.site.test", Vec::new()).version(&rustls::version::TLS12);
    assert!(old.handshake(stream).await.is_err(), "a client that speaks TLS 1.2 alone");

    // Without the public set, what `trustConfig` names is all that is trusted.
    let origins = Authority::new("Private CA");
    let origin = Origin::tls(&origins.server(&["private.site.test"])).await;
    let pem: String = origins.pem().lines().map(|line| format!("      {line}\n")).collect();
    let policy = INSPECT_ALL
        .replace("caPool: main", "caPool: main, trustConfig: corp, excludePublicCaSet: true")
        + "outgate:\n  trustConfigs:\n  - name: corp\n    pem: |\n"
        + &pem;
    let setting =
        Setting::with_options(&policy, Options::default().resolve("private.site.test", 443, origin.address))
            .await;
    let (reply, seen) = client::https(
        setting.proxy(),
        "private.site.test",
        &setting.trusting("private.site.test"),
        Ask::get("/").at("private.site.test"),
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(is_ours(&issuer(&seen)));
}
