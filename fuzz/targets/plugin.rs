//! Plugin JSON: any bytes are a configuration or are refused, and so are the programs of its patterns; a policy that
//! is written and read again is the same.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use outgate_filter::configuration::PluginJson;
use outgate_fuzz::{ask, checked, compile};
use outgate_policy::Engine;

fuzz_target!(|bytes: &[u8]| {
    match PluginJson::parse(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(PluginJson::PolicyOf(_)) => {}
        Ok(PluginJson::Policy(configuration)) => {
            let written = serde_json::to_string(&configuration).unwrap();
            let PluginJson::Policy(again) = PluginJson::parse(written.as_bytes()).unwrap() else {
                panic!("{written}");
            };
            if let Some(engine) = checked(Engine::with_programs(Cow::Borrowed(&configuration.policy), &configuration.patterns)) {
                ask(&engine, "a");
            }
            if let Some(engine) = compile(&configuration.policy) {
                ask(&engine, "a");
                let again = compile(&again.policy).unwrap();
                assert_eq!(again.hash(), engine.hash(), "{written}");
            }
        }
    }
});
