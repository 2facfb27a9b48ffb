//! What the filter asks of Envoy, without the SDK's panics.

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;
use time::OffsetDateTime;

/// A property; absent and unreadable are the same.
pub fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

/// A property that is text, which a peer may have written.
pub fn text_property(path: &[&str]) -> Option<String> {
    let bytes = property(path).filter(|bytes| !bytes.is_empty())?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A number, or a duration in nanoseconds; negative ones are not known.
pub fn integer_property(path: &[&str]) -> Option<u64> {
    let bytes = property(path)?.try_into().ok()?;
    u64::try_from(i64::from_le_bytes(bytes)).ok()
}

/// A truth value.
pub fn flag_property(path: &[&str]) -> Option<bool> {
    match property(path)?.as_slice() {
        [byte] => Some(*byte != 0),
        _ => None,
    }
}

/// Sets a property of the connection or request.
pub fn set_property(name: &str, value: &[u8]) -> bool {
    hostcalls::set_property(vec![name], Some(value)).is_ok()
}

/// Sets a well-known filter state of Envoy's for this request.
///
/// The argument is the protobuf message `SetEnvoyFilterStateArguments {path = 1, value = 2, span = 3}`.
pub fn set_request_state(key: &str, value: &str) -> bool {
    const DOWNSTREAM_REQUEST: u8 = 1;
    let mut arguments = Vec::with_capacity(key.len() + value.len() + 8);
    for (tag, text) in [(0x0a, key), (0x12, value)] {
        arguments.push(tag);
        let mut length = text.len();
        while length >= 0x80 {
            arguments.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        arguments.push(u8::try_from(length).unwrap_or_default());
        arguments.extend_from_slice(text.as_bytes());
    }
    arguments.extend([0x18, DOWNSTREAM_REQUEST]);
    hostcalls::call_foreign_function("set_envoy_filter_state", Some(&arguments)).is_ok()
}

/// The address of one `end` of the connection: `source` or `destination`.
pub fn address(end: &str) -> Option<SocketAddr> {
    text_property(&[end, "address"])?.parse().ok()
}

/// The wall clock.
pub fn now() -> OffsetDateTime {
    hostcalls::get_current_time().map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from)
}

/// Milliseconds since 1970.
pub fn now_milliseconds() -> u64 {
    hostcalls::get_current_time()
        .ok()
        .and_then(|now| now.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

/// All request headers.
pub fn request_headers() -> Vec<(String, Vec<u8>)> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// Replaces or adds a request header.
pub fn set_request_header(name: &str, value: &str) -> bool {
    hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value)).is_ok()
}

/// Removes a request header.
pub fn remove_request_header(name: &str) -> bool {
    hostcalls::remove_map_value(MapType::HttpRequestHeaders, name).is_ok()
}
