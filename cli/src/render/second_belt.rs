//! The second belt of destination safety: Envoy itself refuses addresses that nobody may reach.
//!
//! The first are the filter, for addresses, and our resolver, for names: it refuses a whole answer. Envoy's RBAC sees
//! only the first address of an answer, before anything connects.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use outgate_policy::address::{Cidr, refused_ranges};
use serde_json::{Value, json};

/// The `rules` of RBAC: who leads to a private address, unless it is allowed, or to a listener of ours is denied.
pub fn rules(allowed: &[Cidr], own: &[SocketAddr]) -> Value {
    let private = any(refused_ranges().into_iter().map(|(ip, prefix)| upstream(ip, prefix, None)));
    let private = if allowed.is_empty() {
        private
    } else {
        let allowed = any(allowed.iter().flat_map(written).map(|(ip, prefix)| upstream(ip, prefix, None)));
        json!({"and_rules": {"rules": [private, {"not_rule": allowed}]}})
    };
    let own: BTreeSet<_> = own.iter().flat_map(reached_by).collect();
    let own = any(own.into_iter().map(|(ip, prefix, port)| upstream(ip, prefix, Some(port))));
    json!({
        "action": "DENY",
        "policies": {"destination_refused": {"permissions": [private, own], "principals": [{"any": true}]}},
    })
}

/// Envoy compares IPv4 and IPv6 apart.
fn written(range: &Cidr) -> Vec<(IpAddr, u8)> {
    let (network, prefix) = range.parts();
    let mut forms = vec![(network, prefix)];
    if let IpAddr::V4(v4) = network {
        forms.push((v4.to_ipv6_mapped().into(), 96 + prefix));
    }
    forms
}

/// The addresses by which a listener is reached: its own, and those that mean this host.
fn reached_by(listener: &SocketAddr) -> Vec<(IpAddr, u8, u16)> {
    let mut addresses = vec![
        (listener.ip(), if listener.is_ipv4() { 32 } else { 128 }),
        (Ipv4Addr::UNSPECIFIED.into(), 32),
        (Ipv6Addr::UNSPECIFIED.into(), 128),
    ];
    if listener.ip().is_unspecified() {
        addresses.extend([(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128)]);
    }
    addresses.into_iter().map(|(ip, prefix)| (ip, prefix, listener.port())).collect()
}

fn any(matchers: impl Iterator<Item = Value>) -> Value {
    json!({"or_rules": {"rules": matchers.collect::<Vec<_>>()}})
}

fn upstream(ip: IpAddr, prefix: u8, port: Option<u16>) -> Value {
    let mut matcher = json!({
        "@type": "type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher",
        "upstream_ip": {"address_prefix": ip.to_string(), "prefix_len": prefix},
    });
    if let (Some(port), Value::Object(members)) = (port, &mut matcher) {
        members.insert("upstream_port_range".to_owned(), json!({"start": port, "end": u32::from(port) + 1}));
    }
    json!({"matcher": {"name": "upstream", "typed_config": matcher}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_taken_out_and_own_listeners_never_are() {
        let own = ["127.0.0.1:9901".parse().unwrap(), "0.0.0.0:3128".parse().unwrap()];
        let rules = rules(&[Cidr::parse("10.0.0.0/8").unwrap()], &own);
        let permissions = &rules["policies"]["destination_refused"]["permissions"];
        let allowed = &permissions[0]["and_rules"]["rules"][1]["not_rule"]["or_rules"]["rules"];
        let range =
            |matcher: &Value| matcher["matcher"]["typed_config"]["upstream_ip"]["address_prefix"].clone();
        assert_eq!(range(&allowed[0]), "10.0.0.0");
        assert_eq!(range(&allowed[1]), "::ffff:10.0.0.0");
        let own = permissions[1]["or_rules"]["rules"].as_array().unwrap();
        let reached: Vec<_> = own
            .iter()
            .map(|matcher| {
                let port = &matcher["matcher"]["typed_config"]["upstream_port_range"]["start"];
                format!("{} {port}", range(matcher).as_str().unwrap())
            })
            .collect();
        for expected in ["127.0.0.1 9901", "0.0.0.0 9901", "0.0.0.0 3128", "127.0.0.1 3128", "::1 3128"] {
            assert!(reached.iter().any(|known| known == expected), "{expected}: {reached:?}");
        }
    }
}
