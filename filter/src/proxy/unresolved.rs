//! Tunnels that were opened, sniffed, and led nowhere: their name has no address, or one that is refused.
//!
//! Envoy does not tell its network filters which; our resolver does, after the connection is gone. So a root context
//! asks, and writes the line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::BufferType;
use serde_json::Value;

use super::filter::Filter;
use super::open_tunnels::Tunnel;
use outgate_policy::Reason;
use outgate_policy::document::parse_json;

/// cert-service is beside Envoy, but a name server may not be.
const LIMIT: Duration = Duration::from_secs(5);

/// More are not asked about at one time: their line says what is known without.
const MOST: usize = 256;

/// When the root has its turn.
const SOON: Duration = Duration::from_millis(1);

thread_local! {
    /// Not asked about yet.
    static WAITING: RefCell<Vec<Rc<Tunnel>>> = const { RefCell::new(Vec::new()) };
    /// Questions under way.
    static ASKED: RefCell<BTreeMap<u32, Rc<Tunnel>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Writes the line of a tunnel that found no address, once the resolver has said why.
pub fn explain(filter: &Filter, root: u32, tunnel: Rc<Tunnel>) {
    let busy = ASKED.with_borrow(BTreeMap::len) + WAITING.with_borrow(Vec::len) >= MOST;
    // Whoever asks gets the answer, and this context ends now: the root asks, at its next tick.
    if busy || hostcalls::set_effective_context(root).is_err() {
        record(filter, &tunnel, false);
        return;
    }
    WAITING.with_borrow_mut(|waiting| waiting.push(tunnel));
    let _set = hostcalls::set_tick_period(SOON);
}

/// The root's turn.
pub fn ask(filter: &Filter) {
    for tunnel in WAITING.take() {
        let path = format!("/v1/names/{}", tunnel.destination.host);
        let headers = vec![(":method", "GET"), (":path", path.as_str()), (":authority", "cert-service")];
        match hostcalls::dispatch_http_call(&filter.grants_cluster, headers, None, vec![], LIMIT) {
            Ok(token) => {
                ASKED.with_borrow_mut(|asked| asked.insert(token, tunnel));
            }
            Err(_) => record(filter, &tunnel, false),
        }
    }
}

/// The resolver's answer; false if the call is none of ours.
pub fn answered(filter: &Filter, token: u32, body_size: usize) -> bool {
    let Some(tunnel) = ASKED.with_borrow_mut(|asked| asked.remove(&token)) else { return false };
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten();
    let answer = parse_json(&body.unwrap_or_default()).unwrap_or_default();
    record(filter, &tunnel, answer.get("refused") == Some(&Value::Bool(true)));
    true
}

fn record(filter: &Filter, tunnel: &Tunnel, refused: bool) {
    let (reason, detail) = if refused {
        (Reason::DestinationRefused, "the name leads to an address that is private, local or reserved")
    } else {
        (Reason::UpstreamUnreachable, "the name has no address")
    };
    tunnel.record(filter, "fail", reason, None, detail);
}
