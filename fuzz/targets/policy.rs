//! Policies as files: any text is a policy or is refused; a policy's verdicts can be asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate_fuzz::{ask, checked};
use outgate_policy::Engine;

fuzz_target!(|text: &str| {
    if let Some(engine) = checked(Engine::from_text(text)) {
        ask(&engine, "a");
    }
});
