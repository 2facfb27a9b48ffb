//! Grants: cert-service mints for a host only after a verdict of ours asked for it.

use std::cell::RefCell;
use std::time::Duration;

use log::warn;
use outgate_policy::document::parse_json;
use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;
use serde_json::{Value, json};

use super::filter::Filter;
use super::host;
use crate::grant_table::{self, GrantKey, Validity};

/// cert-service is beside Envoy: what takes longer is broken.
const LIMIT: Duration = Duration::from_secs(1);

/// How often cert-service is asked which instance it is: a new one knows nothing of the grants of the one before, and is
/// asked again for each, before a client could notice.
pub const INSTANCE_PERIOD: Duration = Duration::from_secs(1);

thread_local! {
    /// What cert-service calls itself; none until it is known, empty where grants do not count because it has an
    /// allowlist.
    static INSTANCE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What asking led to.
#[derive(Debug)]
pub enum Asked {
    /// The host is granted; half of the grant's time may be over, then it is renewed in the background.
    Granted {
        /// The call that renews it.
        renewal: Option<Call>,
    },
    /// The answer is under way: wait for it.
    Waiting(Call),
    /// cert-service cannot be asked at all.
    Failed,
}

/// A call to cert-service that is under way.
#[derive(Debug)]
pub struct Call {
    key: GrantKey,
    token: u32,
    /// It was granted once, and goes on if there is no answer: Envoy may have the certificate.
    granted: bool,
}

/// Makes sure that `host` is granted in the policy's pool.
pub fn ask(filter: &Filter, host: &str) -> Asked {
    let pool = pool(filter);
    let key = GrantKey::new(pool, host);
    let (slot, _) = hostcalls::get_shared_data(&key.slot()).unwrap_or_default();
    let now = host::now_milliseconds();
    let validity = INSTANCE.with_borrow(|instance| match instance.as_deref() {
        Some("") => Validity::Fresh,
        instance => grant_table::lookup(&slot.unwrap_or_default(), &key, now, filter.since, instance),
    });
    match validity {
        Validity::Fresh => {
            filter.metrics.grant("cached");
            Asked::Granted { renewal: None }
        }
        Validity::Ageing => Asked::Granted { renewal: call(filter, &key, pool, host) },
        Validity::Doubtful => match call(filter, &key, pool, host) {
            Some(call) => Asked::Waiting(Call { granted: true, ..call }),
            None => Asked::Granted { renewal: None },
        },
        Validity::None => call(filter, &key, pool, host).map_or(Asked::Failed, Asked::Waiting),
    }
}

/// Asks which instance of cert-service is there.
pub fn ask_instance(filter: &Filter) {
    let headers = vec![(":method", "GET"), (":path", "/v1/instance"), (":authority", "cert-service")];
    // If that fails we ask again soon.
    let _call = hostcalls::dispatch_http_call(&filter.grants_cluster, headers, None, vec![], LIMIT);
}

/// Reads the answer.
pub fn learn_instance(body_size: usize) {
    if let Some(instance) = answer(body_size).get("instance").and_then(Value::as_str) {
        INSTANCE.set(Some(instance.to_owned()));
    }
}

/// Forgets that `host` was granted.
pub fn forget(filter: &Filter, host: &str) {
    let key = GrantKey::new(pool(filter), host);
    key.update(|slot| grant_table::remove(slot, &key));
}

/// The pool that the policy has certificates from.
fn pool(filter: &Filter) -> &str {
    filter.engine.document().tls_inspection.as_ref().map_or("", |policy| policy.ca_pool.as_str())
}

fn call(filter: &Filter, key: &GrantKey, pool: &str, host: &str) -> Option<Call> {
    let headers = vec![
        (":method", "POST"),
        (":path", "/v1/grants"),
        (":authority", "cert-service"),
        ("content-type", "application/json"),
        // Of two replicas one may just have ended. To ask twice does no harm, so whatever it had begun is asked of the
        // other; a few times, because the dead one may be chosen again until Envoy leaves it out.
        ("x-envoy-retry-on", "connect-failure,refused-stream,reset"),
        ("x-envoy-max-retries", "5"),
    ];
    let body = json!({"pool": pool, "host": host}).to_string();
    match hostcalls::dispatch_http_call(&filter.grants_cluster, headers, Some(body.as_bytes()), vec![], LIMIT)
    {
        Ok(token) => Some(Call { key: key.clone(), token, granted: false }),
        Err(status) => {
            filter.metrics.grant("failed");
            warn!("cannot ask for a grant: {status:?}; is `grants.cluster` the name of a cluster?");
            None
        }
    }
}

impl Call {
    /// Whether this is the call that was answered.
    pub fn is(&self, token: u32) -> bool {
        self.token == token
    }

    /// Reads the answer: whether the host is granted.
    pub fn finish(&self, filter: &Filter, body_size: usize) -> bool {
        let status = hostcalls::get_map_value(MapType::HttpCallResponseHeaders, ":status").ok().flatten();
        let answer = answer(body_size);
        let seconds = answer.get("expiresInSeconds").and_then(Value::as_u64);
        match (status.as_deref(), seconds) {
            (Some("200"), Some(seconds)) => {
                let instance = answer.get("instance").and_then(Value::as_str).unwrap_or_default();
                self.store(seconds.saturating_mul(1000), instance);
                filter.metrics.grant("granted");
                true
            }
            // Not cert-service's own word.
            _ if self.granted && answer.get("reason").is_none() => {
                filter.metrics.grant("cached");
                true
            }
            (status, _) => {
                filter.metrics.grant(if status.is_some() { "refused" } else { "failed" });
                warn!("no grant: cert-service answers {}", status.unwrap_or("nothing"));
                false
            }
        }
    }

    fn store(&self, lifetime: u64, instance: &str) {
        let now = host::now_milliseconds();
        self.key.update(|slot| grant_table::insert(slot, &self.key, now, lifetime, instance));
    }
}

/// The body of an answer, as JSON; null if it is none.
fn answer(body_size: usize) -> Value {
    let body = hostcalls::get_buffer(proxy_wasm::types::BufferType::HttpCallResponseBody, 0, body_size);
    parse_json(&body.ok().flatten().unwrap_or_default()).unwrap_or_default()
}

impl GrantKey {
    fn update(&self, change: impl Fn(&[u8]) -> Vec<u8>) {
        let slot = self.slot();
        let (old, version) = hostcalls::get_shared_data(&slot).unwrap_or_default();
        // Another worker may have written meanwhile: then this grant is asked for once more.
        let _stored = hostcalls::set_shared_data(&slot, Some(&change(&old.unwrap_or_default())), version);
    }
}
