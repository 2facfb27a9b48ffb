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
