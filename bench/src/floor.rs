//! The floor under the whole path: the same Envoy, without our filters and with one certificate for all names.

use std::net::SocketAddr;

use outgate_tests::certificates::Identity;
use serde_json::{Value, json};

/// A header of the proxy's own, which the filter sets; without the filter, the client does.
pub type Header = (&'static str, String);

/// Takes out of the rendered configuration what is ours.
pub fn configuration(rendered: &Value, listen: SocketAddr, admin: SocketAddr, identity: &Identity) -> Value {
    let mut floor = rendered.clone();
    strip(&mut floor, identity);
    floor["admin"]["address"]["socket_address"]["port_value"] = admin.port().into();
    let listeners = floor["static_resources"]["listeners"].as_array_mut().unwrap();
    let explicit = listeners.iter_mut().find(|listener| listener["name"] == "outgate").unwrap();
    explicit["address"]["socket_address"]["port_value"] = listen.port().into();
    floor
}

fn strip(value: &mut Value, identity: &Identity) {
    match value {
        Value::Array(values) => {
            values.retain(|value| !is_ours(value));
            values.iter_mut().for_each(|value| strip(value, identity));
        }
        Value::Object(members) => {
            members.remove("early_header_mutation_extensions");
            if members.remove("custom_tls_certificate_selector").is_some() {
                members.insert(
                    "tls_certificates".to_owned(),
                    json!([{
                        "certificate_chain": {"inline_string": identity.certificate_pem},
                        "private_key": {"inline_string": identity.key_pem},
                    }]),
                );
            }
            members.values_mut().for_each(|value| strip(value, identity));
        }
        _ => {}
    }
}

/// A filter or an access logger of `outgate.wasm`.
fn is_ours(extension: &Value) -> bool {
    extension.get("config_discovery").is_some()
        || extension["typed_config"]["@type"].as_str().is_some_and(|kind| kind.contains(".wasm.v3."))
}

/// What the filter sets on a CONNECT that is inspected; each session has a name of its own, as long as ours.
pub fn inspected_session(number: u64, host: &str, port: u16) -> Vec<Header> {
    let mut headers = destination("tunnels".to_owned(), host, port);
    headers.push(("x-outgate-session", format!("{number:0>200}")));
    headers.push(("x-outgate-tunnel", "inspect".to_owned()));
    headers
}

/// What it sets on a CONNECT that is not read, or on a request in the clear.
pub fn destination(cluster: String, host: &str, port: u16) -> Vec<Header> {
    vec![
        ("x-outgate-route", cluster),
        ("x-outgate-host", format!("{host}.")),
        ("x-outgate-port", port.to_string()),
    ]
}

/// What it sets on an inspected request.
pub fn inspected_request(cluster: String) -> Vec<Header> {
    vec![("x-outgate-route", cluster)]
}
