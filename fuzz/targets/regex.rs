//! Regular expressions: any pattern compiles or is refused; brackets and repetitions that change nothing change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate_fuzz::{ask, compile, policy, quoted};

fuzz_target!(|input: (&str, &str)| {
    let (pattern, text) = input;
    let matches = |pattern: &str| {
        let engine = compile(&policy(&format!("request.headers['x'].matches({})", quoted(pattern))))?;
        Some(ask(&engine, text))
    };
    let Some(answer) = matches(pattern) else { return };
    // What is never closed takes what follows for its own.
    if pattern.contains("\\Q") {
        return;
    }
    for same in [
        format!("(?:{pattern})"),
        format!("({pattern})"),
        format!("(?s:.*)(?:{pattern})"),
        format!("(?:{pattern}){{1}}"),
    ] {
        if let Some(other) = matches(&same) {
            assert_eq!(other, answer, "{same:?} and {pattern:?} on {text:?}");
        }
    }
});
