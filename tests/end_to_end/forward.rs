//! Names that nobody resolves by hand: the dynamic forward proxy, on every path.

use outgate_tests::certificates::Authority;
use outgate_tests::client::{self, Ask};
use outgate_tests::origin::{Origin, read_some};
use outgate_tests::outgate::{Options, Outgate};

use crate::setting::{assert_refused, is_ours, issuer};

#[tokio::test(flavor = "multi_thread")]
async fn every_path_resolves_and_reaches_the_origin() {
    let origins = Authority::new("Origins CA");
    let plain = Origin::plain().await;
    let inspected = Origin::tls(&origins.server(&["localhost"])).await;
    let sniffed = Origin::tls(&origins.server(&["localhost"])).await;
    let banner = Origin::banner("SSH-2.0-test\r\n").await;
    let policy = format!(
        "
name: forward
tlsInspectionPolicy: default
rules:
- {{name: unread, priority: 1, basicProfile: ALLOW, sessionMatcher: \"destination.port == {}\"}}
- {{name: inspected, priority: 2, basicProfile: ALLOW, sessionMatcher: \"destination.port == {}\", applicationMatcher: \"true\", tlsInspectionEnabled: true}}
- {{name: in-the-clear, priority: 3, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\"}}
- {{name: sniffed, priority: 4, basicProfile: ALLOW, sessionMatcher: \"destination.port == {}\"}}
tlsInspectionPolicies:
- {{name: default, caPool: main}}
outgate:
  destinations: {{allowPrivate: [127.0.0.0/8, '::1/128']}}
",
        banner.address.port(),
        inspected.address.port(),
        sniffed.address.port(),
    );
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, origins.pem()).unwrap();
    let outgate =
        Outgate::start(&policy, Options::default().with(&["--upstream-ca", roots.to_str().unwrap()]));
    let local = |port: u16| format!("localhost:{port}");

    let plain_url = format!("http://{}/plain", local(plain.address.port()));
    assert_eq!(client::get(outgate.proxy, &plain_url).await.status, 200);

    let authority = local(plain.address.port());
    let stream = client::connect(outgate.proxy, &authority).await.unwrap();
    assert_eq!(client::http1(stream, Ask::get("/tunnelled").at(&authority)).await.unwrap().status, 200);

    let mut stream = client::connect(outgate.proxy, &local(banner.address.port())).await.unwrap();
    assert_eq!(read_some(&mut stream).await, b"SSH-2.0-test\r\n");

    for (origin, ours) in [(&sniffed, false), (&inspected, true)] {
        let authority = local(origin.address.port());
        let stream = client::connect(outgate.proxy, &authority).await.unwrap();
        let mut tls = client::Tls::new("localhost", outgate.roots());
        tls.roots.push(origins.der());
        let stream = tls.handshake(stream).await.unwrap();
        assert_eq!(is_ours(&issuer(&client::peer(&stream))), ours);
        let reply = client::over_tls(stream, Ask::get("/x").at(&authority)).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(origin.last().target, "/x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leads_to_a_private_address_is_refused_on_every_path() {
    let origins = Authority::new("Origins CA");
    let plain = Origin::plain().await;
    let secure = Origin::tls(&origins.server(&["localhost"])).await;
    let policy = "
name: refused
tlsInspectionPolicy: default
rules:
- {name: unread, priority: 1, basicProfile: ALLOW, sessionMatcher: \"source.port < 0 || host().startsWith('127') || host() == 'localhost' && destination.port % 2 == 0\"}
- {name: inspected, priority: 2, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";
    let outgate = Outgate::start(policy, Options::default());
    let (proxy, port) = (outgate.proxy, plain.address.port());

    // Literals, in all their spellings, by the filter.
    for host in ["127.0.0.1", "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"]
    {
        let reply = client::get(proxy, &format!("http://{host}:{port}/")).await;
        assert_refused(&reply, 403, "destination_refused");
        let reply = client::connect(proxy, &format!("{host}:{port}")).await.unwrap_err();
        assert_refused(&reply, 403, "destination_refused");
    }
    let reply = client::connect(proxy, &outgate.admin.to_string()).await.unwrap_err();
    assert_refused(&reply, 403, "destination_refused");

    // Names, by the resolver: in the clear, and inspected.
    let reply = client::get(proxy, &format!("http://localhost:{port}/")).await;
    assert_refused(&reply, 403, "destination_refused");
    let odd = format!("localhost:{}", secure.address.port() | 1);
    let stream = client::connect(proxy, &odd).await.unwrap();
    let stream = client::Tls::new("localhost", outgate.roots()).handshake(stream).await.unwrap();
    assert_refused(
        &client::over_tls(stream, Ask::get("/").at(&odd)).await.unwrap(),
        403,
        "destination_refused",
    );

    // And unread, where the answer to the CONNECT says so.
    let even = format!("localhost:{}", secure.address.port() & !1);
    assert_refused(&client::connect(proxy, &even).await.unwrap_err(), 403, "destination_refused");

    assert_eq!((plain.connections(), secure.connections()), (0, 0), "nothing connected");
}
