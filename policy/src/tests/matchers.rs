//! What matchers mean.

use super::*;
use crate::attribute;
use time::macros::datetime;

fn certificate() -> ClientCertificate {
    ClientCertificate {
        subject: "CN=build".to_owned(),
        issuer: "CN=ca".to_owned(),
        serial: "0A".to_owned(),
        sha256: "00ff".to_owned(),
        uri_sans: vec!["spiffe://mesh/ns/build".to_owned()],
        dns_sans: vec!["a.mesh.example".to_owned(), "b.example".to_owned()],
        not_after: datetime!(2027-01-31 12:00 UTC),
    }
}

fn case() -> Case {
    Case {
        ip: "::ffff:10.1.2.3",
        tags: vec!["tagValues/12345".to_owned()],
        destination: "www.example.com:8443",
        certificate: Some(certificate()),
        connection: Some(Connection {
            sni: Some("www.example.com"),
            tls_version: Some("TLSv1.3"),
            ja4: None,
        }),
        method: "POST",
        path: "/a/b?x=1&y=%20",
        headers: vec![
            ("X-Team", "a"),
            ("x-team", "b"),
            ("user-agent", "curl/8"),
            ("content-length", "1234"),
            ("cookie", "é"),
        ],
        // A Thursday.
        now: datetime!(2026-11-19 23:30:15.250 UTC),
    }
}

/// What a matcher says of the case: `true`, `false` or `error`.
fn ask(matcher: &str) -> &'static str {
    let engine = engine(json!([{"applicationMatcher": matcher, "tlsInspectionEnabled": true}]), json!({}));
    match case().request(&engine, RequestStage::Inspected).as_str() {
        "allow r1" => "true",
        "deny" => "false",
        "deny, failed: r1" => "error",
        other => panic!("{matcher}: {other}"),
    }
}

fn check(table: &[(&str, &str)]) {
    for (matcher, expected) in table {
        assert_eq!(ask(matcher), *expected, "{matcher}");
    }
}

#[test]
fn attributes_have_the_values_of_the_table() {
    let table = [
        ("source.ip == '10.1.2.3'", "true"),
        ("source.port == 4711", "true"),
        ("destination.port == 8443", "true"),
        ("host() == 'www.example.com'", "true"),
        ("source.mtls", "true"),
        ("source.certificate.subject == 'CN=build'", "true"),
        ("source.certificate.issuer == 'CN=ca'", "true"),
        ("source.certificate.serial == '0A'", "true"),
        ("source.certificate.sha256 == '00ff'", "true"),
        ("source.certificate.spiffeId == 'spiffe://mesh/ns/build'", "true"),
        ("'b.example' in source.certificate.dnsSans", "true"),
        ("'x' in source.certificate.uriSans", "false"),
        ("source.certificate.notAfter > timestamp('2027-01-31T13:00:00+02:00')", "true"),
        ("connection.sni == 'www.example.com'", "true"),
        ("connection.tlsVersion == 'TLSv1.3'", "true"),
        ("connection.ja4 == 'x'", "error"),
        ("has(connection.ja4)", "false"),
        ("has(connection.sni)", "true"),
        ("request.method == 'POST'", "true"),
        ("request.host == 'www.example.com'", "true"),
        ("request.host() == 'www.example.com'", "true"),
        ("request.headers['host'] == 'www.example.com'", "true"),
        ("request.path == '/a/b'", "true"),
        ("request.query == 'x=1&y=%20'", "true"),
        ("request.scheme == 'https'", "true"),
        ("request.url() == 'www.example.com/a/b'", "true"),
        ("request.useragent() == 'curl/8'", "true"),
        ("request.headers['x-team'] == 'a,b'", "true"),
        ("request.headers['X-Team'] == 'a,b'", "true"),
        ("request.headers['X-' + 'Team'] == 'a,b'", "true"),
        ("request.headers.cookie == 'é'", "true"),
        ("request.headers['absent'] == ''", "error"),
        ("request.time.getHours() == 23", "true"),
    ];
    check(&table);
    for row in &attribute::TABLE {
        assert!(
            table.iter().any(|(matcher, _)| matcher.contains(row.name)),
            "no value of `{}` is tested",
            row.name
        );
    }
}

#[test]
fn the_scheme_is_that_of_the_connection() {
    let engine = engine(json!([{"applicationMatcher": "request.scheme == 'http'"}]), json!({}));
    assert_eq!(case().request(&engine, RequestStage::Clear), "allow r1");
}

