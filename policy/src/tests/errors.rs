//! Everything that is wrong with a policy is said, with its place and the way out.

use super::*;

fn errors(value: &Value) -> String {
    Engine::from_value(value).unwrap_err().to_string()
}

#[test]
fn matcher_errors_have_rule_column_and_caret() {
    let value = policy(
        json!([
            {"name": "allow-docs", "sessionMatcher": "hosts() == 'example.com'"},
            {"name": "two", "sessionMatcher": "host() == 'a' && source.pi == 'b' || inUrlLst(host(), 'banks')",
             "applicationMatcher": "request.headers['x'] == 5"},
            {"name": "lines", "sessionMatcher": "host() == 'a'\n  || host() = 'b'"},
            {"name": "off", "enabled": false, "sessionMatcher": "nonsense("},
        ]),
        json!({}),
    );
    assert_eq!(
        errors(&value),
        "\
rule `allow-docs`: sessionMatcher: unknown attribute `hosts`; did you mean `host()`?
  hosts() == 'example.com'
  ^ column 1
rule `two`: sessionMatcher: unknown attribute `source.pi`; did you mean `source.ip`?
  host() == 'a' && source.pi == 'b' || inUrlLst(host(), 'banks')
                   ^ column 18
rule `two`: sessionMatcher: unknown function `inUrlLst`; did you mean `inUrlList`?
  host() == 'a' && source.pi == 'b' || inUrlLst(host(), 'banks')
                                       ^ column 38
rule `two`: applicationMatcher: a text cannot be compared with a number; `int(…)` makes a number of a text
  request.headers['x'] == 5
  ^ column 1
rule `lines`: sessionMatcher: nothing can be assigned here; write `==` to compare
    || host() = 'b'
              ^ line 2, column 13"
    );
}

#[test]
fn what_matchers_cannot_say_is_refused_where_it_stands() {
    for (matcher, column, expected) in [
        ("host", 1, "unknown attribute `host`; did you mean `host()`?"),
        ("request.urls() == 'a'", 1, "unknown attribute `request.urls`; did you mean `request.url()`?"),
        ("request.url == 'a'", 1, "unknown attribute `request.url`; did you mean `request.url()`?"),
        ("request.path() == 'a'", 1, "`request.path` is no function; leave out `()`"),
        ("source.ip() == 'a'", 1, "`source.ip` is no function"),
        ("destination.ip == 'a'", 1, "unknown attribute `destination.ip`"),
        ("source.matchTags('a')", 1, "unknown function `source.matchTags`; did you mean `source.matchTag`?"),
        ("source.matchTag()", 1, "`source.matchTag` takes 1 argument, but gets 0"),
        ("inIpRange(source.ip)", 1, "`inIpRange` takes 2 arguments, but gets 1"),
        ("host('a') == 'b'", 1, "`host` takes nothing, but gets 1"),
        ("host().toLower() == 'a'", 1, "unknown function `toLower`; did you mean `lower`?"),
        ("host().starts_with('a')", 1, "did you mean `startsWith`?"),
        ("hst().startsWith('a')", 1, "unknown attribute `hst`; did you mean `host()`?"),
        ("foo.startsWith('a')", 1, "unknown attribute `foo`"),
        ("startsWith(host(), 'a')", 1, "belongs behind a value"),
        ("inIpRange(source.ip, '10.0.0.0/33')", 22, "from 0 to 32"),
        ("inIpRange(source.ip, host())", 22, "must be a text that is written out"),
        ("inUrlList(host(), 'bank')", 19, "unknown URL list `bank`; did you mean `banks`?"),
        ("host().matches('a**')", 16, "no regular expression of RE2"),
        ("host().matches(host())", 16, "must be a text that is written out"),
        ("true && host()", 9, "must be true or false, but this is a text"),
        ("host()", 1, "a matcher must be true or false, but this is a text"),
        ("!host()", 2, "what follows `!` must be true or false"),
        ("host() == 1", 1, "a text cannot be compared with a number"),
        ("true < false", 1, "have no order"),
        ("host() + 1 == 'a'", 1, "`+` joins texts or adds numbers"),
        ("1.5 > 1", 1, "only whole numbers"),
        ("1u == 1", 1, "write it without `u`"),
        ("b'a' == 'a'", 1, "bytes are not supported"),
        ("host() == null", 11, "`null` is not supported"),
        ("{'a': 1}['a'] == 1", 1, "maps are not supported"),
        ("Foo{a: 1} == 1", 1, ""),
        ("'a' in 'abc'", 1, "`a.contains(b)` looks into texts"),
        ("host() in []", 11, "an empty list matches nothing"),
        ("host() in ['a', 1]", 17, "either texts or numbers"),
        ("host() in [true]", 12, "texts or numbers, not true or false"),
        ("1 in ['a']", 1, "is never in"),
        ("['a'].map(x, x + 'b') == ['ab']", 0, "`map` and `filter` are not supported"),
        ("['a'].filter(x, x == 'b').exists(y, true)", 0, "`map` and `filter` are not supported"),
        ("host().exists(x, true)", 1, "macros go over lists, not over a text"),
        ("[host()].exists(x, x == 'a')", 2, "macros go over lists of literals"),
        ("[1, 2][0] == 1", 1, "only `request.headers` takes `[…]`"),
        ("has(host())", 0, "invalid argument to has"),
        ("has(foo.bar)", 0, "unknown attribute `foo.bar`"),
        ("int(true) == 1", 5, "`int` takes a text"),
        ("timestamp('x') < request.time", 11, "`x` is no time"),
        ("timestamp('0001-01-01T00:00:00+01:00') < request.time", 11, "from the year 1"),
        ("timestamp('9999-12-31T23:59:59-01:00') < request.time", 11, "to the year 9999"),
        ("request.time.getHours('Europe/Berlin') == 1", 23, "no time zone"),
        ("host() == 'a' ? 1 : 'b'", 1, "must be of one type"),
        ("request.method == 'GET'", 1, "known only for requests"),
        ("request.headers['a'] == 'b'", 1, "known only for requests"),
        ("'a' in request.headers", 8, "known only for requests"),
        ("has(request.headers.a)", 0, "known only for requests"),
        ("x.exists(x, true)", 1, "unknown attribute `x`"),
        ("host() == 'a", 11, "unterminated"),
        ("(true", 1, "never closed"),
        ("", 1, "ends too early"),
    ] {
        let value = policy(json!([{"sessionMatcher": matcher}]), json!({}));
        let errors = Engine::from_value(&value).unwrap_err();
        let Some(PolicyError::Matcher(error)) = errors.iter().next() else { panic!("{matcher}: {errors}") };
        assert!(error.message.contains(expected), "{matcher}: {errors}");
        assert!(column == 0 || error.column == column, "{matcher}: {errors}");
    }
}

