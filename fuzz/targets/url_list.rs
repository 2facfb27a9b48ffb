//! URL lists: any entries are read or refused; a list has what any of its entries has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate_fuzz::{Answer, ask, compile, policy};
use serde_json::json;

fuzz_target!(|input: (&str, &str)| {
    let (value, entries) = input;
    let entries: Vec<&str> = entries.lines().take(8).collect();
    let has = |entries: &[&str]| {
        let mut policy = policy("inUrlList(request.headers['x'], 'l')");
        policy["urlLists"] = json!([{"name": "l", "values": entries}]);
        compile(&policy).map(|engine| ask(&engine, value))
    };
    if value.chars().any(char::is_control) {
        return;
    }
    let Some(together) = has(&entries) else { return };
    let any = entries.iter().any(|entry| has(&[entry]) == Some(Answer::True));
    assert_eq!(together == Answer::True, any, "{value:?} in {entries:?}");
});
