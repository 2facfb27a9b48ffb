//! No policy and no input overflows a small stack, panics, or takes long.

use super::*;
use std::time::{Duration, Instant};

fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap()
}

#[test]
fn hostile_matchers_end_in_errors_or_engines_soon() {
    let texts = [
        "(".repeat(10_000),
        format!("{}true{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("{}true{}", "(".repeat(60), ")".repeat(60)),
        "a".repeat(1_000_000),
        format!("true{}", " || true".repeat(125_000)),
        format!("true{}", " || true".repeat(1_500)),
        format!("true{}", " && (true || false)".repeat(700)),
        format!("1{} == 1", "+1".repeat(5_000)),
        format!("1{} == 1", "+1".repeat(60)),
        format!("host(){} == 'a'", ".lower()".repeat(2_000)),
        format!("host(){} == 'a'", ".lower()".repeat(60)),
        format!("{}true", "!".repeat(16_000)),
        format!("{}1 == 1", "-".repeat(16_000)),
        format!("{}true", "true ? false : ".repeat(1_000)),
        format!("{}true", "true ? false : ".repeat(60)),
        format!("{}true{}", "true ? ".repeat(60), " : false".repeat(60)),
        format!("host() in [{}]", "'a',".repeat(4_000)),
        format!("{}x == 'a'{}", "['a','b','c'].exists(x, ".repeat(20), ")".repeat(20)),
        format!("[{}].exists(x, [{}].exists(y, x == y))", "'a',".repeat(1_000), "'a',".repeat(1_000)),
        format!("{}.exists(x, true)", "[".repeat(60)),
        format!("{}1{} == [1]", "[".repeat(60), "]".repeat(60)),
        format!("has({})", "a.".repeat(5_000)),
        format!("host().matches('{}')", "(".repeat(5_000)),
        "host().matches('((a{100}){100}){20}')".to_owned(),
        "host().matches('[\\\\pL]{500}')".to_owned(),
        format!("host().matches('{}')", "\\\\pL".repeat(400)),
        format!("host().matches('(?i){}')", "\\\\pL".repeat(400)),
        "\u{0}".to_owned(),
        "🦀 == '🦀'".to_owned(),
        "host() == '🦀' && 🦀".to_owned(),
        "//".to_owned(),
        "// comment".to_owned(),
        ".".to_owned(),
        "1 +".to_owned(),
        "'\\q'".to_owned(),
        "1.all(x, true)".to_owned(),
        "`a`".to_owned(),
        "a.?b".to_owned(),
        "[?a]".to_owned(),
        "ma[[[[[[[[[[\u{c}\0[[putTo?[[ep".to_owned(),
    ];
    for text in texts {
        let beginning: String = text.chars().take(60).collect();
        let started = Instant::now();
        let outcome = on_a_small_stack(move || {
            let value =
                policy(json!([{"applicationMatcher": text, "tlsInspectionEnabled": true}]), json!({}));
            let engine = Engine::from_value(&value).map_err(|errors| errors.to_string())?;
            Ok::<_, String>(Case::default().request(&engine, RequestStage::Inspected))
        });
        assert!(started.elapsed() < Duration::from_secs(5), "{beginning}: {:?}", started.elapsed());
        if let Err(message) = outcome {
            assert!(message.len() < 2_000, "{beginning}: {message}");
        }
    }
}

/// What compiles a policy says, and how long it takes.
fn compile(value: Value) -> (String, Duration) {
    let started = Instant::now();
    let said = on_a_small_stack(move || match Engine::from_value(&value) {
        Ok(_) => "no error".to_owned(),
        Err(errors) => errors.to_string(),
    });
    (said, started.elapsed())
}

#[test]
fn hostile_policies_are_refused_soon_with_one_clear_error() {
    let matcher = |text: String| policy(json!([{"sessionMatcher": text}]), json!({}));
    let numbered = |count: usize, make: &dyn Fn(usize) -> Value| (0..count).map(make).collect::<Value>();
    let with_list = |entries: Value| {
        let mut policy = policy(json!([{}]), json!({}));
        policy["urlLists"] = json!([{"name": "long", "values": entries}]);
        policy
    };
    let list_of = |item: &str, count: usize| format!("host() in [{}]", vec![item; count].join(", "));
    for (name, value, expected) in [
        (
            "10,000 parentheses",
            matcher(format!("{}true{}", "(".repeat(10_000), ")".repeat(10_000))),
            "too long",
        ),
        (
            "8,000 parentheses",
            matcher(format!("{}true{}", "(".repeat(8_000), ")".repeat(8_000))),
            "more than 64 brackets",
        ),
        ("8,000 that never close", matcher("(".repeat(8_000)), "more than 64 brackets"),
        ("a megabyte of `a`", matcher("a".repeat(1 << 20)), "too long"),
        ("a megabyte of `||`", matcher(format!("true{}", " || true".repeat(1 << 17))), "too long"),
        ("a megabyte of text", matcher(format!("host() == '{}'", "a".repeat(1 << 20))), "too long"),
        ("a list of 100,000 texts", matcher(list_of("'a.example'", 100_000)), "too long"),
        (
            "a list of 5,000 numbers",
            matcher(format!("1 in [{}]", vec!["1"; 5_000].join(","))),
            "more than 5000 sub-expressions",
        ),
        (
            "lists in macros",
            matcher(format!("[{0}].exists(x, [{0}].exists(y, x == y))", "'a',".repeat(1_000))),
            "macros make more than",
        ),
        ("(a{1000}){1000}", matcher("host().matches('(a{1000}){1000}')".to_owned()), "repetitions multiply"),
        (
            "nested repetitions",
            matcher("host().matches('((a{10}){10}){11}')".to_owned()),
            "repetitions multiply",
        ),
        ("classes of Unicode", matcher("host().matches(R'[\\pL\\pN]{1000}')".to_owned()), "too much memory"),
        (
            "2,044 bytes of repetitions",
            matcher(format!("host().matches(R'{}')", r"\pL{99}".repeat(292))),
            "too much memory",
        ),
        ("2,000 groups", matcher(format!("host().matches('{}')", "(".repeat(2_000))), "more than 64 groups"),
        (
            "a pattern of 10,000 bytes",
            matcher(format!("host().matches('{}')", "a".repeat(10_000))),
            "the limit is 2048",
        ),
        (
            "100,000 entries",
            with_list(numbered(100_000, &|index| json!(format!("h{index}.example")))),
            "more than 50000 items",
        ),
        (
            "100,000 lists",
            {
                let mut policy = policy(json!([{}]), json!({}));
                policy["urlLists"] =
                    numbered(100_000, &|index| json!({"name": format!("l{index}"), "values": []}));
                policy
            },
            "more than 50000 items",
        ),
        ("100,000 rules", policy(numbered(100_000, &|_| json!({})), json!({})), "more than 50000 items"),
        (
            "100,000 ranges",
            policy(json!([{}]), json!({"destinations": {"allowPrivate": vec!["10.0.0.0/8"; 100_000]}})),
            "more than 50000 items",
        ),
    ] {
        let (said, time) = compile(value);
        assert!(said.contains(expected), "{name}: {said}");
        assert!(said.lines().count() <= 3 && said.len() < 1_000, "{name} is one error: {said}");
        assert!(time < Duration::from_secs(5), "{name}: {time:?}");
        eprintln!("{name}: {time:?}");
    }
}

#[test]
fn what_backtracking_engines_never_end_with_takes_linear_time() {
    let linear = [
        "(a*)*b",
        "(a|a)*b",
        "(a|aa)+$",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "(.*)(.*)(.*)(.*)(.*)x",
        "(a?){64}a{64}",
    ];
    let header = "a".repeat(60_000).leak();
    for pattern in linear {
        let engine = engine(
            json!([{"applicationMatcher": format!("request.headers['x'].matches('{pattern}')"), "tlsInspectionEnabled": true}]),
            json!({}),
        );
        let started = Instant::now();
        let case = Case { headers: vec![("x", header)], ..Case::default() };
        case.request(&engine, RequestStage::Inspected);
        eprintln!("{pattern}: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(5), "{pattern}: {:?}", started.elapsed());
    }
}

#[test]
fn many_errors_are_found_soon_and_the_first_hundred_said() {
    let rules = |matcher: &str| {
        (0..20_000).map(|index| json!({"sessionMatcher": matcher.replace('#', &index.to_string())})).collect()
    };
    let lists = |count: usize| {
        (0..count)
            .map(|index| json!({"name": format!("list{index}"), "values": ["a.example"]}))
            .collect::<Value>()
    };
    let mut names = policy(rules("inUrlList(host(), 'lst#')"), json!({}));
    names["urlLists"] = lists(10_000);
    let mut entries = policy(json!([{}]), json!({}));
    entries["urlLists"] = json!([{"name": "long", "values": vec!["no entry"; 20_000]}]);
    let mut policies = policy(json!([{}]), json!({}));
    policies["tlsInspectionPolicies"] = (0..20_000)
        .map(|index| json!({"name": format!("p{index}"), "caPool": "main", "trustConfig": "absent"}))
        .collect();
    for (name, value) in [
        ("syntax", policy(rules("host( == '#'"), json!({}))),
        ("names of lists", names),
        ("names of policies", policies),
        ("entries", entries),
        ("keys", {
            let mut policy = policy(json!([{}]), json!({}));
            policy["outgate"] = (0..20_000).map(|index| (format!("key{index}"), json!(1))).collect();
            policy
        }),
    ] {
        let (said, time) = compile(value);
        assert!(said.ends_with("these are the first 100 errors; there may be more"), "{name}: {said}");
        assert!(said.len() < 50_000, "{name}: {} bytes", said.len());
        assert!(time < Duration::from_secs(5), "{name}: {time:?}");
        eprintln!("{name}: {time:?}");
    }
}

#[test]
fn hostile_documents_end_in_errors() {
    for text in [
        "[".repeat(100_000),
        format!("{{\"rules\": {}", "[".repeat(100_000)),
        "{\"rules\":[{".to_owned(),
        String::new(),
        "null".to_owned(),
        "- a".to_owned(),
        "{}\n{}".to_owned(),
        "a: &a [*a]".to_owned(),
        "\u{feff}name: x\nrules: 5".to_owned(),
        "name: [a".to_owned(),
        "name: a\n---\nname: b\n".to_owned(),
    ] {
        let beginning: String = text.chars().take(20).collect();
        assert!(on_a_small_stack(move || Engine::from_text(&text).is_err()), "{beginning}");
    }
}

#[test]
fn a_thousand_random_token_soups_do_no_harm() {
    const TOKENS: [&str; 44] = [
        "host()",
        "source.ip",
        "request.headers",
        "['x']",
        "==",
        "!=",
        "<",
        "&&",
        "||",
        "!",
        "-",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "?",
        ":",
        "'a'",
        "\"b\"",
        "R'c'",
        "1",
        "9223372036854775808",
        "0x1",
        "1.5",
        "in",
        "has",
        ".exists(x,",
        "x",
        ".matches('",
        "(a|b)*",
        "')",
        "true",
        "null",
        "+",
        "%",
        "/",
        " ",
        "\n",
        "é",
        "size",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let soups: Vec<String> =
        (0..3_000).map(|_| (0..1 + random(24)).map(|_| TOKENS[random(TOKENS.len())]).collect()).collect();
    on_a_small_stack(move || {
        for soup in soups {
            let value =
                policy(json!([{"applicationMatcher": soup, "tlsInspectionEnabled": true}]), json!({}));
            if let Ok(engine) = Engine::from_value(&value) {
                Case::default().request(&engine, RequestStage::Inspected);
            }
        }
    });
}