#[test]
fn functions_of_the_table() {
    check(&[
        ("source.matchTag('tagValues/12345')", "true"),
        ("source.matchTag('tagValues/1')", "false"),
        ("source.matchServiceAccount('ci@p.example')", "true"),
        ("source.matchServiceAccount('ci')", "false"),
        ("inIpRange(source.ip, '10.0.0.0/8')", "true"),
        ("inIpRange(source.ip, '11.0.0.0/8')", "false"),
        ("inIpRange(source.ip, '2001:db8::/32')", "false"),
        ("inIpRange('[2001:db8::1]', '2001:db8::/120')", "true"),
        ("inIpRange(host(), '10.0.0.0/8')", "error"),
        ("inUrlList(host(), 'banks')", "false"),
        ("inUrlList('a.bank.example', 'projects/1/locations/l/urlLists/banks')", "true"),
        ("inUrlList('pay.example/checkout/1', 'banks')", "true"),
        ("inUrlList('pay.example/x', 'banks')", "false"),
        ("inUrlList('pay.example', 'banks')", "true"),
        ("host() == R'www.example.com'", "true"),
        (r#"R"fo'o\d" == 'fo\'o\\d'"#, "true"),
        ("host() != 'x'", "true"),
        ("host().contains('example')", "true"),
        ("host().startsWith('www.')", "true"),
        ("host().endsWith('.com')", "true"),
        ("host().endsWith('.org')", "false"),
        ("host().matches('exam.le')", "true"),
        ("host().matches('^exam.le')", "false"),
        (r"request.path.matches(R'^/\w/\w$')", "true"),
        ("'ÀB'.lower() == 'àb'", "true"),
        ("'àb'.upper() == 'ÀB'", "true"),
        ("'ÀB'.lowerAscii() == 'Àb'", "true"),
        ("'àb'.upperAscii() == 'àB'", "true"),
        ("host() + ':' + string(destination.port) == 'www.example.com:8443'", "true"),
        ("int(request.headers['content-length']) > 1000", "true"),
        ("int(request.headers['x-team']) > 1000", "error"),
        ("int('99999999999999999999') > 1", "error"),
        ("true", "true"),
        ("false", "false"),
    ]);
}

#[test]
fn functions_of_cel_that_the_table_lacks() {
    check(&[
        ("has(request.headers.cookie)", "true"),
        ("has(request.headers.absent)", "false"),
        ("'x-team' in request.headers", "true"),
        ("'X-TEAM' in request.headers", "true"),
        ("'absent' in request.headers", "false"),
        ("host() in ['a', 'www.example.com']", "true"),
        ("host() in [request.headers['cookie'], request.host]", "true"),
        ("host() in ['a', request.headers['absent'], 'www.example.com']", "error"),
        ("host() in ['a', request.headers['absent']]", "error"),
        ("destination.port in [443, 8443]", "true"),
        ("size('é') == 1", "true"),
        ("'é'.size() == 1", "true"),
        ("size(source.certificate.dnsSans) == 2", "true"),
        ("size(request.headers) == 5", "true"),
        ("'a' < 'b' && 'B' < 'a' && 'a' <= 'a' && 'b' > 'a' && 'b' >= 'b'", "true"),
        ("1 + 2 * 3 - 4 / 2 == 5", "true"),
        ("-7 / 2 == -3 && -7 % 2 == -1", "true"),
        ("-(destination.port) == -8443", "true"),
        ("9223372036854775807 + destination.port > 0", "error"),
        ("-9223372036854775808 - destination.port > 0", "error"),
        ("destination.port / 0 == 1", "error"),
        ("destination.port % 0 == 1", "error"),
        ("-9223372036854775808 / -(destination.port - 8442) == 1", "error"),
        ("destination.port == 8443 ? host() == 'www.example.com' : false", "true"),
        ("(source.mtls ? 'a' : 'b') == 'a'", "true"),
        ("(source.mtls ? 1 : 2) == 1", "true"),
        ("(1 / 0 == 1) ? true : true", "error"),
        ("true ? true : 1 / 0 == 1", "true"),
        ("source.mtls == true", "true"),
        ("source.mtls != true", "false"),
        ("string(source.mtls) == 'true'", "true"),
        ("string(request.time).startsWith('2026-11-19T23:30:15')", "true"),
        ("int(request.time) == 1795131015", "true"),
        ("['a', 'www.example.com'].exists(x, host() == x)", "true"),
        ("['a', 'b'].exists(x, host() == x)", "false"),
        ("['www', 'com'].all(x, host().contains(x))", "true"),
        ("['www', 'com'].exists_one(x, host().startsWith(x))", "true"),
        ("['w', 'ww'].exists_one(x, host().startsWith(x))", "false"),
        ("['10.0.0.0/8', '11.0.0.0/8'].exists(r, inIpRange(source.ip, r))", "true"),
        ("['x', 'www'].exists(x, ['a', 'b'].exists(y, host().startsWith(x)))", "true"),
        ("source.certificate.dnsSans.exists(n, n.endsWith('.mesh.example'))", "true"),
        ("source.certificate.dnsSans.all(n, n.endsWith('.mesh.example'))", "false"),
        ("source.certificate.dnsSans.exists_one(n, n == 'b.example')", "true"),
        ("source.certificate.dnsSans.exists(n, ['a.', 'c.'].exists(p, n.startsWith(p)))", "true"),
        ("request.time < timestamp('2027-01-01T00:00:00Z')", "true"),
        ("request.time.getDayOfWeek() == 4 && request.time.getDayOfWeek('+01:00') == 5", "true"),
        (
            "request.time.getFullYear() == 2026 && request.time.getMonth() == 10 && request.time.getDate() == 19",
            "true",
        ),
        ("request.time.getDayOfMonth() == 18 && request.time.getDayOfYear() == 322", "true"),
        (
            "request.time.getMinutes() == 30 && request.time.getSeconds() == 15 && request.time.getMilliseconds() == 250",
            "true",
        ),
        ("request.time.getHours('-05:30') == 18 && request.time.getHours('UTC') == 23", "true"),
        ("has(source.certificate.spiffeId)", "true"),
        ("'''a\nb''' == 'a\\nb'", "true"),
        ("host() == 'www.example.com' // a comment\n && true", "true"),
    ]);
}

#[test]
fn logic_has_three_values() {
    const E: &str = "request.headers['absent'] == 'x'";
    for (matcher, expected) in [
        (E.to_owned(), "error"),
        (format!("!({E})"), "error"),
        (format!("true || {E}"), "true"),
        (format!("{E} || true"), "true"),
        (format!("false || {E}"), "error"),
        (format!("{E} || false"), "error"),
        (format!("false && {E}"), "false"),
        (format!("{E} && false"), "false"),
        (format!("true && {E}"), "error"),
        (format!("{E} && true"), "error"),
        (format!("{E} || {E} || true"), "true"),
        (format!("!({E} && false)"), "true"),
        (format!("{E} ? true : true"), "error"),
        (format!("({E}) == true"), "error"),
        (format!("['a', 'b'].exists(x, x == 'b' || {E})"), "true"),
        (format!("['a', 'b'].all(x, x == 'b' && {E})"), "false"),
        (format!("['a', 'b'].exists_one(x, x == 'b' || {E})"), "error"),
        ("!!true".to_owned(), "true"),
        ("!!!true".to_owned(), "false"),
        ("--1 == 1".to_owned(), "true"),
        ("true || false && false".to_owned(), "true"),
        ("!false && true".to_owned(), "true"),
        ("false ? false : true ? true : false".to_owned(), "true"),
    ] {
        assert_eq!(ask(&matcher), expected, "{matcher}");
    }
}

#[test]
fn a_source_without_a_certificate_has_none_of_its_attributes() {
    let without = Case { certificate: None, ..case() };
    for (matcher, expected) in [
        ("source.mtls", "deny"),
        ("!source.mtls", "tunnel r1"),
        ("source.certificate.subject == 'CN=build'", "deny, failed: r1"),
        ("source.mtls && source.certificate.subject == 'CN=build'", "deny"),
        ("has(source.certificate.subject)", "deny"),
        ("source.certificate.dnsSans.exists(n, true)", "deny, failed: r1"),
        ("source.certificate.notAfter > request.time", "deny, failed: r1"),
    ] {
        let engine = engine(json!([{"sessionMatcher": matcher}]), json!({}));
        assert_eq!(without.connect(&engine), expected, "{matcher}");
    }
}

#[test]
fn the_end_of_time_is_no_trap() {
    let last = Case {
        certificate: Some(ClientCertificate {
            not_after: datetime!(9999-12-31 23:59:59 UTC),
            ..certificate()
        }),
        ..case()
    };
    for (matcher, expected) in [
        ("source.certificate.notAfter.getHours('+14:00') == 13", "tunnel r1"),
        ("source.certificate.notAfter.getFullYear('+14:00') == 10000", "tunnel r1"),
        ("source.certificate.notAfter.getDayOfWeek('+14:00') == 6", "tunnel r1"),
        ("source.certificate.notAfter.getFullYear() == 9999", "tunnel r1"),
    ] {
        let engine = engine(json!([{"sessionMatcher": matcher}]), json!({}));
        assert_eq!(last.connect(&engine), expected, "{matcher}");
    }
}
