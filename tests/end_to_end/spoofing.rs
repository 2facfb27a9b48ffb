//! A client that lies about who it is or where it goes is not believed.

use outgate_tests::client::{self, Ask, Tls};

use crate::setting::{Setting, assert_refused, is_ours};

const POLICY: &str = "
name: spoofing
tlsInspectionPolicy: default
rules:
- {name: from-ten, enabled: true, priority: 5, basicProfile: ALLOW, sessionMatcher: \"inIpRange(source.ip, '10.0.0.0/8')\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
- {name: good, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"host() == 'good.site.test'\", applicationMatcher: \"request.host == 'good.site.test' && request.headers['host'] == 'good.site.test'\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_ours_and_forwarded_addresses_change_nothing() {
    let setting = Setting::with(POLICY).await;
    let proxy = setting.proxy();
    let lies = [
        ("x-outgate-route", "shard-1"),
        ("x-outgate-session", "{}"),
        ("x-outgate-tunnel", "inspect"),
        ("x-outgate-host", "evil.site.test"),
        ("x-outgate-port", "1"),
        ("x-envoy-original-dst-host", "127.0.0.1:1"),
        ("x-forwarded-for", "10.1.2.3"),
    ];
    // On the explicit listener, for requests and for tunnels.
    let ask = |url| Ask { target: url, ..Ask::get("") }.at("good.site.test").with(&lies);
    let reply = client::in_the_clear(proxy, ask("http://good.site.test/")).await;
    assert_eq!(reply.status, 200);
    let received = setting.plain.last();
    assert!(
        received
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("x-outgate-") && !name.starts_with("x-envoy-")),
        "{received:?}"
    );
    let reply = client::in_the_clear(proxy, ask("http://evil.site.test/")).await;
    assert_refused(&reply, 403, "default_denied");
    assert_refused(
        &client::connect_with(proxy, "evil.site.test:443", &lies).await.unwrap_err(),
        403,
        "default_denied",
    );

    // Inside, decrypted and in the clear.
    let (reply, _) = setting.ask_https("good.site.test", Ask::get("/").with(&lies)).await;
    assert_eq!(reply.status, 200);
    let received = setting.secure.last();
    assert!(
        received
            .headers
            .iter()
            .all(|(name, _)| !name.starts_with("x-outgate-") && !name.starts_with("x-envoy-")),
        "{received:?}"
    );
    let stream = client::connect_with(proxy, "good.site.test:80", &lies).await.unwrap();
    assert_eq!(
        client::http1(stream, Ask::get("/").at("good.site.test").with(&lies)).await.unwrap().status,
        200
    );

    let line = setting.outgate.session("good.site.test").await;
    assert_eq!(line["client"]["ip"], "127.0.0.1", "{line}");
    assert!(setting.outgate.log().iter().all(|line| line["rule"]["name"] != "from-ten"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_connection_must_agree() {
    let setting = Setting::with(POLICY).await;
    let proxy = setting.proxy();

    // The server name differs from the CONNECT: closed before the handshake, no certificate shown.
    let stream = client::connect(proxy, "good.site.test:443").await.unwrap();
    assert!(Tls::new("evil.site.test", Vec::new()).handshake(stream).await.is_err());
    let line = setting.outgate.line(|line| line["event"]["reason"] == "host_mismatch").await;
    assert_eq!(
        (&line["outgate"]["verdict"], &line["rule"]),
        (&"fail".into(), &serde_json::Value::Null),
        "{line}"
    );
    assert_eq!(line["tls"]["client"]["server_name"], "evil.site.test");

    // The authority inside differs, in host or port, in HTTP/1.1 and HTTP/2.
    for tls in [setting.trusting("good.site.test"), setting.trusting("good.site.test").http1()] {
        for authority in ["evil.site.test", "good.site.test:25", "good.site.test:444"] {
            let ask = Ask::get("/").at(authority);
            let (reply, _) = client::https(proxy, "good.site.test", &tls, ask).await.unwrap();
            assert_refused(&reply, 421, "host_mismatch");
        }
        for authority in ["good.site.test", "good.site.test:443", "GOOD.site.test", "good.site.test."] {
            let (reply, _) =
                client::https(proxy, "good.site.test", &tls, Ask::get("/").at(authority)).await.unwrap();
            assert_eq!(reply.status, 200, "{authority}");
        }
    }
    let stream = client::connect(proxy, "good.site.test:80").await.unwrap();
    let reply = client::http1(stream, Ask::get("/").at("evil.site.test")).await.unwrap();
    assert_refused(&reply, 421, "host_mismatch");
    assert!(setting.secure.received().iter().all(|request| request.authority.starts_with("good.site.test")));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_have_one_normal_form() {
    let setting = Setting::with(POLICY).await;
    let proxy = setting.proxy();
    for url in ["http://GOOD.site.test/", "http://good.site.test./", "http://good.site.test:80/"] {
        let reply = client::get(proxy, url).await;
        assert_eq!(reply.status, 200, "{url}");
        assert!(
            setting.plain.last().authority.starts_with("good.site.test"),
            "{url}: {:?}",
            setting.plain.last()
        );
    }
    for connect in ["GOOD.site.test:443", "good.site.test.:443"] {
        let stream = client::connect(proxy, connect).await.unwrap();
        let stream = setting.trusting("good.site.test").handshake(stream).await.unwrap();
        assert!(is_ours(&crate::setting::issuer(&client::peer(&stream))));
        assert_eq!(client::over_tls(stream, Ask::get("/").at("good.site.test")).await.unwrap().status, 200);
    }
    // The URL counts, not `Host`, and the origin is told the same.
    let ask = Ask { target: "http://evil.site.test/", ..Ask::get("") }.at("good.site.test");
    assert_refused(&client::in_the_clear(proxy, ask).await, 403, "default_denied");
    let ask = Ask { target: "http://good.site.test/", ..Ask::get("") }.at("evil.site.test");
    assert_eq!(client::in_the_clear(proxy, ask).await.status, 200);
    assert_eq!(setting.plain.last().authority, "good.site.test");

    for bad in [
        "good.site.test:0443",
        "good.site.test:0",
        "good.site.test:65536",
        "0x7f.1:443",
        "2130706433:443",
        "a..test:443",
    ] {
        assert_refused(&client::connect(proxy, bad).await.unwrap_err(), 400, "bad_authority");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_judged_is_what_is_sent() {
    let policy = "
name: paths
tlsInspectionPolicy: default
rules:
- {name: no-admin, enabled: true, priority: 10, basicProfile: DENY, sessionMatcher: \"true\", applicationMatcher: \"request.path.startsWith('/admin/')\", tlsInspectionEnabled: true}
- {name: rest, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main}
";
    let setting = Setting::with(policy).await;
    for (path, sent) in
        [("/a/../b?c=/../d", "/b?c=/../d"), ("/%61%2dz", "/a-z"), ("/./x/", "/x/"), ("/a%20b", "/a%20b")]
    {
        let (reply, _) = setting.https("good.site.test", path).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(setting.secure.last().target, sent, "{path}");
    }
    for (path, status, reason) in [
        ("/x/../admin/y", 403, "rule_denied"),
        ("/%61dmin/x", 403, "rule_denied"),
        ("/admin%2Fx", 403, "rule_denied"),
        ("//admin/x", 403, "rule_denied"),
        ("/admin;x/y", 403, "rule_denied"),
        ("/x/..%2fadmin/y", 400, "ambiguous_path"),
        ("/%252e%252e/", 400, "ambiguous_path"),
        ("/a%zz", 400, "bad_path"),
    ] {
        let (reply, _) = setting.https("good.site.test", path).await;
        assert_refused(&reply, status, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_never_reach_an_origin() {
    let setting = Setting::with(POLICY).await;
    for (bytes, reason) in [
        (&b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..], "bad_request"),
        (b"GET http://good.site.test/ HTTP/1.1\r\nHost : good.site.test\r\n\r\n", "bad_request"),
        (b"GET https://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\n\r\n", "scheme_mismatch"),
        (b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "bad_request"),
        (b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "bad_request"),
        (b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\nTransfer-Encoding: chunked\r\n\r\n1;\nx\r\na\r\n0\r\n\r\n", "bad_request"),
        (b"GET http://good.site.test/ HTTP/1.1\r\n Host: good.site.test\r\n\r\n", "bad_request"),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", "bad_request"),
        (b"OPTIONS * HTTP/1.1\r\nHost: good.site.test\r\n\r\n", "bad_path"),
        (b"GET http://good.site.test/ HTTP/1.1\r\nHost: good.site.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "upgrade_refused"),
    ] {
        let answer = client::raw(setting.proxy(), bytes).await;
        assert!(answer.contains(&format!("x-outgate-reason: {reason}")), "{}: {answer}", String::from_utf8_lossy(bytes));
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    // A body that turns out to be malformed ends the request that it belongs to.
    assert!(setting.plain.connections() <= 1, "one of these has a good head");
    assert!(setting.plain.received().is_empty());
    let line = setting.outgate.line(|line| line["event"]["reason"] == "upgrade_refused").await;
    assert_eq!(
        (&line["client"]["ip"], &line["http"]["response"]["status_code"]),
        (&"127.0.0.1".into(), &403.into())
    );
}

/// RFC 9112 2.2 and 5.2 let a server read these, and Envoy does: then there is one reading, which is judged and written
/// anew for the origin.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_leniently_reaches_the_origin_in_one_form() {
    let setting = Setting::with(POLICY).await;
    for (bytes, headers) in [
        (&b"GET http://good.site.test/x HTTP/1.1\nHost: good.site.test\n\n"[..], vec![]),
        (b"GET http://good.site.test/x HTTP/1.1\r\nHost: good.site.test\r\nX: a\nY: b\r\n\r\n", vec![("x", "a"), ("y", "b")]),
        (b"GET http://good.site.test/x HTTP/1.1\r\nHost: good.site.test\r\nX: a\r\n b\r\n\r\n", vec![("x", "a b")]),
        (b"GET http://good.site.test/x HTTP/1.1\r\nHost: good.site.test\r\nX: a\r\n Host: evil.site.test\r\n\r\n", vec![("x", "a Host: evil.site.test")]),
    ] {
        let before = setting.plain.received().len();
        let answer = client::raw(setting.proxy(), bytes).await;
        if answer.starts_with("HTTP/1.1 400") {
            assert_eq!(setting.plain.received().len(), before, "{answer}");
            continue;
        }
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let received = setting.plain.received();
        assert_eq!(received.len(), before + 1, "{answer}");
        let seen: Vec<_> = received[before].headers.iter().map(|(name, value)| {
            (name.as_str(), value.split_whitespace().collect::<Vec<_>>().join(" "))
        }).collect();
        let expected: Vec<_> = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        assert_eq!(seen, expected, "{answer}");
        assert_eq!(received[before].authority, "good.site.test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_sees_what_the_client_would_have_sent_it() {
    let setting = Setting::with(POLICY).await;
    let headers = [
        ("user-agent", "test/1"),
        ("accept", "*/*"),
        ("x-request-id", "mine"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    let proxied: Vec<_> = headers
        .into_iter()
        .chain([("proxy-authorization", "Basic c2VjcmV0"), ("proxy-connection", "keep-alive")])
        .collect();
    let sent: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();

    let url = Ask { target: "http://good.site.test/x", ..Ask::get("") }.at("good.site.test").with(&proxied);
    assert_eq!(client::in_the_clear(setting.proxy(), url).await.status, 200);
    assert_eq!(
        (setting.plain.last().headers, setting.plain.last().authority.as_str()),
        (sent.clone(), "good.site.test")
    );

    for tls in [setting.trusting("good.site.test"), setting.trusting("good.site.test").http1()] {
        let ask = Ask::get("/x").at("good.site.test").with(&headers);
        let (reply, _) = client::https(setting.proxy(), "good.site.test", &tls, ask).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(setting.secure.last().headers, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_say_who_calls_count_only_from_where_they_may_come() {
    let policy = "
name: identities
rules:
- {name: builders, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"source.matchTag('tagValues/777')\"}
outgate:
  sources:
  - {header: {name: X-Builder, value: 'yes', from: [FROM]}, tags: [tagValues/777]}
";
    for (from, trusted) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let setting = Setting::with(&policy.replace("FROM", from)).await;
        let connected =
            client::connect_with(setting.proxy(), "any.site.test:443", &[("x-builder", "yes")]).await;
        assert_eq!(connected.is_ok(), trusted, "from {from}");
        assert!(client::connect(setting.proxy(), "any.site.test:443").await.is_err(), "without the header");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_let_the_host_differ_but_never_where_it_goes() {
    let origins = outgate_tests::certificates::Authority::new("Named CA");
    let origin = outgate_tests::origin::Origin::tls(&origins.server(&["named.site.test"])).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, origins.pem()).unwrap();
    let options = outgate_tests::outgate::Options::default()
        .resolve("named.site.test", 443, origin.address)
        .with(&["--upstream-ca", roots.to_str().unwrap()]);
    let policy = crate::setting::INSPECT_ALL.to_owned() + "outgate: {hostMismatch: allow}\n";
    let setting = Setting::with_options(&policy, options).await;
    for tls in [setting.trusting("named.site.test"), setting.trusting("named.site.test").http1()] {
        let ask = Ask::get("/fronted").at("other.example:8443");
        let (reply, _) = client::https(setting.proxy(), "named.site.test", &tls, ask).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let received = origin.last();
        assert_eq!(
            (received.target.as_str(), received.authority.as_str()),
            ("/fronted", "other.example:8443")
        );
    }
    // The server name is compared all the same.
    let stream = client::connect(setting.proxy(), "named.site.test:443").await.unwrap();
    assert!(Tls::new("other.example", Vec::new()).handshake(stream).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_checked_for_their_server_name_where_the_policy_says_so() {
    let policy = "
name: verify
rules:
- {name: unread, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\"}
outgate: {tunnelSni: verify}
";
    let setting = Setting::with(policy).await;
    assert_eq!(setting.https("good.site.test", "/").await.1, crate::setting::ORIGINS, "unread all the same");
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    assert!(Tls::new("evil.site.test", Vec::new()).handshake(stream).await.is_err());
    let line = setting.outgate.line(|line| line["event"]["reason"] == "host_mismatch").await;
    assert_eq!(line["outgate"]["verdict"], "fail", "{line}");
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    Tls::new("good.site.test", Vec::new()).no_server_name().handshake(stream).await.unwrap();
}

/// What `openssl s_client` gets through a tunnel when it asks for this server name: the subject of the certificate.
fn openssl(setting: &Setting, authority: &str, server_name: &[&str]) -> Option<String> {
    let output = std::process::Command::new("openssl")
        .args(["s_client", "-proxy", &setting.proxy().to_string(), "-connect", authority])
        .args(server_name)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("issuer=")).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_names_are_compared_as_hosts_are_whether_decrypted_or_not() {
    let policy = (POLICY.to_owned() + "outgate: {tunnelSni: verify}\n").replace(
        "tlsInspectionPolicies",
        "- {name: unread, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host() == 'unread.site.test' || host() == 'xn--bcher-kva.site.test'\"}\ntlsInspectionPolicies",
    );
    let setting = Setting::with(&policy).await;
    for (host, issuer) in
        [("good.site.test", "Outgate development CA"), ("unread.site.test", crate::setting::ORIGINS)]
    {
        let authority = format!("{host}:443");
        let upper = host.to_ascii_uppercase();
        let dotted = format!("{host}.");
        for same in [host, &upper, &dotted] {
            let seen = openssl(&setting, &authority, &["-servername", same]);
            assert!(seen.as_ref().is_some_and(|seen| seen.contains(issuer)), "{same}: {seen:?}");
        }
        for other in ["evil.site.test", "b\u{fc}cher.site.test", "\u{1F4A9}"] {
            assert_eq!(openssl(&setting, &authority, &["-servername", other]), None, "{host}: {other}");
        }
        let absent = openssl(&setting, &authority, &["-noservername"]);
        assert_eq!(
            absent.is_some(),
            host == "unread.site.test",
            "a tunnel goes on, inspection does not: {absent:?}"
        );
    }
    for reason in ["no_sni", "host_mismatch"] {
        setting.outgate.line(|line| line["event"]["reason"] == reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_the_scheme_that_its_connection_has() {
    let setting = Setting::with(POLICY).await;
    let stream = client::connect(setting.proxy(), "good.site.test:443").await.unwrap();
    let stream = setting.trusting("good.site.test").handshake(stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    for (scheme, status) in [("http", 400), ("https", 200)] {
        let request = hyper::Request::get(format!("{scheme}://good.site.test/"))
            .body(http_body_util::Empty::<hyper::body::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{scheme}");
        if status == 400 {
            assert_eq!(response.headers()["x-outgate-reason"], "scheme_mismatch");
        }
    }
    for authority in
        ["good.site.test.:25", "good.site.test:0443", "user@good.site.test", "good.site.test:443:443"]
    {
        let tls = setting.trusting("good.site.test").http1();
        let ask = Ask::get("/").at(authority);
        let (reply, _) = client::https(setting.proxy(), "good.site.test", &tls, ask).await.unwrap();
        assert!(matches!(reply.status, 400 | 421), "{authority}: {reply:?}");
    }
    assert_eq!(setting.secure.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_limits_and_every_value_counts() {
    let policy = "
name: headers
rules:
- {name: latin, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"host() == 'latin.site.test'\", applicationMatcher: \"request.headers['X-Name'] == 'b\u{fc}cher'\"}
- {name: joined, enabled: true, priority: 20, basicProfile: ALLOW, sessionMatcher: \"host() == 'joined.site.test'\", applicationMatcher: \"request.headers['x-name'] == 'a,b' || request.headers['x-name'] == 'a, b'\"}
";
    let setting = Setting::with(policy).await;
    let raw = async |host: &str, headers: &[u8]| {
        let mut request = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        request.extend(headers);
        request.extend(b"Connection: close\r\n\r\n");
        client::raw(setting.proxy(), &request).await
    };
    for (host, headers, status) in [
        ("latin.site.test", &b"x-NAME: b\xfccher\r\n"[..], 200),
        ("latin.site.test", "X-Name: b\u{fc}cher\r\n".as_bytes(), 200),
        ("latin.site.test", b"X-Name: bucher\r\n", 403),
        ("joined.site.test", b"X-Name: a\r\nX-Name: b\r\n", 200),
        ("joined.site.test", b"X-Name: a\r\n", 403),
    ] {
        let answer = raw(host, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    let many: Vec<u8> = (0..200).flat_map(|number| format!("x-{number}: y\r\n").into_bytes()).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(100_000)).into_bytes();
    for headers in [many, long] {
        let answer = raw("latin.site.test", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("headers_too_large"), "{answer}");
    }
}

/// Through the proxy and directly, by curl itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_origin_sees_exactly_what_curl_sends_it_directly() {
    let setting = Setting::with(POLICY).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(
        &roots,
        std::fs::read_to_string(setting.outgate.ca_file()).unwrap() + &setting.origins.pem(),
    )
    .unwrap();
    // The order of headers with different names means nothing (RFC 9110 5.3), and HTTP/2 in Envoy puts cookies last.
    let seen = |origin: &outgate_tests::origin::Origin| {
        let mut received = origin.last();
        received.headers.sort_by(|one, other| one.0.cmp(&other.0));
        format!("{received:?}")
    };
    let curl = |version: &str, arguments: &[&str]| {
        let status = std::process::Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "--noproxy", "", version, "--cacert", roots.to_str().unwrap()])
            .args(["-H", "X-Twice: 1", "-H", "X-Twice: 2", "-H", "Cookie: a=b", "-A", "test", "-d", "x=1"])
            .args(arguments)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{arguments:?}");
    };
    let proxy = format!("http://{}", setting.proxy());
    let direct = setting.secure.address;
    for version in ["--http1.1", "--http2"] {
        curl(
            version,
            &["--connect-to", &format!("good.site.test:443:{direct}"), "https://good.site.test/a?b"],
        );
        let expected = seen(&setting.secure);
        curl(version, &["-x", &proxy, "https://good.site.test/a?b"]);
        assert_eq!(seen(&setting.secure), expected, "{version}");
    }
    curl(
        "--http1.1",
        &[
            "--connect-to",
            &format!("good.site.test:80:{}", setting.plain.address),
            "http://good.site.test/a?b",
        ],
    );
    let expected = seen(&setting.plain);
    curl("--http1.1", &["-x", &proxy, "http://good.site.test/a?b"]);
    assert_eq!(seen(&setting.plain), expected);
    assert_eq!(setting.plain.received().len(), 2);
}
