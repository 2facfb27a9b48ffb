//! Hosts, destinations and paths of requests: any text is read or refused, and what was read is its own normal form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outgate_policy::{Authority, Destination, HostName, RequestPath};

fuzz_target!(|text: &str| {
    if let Ok(host) = HostName::parse(text) {
        assert_eq!(HostName::parse(host.as_str()).unwrap(), host, "{text:?}");
    }
    if let Ok(destination) = Destination::parse(text) {
        let again = format!("{}:{}", destination.host.as_str(), destination.port);
        assert_eq!(Destination::parse(&again).unwrap(), destination, "{text:?}");
    }
    let _ = Authority::parse(text);
    if let Ok(path) = RequestPath::parse(text) {
        let again = RequestPath::parse(path.path()).unwrap();
        assert_eq!(again.path(), path.path(), "{text:?}");
        if let Some(folded) = path.folded() {
            assert!(
                !folded.contains("//") && !folded.contains('\\') && !folded.contains("/../"),
                "{text:?}: {folded:?}"
            );
        }
    }
});
