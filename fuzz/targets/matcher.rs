//! Matchers: any text compiles or is refused, and what compiles obeys the laws of logic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate_fuzz::{Answer, ask, compile, policy};

fuzz_target!(|matcher: &str| {
    let Some(engine) = compile(&policy(matcher)) else { return };
    let answer = ask(&engine, "a");
    for (law, expected) in [
        (
            format!("!({matcher}\n)"),
            match answer {
                Answer::True => Answer::False,
                Answer::False => Answer::True,
                Answer::Fails => Answer::Fails,
            },
        ),
        (format!("({matcher}\n) || true"), Answer::True),
        (format!("({matcher}\n) && false"), Answer::False),
        (format!("({matcher}\n) && ({matcher}\n)"), answer),
        (
            format!("({matcher}\n) == ({matcher}\n)"),
            match answer {
                Answer::Fails => Answer::Fails,
                _ => Answer::True,
            },
        ),
    ] {
        // It may be too long by now.
        if let Some(engine) = compile(&policy(&law)) {
            assert_eq!(ask(&engine, "a"), expected, "{law}");
        }
    }
});
