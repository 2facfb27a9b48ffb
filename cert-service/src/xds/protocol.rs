//! The two ways to speak xDS on a stream: deltas, and the state of the world.

use std::collections::{BTreeSet, HashMap};

use prost::Message;
use tonic::Status;

use super::messages::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, SECRET_TYPE,
};

/// Translates between what is on the wire and the deltas that a session speaks.
pub trait Protocol: Default + Send + 'static {
    /// What Envoy sends.
    type Request: Message + Default + 'static;
    /// What it gets.
    type Response: Message + Default + 'static;

    /// What a request comes to; nothing if it is out of date.
    fn read(&mut self, request: Self::Request) -> Option<DeltaDiscoveryRequest>;

    /// What an answer comes to; a status ends the stream.
    fn write(&mut self, response: DeltaDiscoveryResponse) -> Result<Self::Response, Status>;
}

/// Deltas.
#[derive(Default)]
pub struct Delta;

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn read(&mut self, request: DeltaDiscoveryRequest) -> Option<DeltaDiscoveryRequest> {
        Some(request)
    }

    fn write(&mut self, response: DeltaDiscoveryResponse) -> Result<DeltaDiscoveryResponse, Status> {
        Ok(response)
    }
}

/// The state of the world, for one type of resources: each request has all names that are wanted.
///
/// It has no word for a resource that is gone or never was. Where one is, the stream ends with NOT_FOUND; Envoy, which
/// has a stream for each secret, then asks again after its own pause. What it holds it keeps.
#[derive(Default)]
pub struct StateOfTheWorld {
    wanted: BTreeSet<String>,
    last_nonce: String,
    begun: bool,
}

impl Protocol for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn read(&mut self, request: DiscoveryRequest) -> Option<DeltaDiscoveryRequest> {
        // It crossed an answer of ours; another comes when that has arrived.
        if !request.response_nonce.is_empty() && request.response_nonce != self.last_nonce {
            return None;
        }
        let wanted: BTreeSet<String> = request.resource_names.into_iter().collect();
        let first = !std::mem::replace(&mut self.begun, true);
        // A version is that of the one resource of a response.
        let held = match wanted.first() {
            Some(name) if first && wanted.len() == 1 && !request.version_info.is_empty() => {
                HashMap::from([(name.clone(), request.version_info)])
            }
            _ => HashMap::new(),
        };
        let translated = DeltaDiscoveryRequest {
            node: request.node,
            type_url: SECRET_TYPE.to_owned(),
            resource_names_subscribe: wanted.difference(&self.wanted).cloned().collect(),
            resource_names_unsubscribe: self.wanted.difference(&wanted).cloned().collect(),
            initial_resource_versions: held,
            response_nonce: request.response_nonce,
            error_detail: request.error_detail,
        };
        self.wanted = wanted;
        Some(translated)
    }

    fn write(&mut self, response: DeltaDiscoveryResponse) -> Result<DiscoveryResponse, Status> {
        if let Some(name) = response.removed_resources.first() {
            return Err(Status::not_found(format!("`{name}` has no certificate")));
        }
        self.last_nonce.clone_from(&response.nonce);
        let version_info = match response.resources.as_slice() {
            [one] => one.version.clone(),
            _ => response.nonce.clone(),
        };
        Ok(DiscoveryResponse {
            version_info,
            resources: response.resources.into_iter().filter_map(|resource| resource.resource).collect(),
            type_url: response.type_url,
            nonce: response.nonce,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|&name| name.to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn names_that_come_and_go_are_deltas() {
        let mut world = StateOfTheWorld::default();
        for (names, nonce, subscribed, unsubscribed) in [
            (&["a", "b"][..], "", &["a", "b"][..], &[][..]),
            (&["b", "c"], "", &["c"], &["a"]),
            (&["b", "c"], "", &[], &[]),
            (&[], "", &[], &["b", "c"]),
        ] {
            let delta = world.read(request(names, nonce)).unwrap();
            assert_eq!(delta.resource_names_subscribe, subscribed, "{names:?}");
            assert_eq!(delta.resource_names_unsubscribe, unsubscribed, "{names:?}");
        }
    }

    #[test]
    fn a_request_that_crossed_an_answer_is_ignored() {
        let mut world = StateOfTheWorld::default();
        assert!(world.read(request(&["a"], "")).is_some());
        world.write(DeltaDiscoveryResponse { nonce: "1".to_owned(), ..Default::default() }).unwrap();
        world.write(DeltaDiscoveryResponse { nonce: "2".to_owned(), ..Default::default() }).unwrap();
        assert!(world.read(request(&["a", "b"], "1")).is_none());
        let delta = world.read(request(&["a", "b"], "2")).unwrap();
        assert_eq!(delta.resource_names_subscribe, ["b"]);
    }

    #[test]
    fn the_version_of_one_name_is_what_it_holds() {
        let held = |names: &[&str], version: &str| {
            let request = DiscoveryRequest { version_info: version.to_owned(), ..request(names, "") };
            StateOfTheWorld::default().read(request).unwrap().initial_resource_versions
        };
        assert_eq!(held(&["a"], "v"), [("a".to_owned(), "v".to_owned())].into());
        assert_eq!(held(&["a"], ""), HashMap::new());
        assert_eq!(held(&["a", "b"], "v"), HashMap::new());
    }
}
