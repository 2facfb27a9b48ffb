//! The first filter of every connection to the explicit listener, where clients have a limit: turns away those that
//! have enough connections open.

use std::net::IpAddr;
use std::rc::Rc;

use log::warn;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, StreamContext};
use proxy_wasm::types::{Action, PeerType};

use super::client;
use super::filter::Filter;
use crate::client_table;

/// Tries to write a slot that other workers write too.
const TRIES: usize = 100;

/// One connection.
pub struct ClientConnection {
    filter: Rc<Filter>,
    limit: u32,
    /// Whose connection it is, while it counts.
    counted: Option<IpAddr>,
    refused: bool,
}

impl ClientConnection {
    /// A connection that is about to begin.
    pub fn new(filter: Rc<Filter>, limit: u32) -> Self {
        Self { filter, limit, counted: None, refused: false }
    }
}

impl Context for ClientConnection {}

impl StreamContext for ClientConnection {
    fn on_new_connection(&mut self) -> Action {
        let client = client::address(&self.filter).map(|address| address.ip().to_canonical());
        self.counted =
            client.filter(|client| update(*client, |slot| client_table::add(slot, *client, self.limit)));
        if self.counted.is_some() {
            return Action::Continue;
        }
        self.refused = true;
        if self.filter.metrics.turned_away() {
            warn!(
                "{} has {} connections open, which is the limit of each client (--max-connections-per-client)",
                client.map_or_else(|| "a client".to_owned(), |client| client.to_string()),
                self.limit,
            );
        }
        let _closed = hostcalls::close_downstream();
        Action::Pause
    }

    fn on_downstream_data(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        if self.refused { Action::Pause } else { Action::Continue }
    }

    fn on_downstream_close(&mut self, _peer: PeerType) {
        if let Some(client) = self.counted.take() {
            update(client, |slot| Some(client_table::remove(slot, client)));
        }
    }
}

/// Changes the slot of this client; false if that is refused, or never succeeds.
fn update(client: IpAddr, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
    let slot = client_table::slot(client);
    (0..TRIES).find_map(|_| {
        let (old, version) = hostcalls::get_shared_data(&slot).unwrap_or_default();
        let Some(new) = change(&old.unwrap_or_default()) else { return Some(false) };
        // Another worker may have written meanwhile.
        hostcalls::set_shared_data(&slot, Some(&new), version).ok().map(|()| true)
    }) == Some(true)
}