#[test]
fn a_rule_without_a_name_or_priority_has_its_other_errors_said_too() {
    let policy = json!({"name": "p", "rules": [
        {"priority": 1, "basicProfile": "ALLOW", "sessionMatcher": "hots() == 'a'"},
        {"name": "b", "priority": "x", "basicProfile": "ALLOW", "sessionMatcher": "source.ipp == 'a'"},
    ]});
    let errors = Engine::from_value(&policy).unwrap_err().to_string();
    for expected in ["missing key `name`", "hots", "expected a number", "source.ipp"] {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
}

#[test]
fn attributes_that_a_stage_never_has_are_refused() {
    for (rule, expected) in [
        (json!({"sessionMatcher": "connection.sni == 'a'"}), ""),
        (json!({"sessionMatcher": "connection.sni == 'a'", "tlsInspectionEnabled": true}), ""),
        (
            json!({"sessionMatcher": "connection.sni == 'a'", "applicationMatcher": "true"}),
            "known only of TLS",
        ),
        (json!({"applicationMatcher": "connection.ja4 == 'a'"}), "known only of TLS"),
        (json!({"applicationMatcher": "connection.ja4 == 'a'", "tlsInspectionEnabled": true}), ""),
        (json!({"sessionMatcher": "request.time < timestamp('2030-01-01T00:00:00Z')"}), ""),
        (
            json!({"sessionMatcher": "request.url() == 'a'", "tlsInspectionEnabled": true}),
            "ask for it in the applicationMatcher",
        ),
    ] {
        match Engine::from_value(&policy(json!([rule]), json!({}))) {
            Ok(_) => assert!(expected.is_empty(), "{rule}"),
            Err(errors) => {
                assert!(!expected.is_empty() && errors.to_string().contains(expected), "{rule}: {errors}")
            }
        }
    }
}

#[test]
fn all_errors_of_a_document_are_said_with_their_places() {
    let value = json!({
        "nam": "a",
        "tlsInspectionPolicy": "projects/p/locations/l/tlsInspectionPolicies/other",
        "rules": [
            {"name": "a", "priority": "10", "basicProfile": "allow", "sessionMatcher": 5, "enable": true},
            {"name": "b", "priority": 3_000_000_000_u32, "basicProfile": "ALLOW"},
            {"name": "c", "priority": 1, "basicProfile": "ALLOW", "sessionMatcher": "true", "enabled": "yes"},
            {"name": "c", "priority": 1, "basicProfile": "ALLOW", "sessionMatcher": "true"},
            7,
        ],
        "urlLists": [{"name": "x", "values": ["localhost", "ok.example", 5]}],
        "tlsInspectionPolicies": [{"name": "default", "caPool": "main", "minTlsVersion": "TLS_1_4", "trustConfig": "corp"}],
        "outgate": {
            "afterInspection": "loose",
            "sources": [{"cidrs": ["10.0.0.0"], "tags": ["t"]}, {"tags": ["t"]}, {"cidrs": []}],
            "destinations": {"allowPrivate": ["x"]},
            "log": {"allowances": 2},
            "banana": 1,
        },
    });
    assert_eq!(
        errors(&value),
        "\
nam: unknown key `nam`; did you mean `name`?
rules[0].enable: unknown key `enable`; did you mean `enabled`?
rules[0].priority: expected a number, found a text
rules[0].basicProfile: `allow` is not known here; use `ALLOW`, `DENY`
rules[0].sessionMatcher: expected a text, found a number; put quotes around it
rules[1].priority: `3000000000` is no whole number of 32 bits
rules[1]: missing key `sessionMatcher`
rules[2].enabled: expected true or false, found a text
rules[4]: expected an object, found a number
urlLists[0].values[0]: `localhost` is neither a domain such as `example.com` nor a URL such as `example.com/path`
urlLists[0].values[2]: expected a text, found a number; put quotes around it
outgate.banana: unknown key `banana`; known here: `sources`, `proxyProtocol`, `afterInspection`, `hostMismatch`, `tunnelSni`, \
`ambiguousPaths`, `errorsInDeny`, `openTunnels`, `destinations`, `trustConfigs`, `log`
outgate.sources[0].cidrs[0]: `10.0.0.0` has no prefix length; write `10.0.0.0/32` for one IPv4 address, `10.0.0.0/128` for one IPv6 address
outgate.sources[1]: no condition; add `cidrs`, `spiffeIds`, `dnsNames` or `header`
outgate.sources[2]: no identity; add `tags` or a `serviceAccount`
outgate.sources[2].cidrs: the list is empty; leave the key out, or the whole entry
outgate.destinations.allowPrivate[0]: `x` has no prefix length; write `x/32` for one IPv4 address, `x/128` for one IPv6 address
outgate.afterInspection: `loose` is not known here; use `strict`, `lenient`
outgate.log.allowances: `2` is out of range; use 0 to 1
tlsInspectionPolicies[0].trustConfig: `corp` is not there: `outgate.trustConfigs` is empty; add it
tlsInspectionPolicies[0].minTlsVersion: `TLS_1_4` is not known here; use `TLS_VERSION_UNSPECIFIED`, `TLS_1_0`, `TLS_1_1`, `TLS_1_2`, `TLS_1_3`
rules[3].name: `c` is the name of rules[2] already
tlsInspectionPolicy: `other` is not in `tlsInspectionPolicies`, which has `default`
rules: `c` and `c` both have priority 1, so nobody can tell which goes first; give each its own"
    );
}

#[test]
fn shares_that_two_parsers_may_read_differently_are_refused() {
    for (share, expected) in [
        (json!(0), None),
        (json!(1), None),
        (json!(0.123_456_789), None),
        (json!(1e-9), None),
        (json!(0.123_456_789_01), Some("too many digits")),
        (json!(1e-10), Some("too many digits")),
        (json!(-0.5), Some("out of range")),
    ] {
        let value = policy(json!([{}]), json!({"log": {"allowances": share}}));
        let said = Engine::from_value(&value).err().map(|errors| errors.to_string());
        assert_eq!(said.is_some(), expected.is_some(), "{share}");
        assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()), "{share}");
    }
}

