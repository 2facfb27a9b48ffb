//! Hostile policies in outgate.wasm itself: `outgate` refuses them long before, so they are put where only Envoy reads.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use outgate_tests::client;
use serde_json::{Value, json};

use crate::setting::{INSPECT_ALL, Setting};

/// How long the module may take to refuse a policy, on a machine where other tests run.
const LIMIT: Duration = Duration::from_secs(30);

/// What a module that trapped leaves in Envoy's log.
const TRAPS: [&str; 4] = ["Uncaught", "backtrace", "unreachable", "memory access out of bounds"];

struct Module {
    setting: Setting,
    state: tempfile::TempDir,
}

impl Module {
    fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("envoy.log")).unwrap()
    }

    /// Where Envoy reads what the module of the explicit listener is configured with.
    fn file(&self) -> PathBuf {
        self.state.path().join("run/filters/explicit.json")
    }

    /// Gives the module a policy, and says what it says, and how soon.
    fn refusal(&self, policy: Value) -> (String, Duration) {
        let mut response: Value = serde_json::from_slice(&fs::read(self.file()).unwrap()).unwrap();
        let plugin = response.pointer_mut("/resources/0/typed_config/config/configuration/value").unwrap();
        let mut configuration: Value = serde_json::from_str(plugin.as_str().unwrap()).unwrap();
        configuration["policy"] = policy;
        *plugin = configuration.to_string().into();
        response["version_info"] = format!("{:?}", Instant::now()).into();
        let before = self.log().len();
        let new = self.state.path().join("run/new.json");
        fs::write(&new, response.to_string()).unwrap();
        let good = fs::read(self.file()).unwrap();
        let started = Instant::now();
        fs::rename(&new, self.file()).unwrap();
        let said = loop {
            let log = self.log();
            let said = log.get(before..).unwrap();
            // Envoy says in its own words, once more, that the module refused.
            if said.contains("wasm log") && said.contains("Unable to create Wasm plugin") {
                break said.to_owned();
            }
            assert!(started.elapsed() < LIMIT, "no word from the module: {said}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let time = started.elapsed();
        fs::write(&new, good).unwrap();
        fs::rename(&new, self.file()).unwrap();
        (said, time)
    }
}

fn policy(rules: Value) -> Value {
    json!({"name": "hostile", "rules": rules, "urlLists": []})
}

fn rule(index: usize, matcher: &str) -> Value {
    json!({"name": format!("r{index}"), "enabled": true, "priority": index, "basicProfile": "ALLOW", "sessionMatcher": matcher})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_module_refuses_hostile_policies_soon_and_lives_on() {
    let state = tempfile::tempdir().unwrap();
    let options = outgate_tests::outgate::Options::default().state(state.path());
    let module = Module { setting: Setting::with_options(INSPECT_ALL, options).await, state };
    let matcher = |text: String| policy(json!([rule(1, &text)]));
    let mut entries = matcher("true".to_owned());
    entries["urlLists"] = json!([{"name": "long", "values": (0..100_000).map(|index| format!("h{index}.example")).collect::<Value>()}]);
    let mut names =
        policy((0..20_000).map(|index| rule(index, &format!("inUrlList(host(), 'lst{index}')"))).collect());
    names["urlLists"] =
        (0..10_000).map(|index| json!({"name": format!("list{index}"), "values": ["a.example"]})).collect();
    for (name, policy, expected) in [
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
        (
            "60 parentheses, then nonsense",
            matcher(format!("{}nonsense{}", "(".repeat(60), ")".repeat(60))),
            "unknown attribute",
        ),
        ("a megabyte of `||`", matcher(format!("true{}", " || true".repeat(1 << 17))), "too long"),
        (
            "16 kilobytes of errors",
            matcher(format!("x{}", " || x == (((x)))".repeat(1_000))),
            "unknown attribute",
        ),
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
        (
            "a pattern that nobody compiled",
            matcher("host().matches('a+')".to_owned()),
            "comes without its program",
        ),
        ("100,000 entries", entries, "more than 50000 items"),
        (
            "100,000 rules",
            policy((0..100_000).map(|index| rule(index, "true")).collect()),
            "more than 50000 items",
        ),
        ("20,000 misspelt names", names, "first 100 errors"),
        (
            "arrays inside each other",
            (0..100).fold(json!([]), |inner, _| json!([inner])),
            "expected an object",
        ),
    ] {
        let (said, time) = module.refusal(policy);
        eprintln!("{name}: {time:?}");
        assert!(said.contains(expected), "{name}: {said}");
        assert!(!TRAPS.iter().any(|trap| said.contains(trap)), "{name}: {said}");
        let reply = client::get(module.setting.proxy(), "http://alive.site.test/").await;
        assert_eq!(reply.status, 200, "{name}: the policy that was there is in force: {reply:?}");
    }
}