#[test]
fn rules_that_inspect_need_a_tls_inspection_policy() {
    let rule = json!({"name": "r", "priority": 1, "basicProfile": "ALLOW", "sessionMatcher": "true", "tlsInspectionEnabled": true});
    let message = errors(&json!({"name": "p", "rules": [rule]}));
    assert_eq!(
        message,
        "tlsInspectionPolicy: missing, but rule `r` inspects; name one of `tlsInspectionPolicies`"
    );
    let mut off = rule.clone();
    off["enabled"] = json!(false);
    assert!(Engine::from_value(&json!({"name": "p", "rules": [off]})).is_ok());
}

#[test]
fn equal_priorities_of_enabled_rules_are_refused() {
    let rules = |extra: Value| {
        let mut second = json!({"name": "b", "priority": 7});
        second.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        policy(json!([{"name": "a", "priority": 7}, second]), json!({}))
    };
    assert!(errors(&rules(json!({}))).contains("`a` and `b` both have priority 7"));
    assert!(Engine::from_value(&rules(json!({"enabled": false}))).is_ok());
    assert!(Engine::from_value(&rules(json!({"shadow": true}))).is_ok());
}

#[test]
fn exports_leave_out_what_is_false() {
    let value =
        policy(json!([{"name": "a"}, {"name": "b", "createTime": "2026-01-01T00:00:00Z"}]), json!({}));
    let engine = Engine::from_value(&value).unwrap();
    let names: Vec<_> = engine.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn long_lines_are_cut_around_the_column() {
    let matcher =
        format!("{}hosts() == 'a'{}", "host() == 'a' || ".repeat(100), " || host() == 'b'".repeat(100));
    let message = errors(&policy(json!([{"sessionMatcher": matcher}]), json!({})));
    let lines: Vec<_> = message.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() < 120), "{message}");
    let caret = lines[2].chars().position(|character| character == '^').unwrap();
    assert!(lines[1].chars().skip(caret).collect::<String>().starts_with("hosts()"), "{message}");
    assert!(lines[2].ends_with("column 1701"), "{message}");
}
