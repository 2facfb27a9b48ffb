//! How many connections each client has open, in Envoy's shared data: all workers count together.
//!
//! Shared data has no delete, so the table has a fixed number of slots; an entry leaves its slot with the client's last
//! connection, so all slots together never hold more than there are connections.

use std::net::IpAddr;

use crate::hash::stable;

/// How many slots there are.
const SLOTS: u32 = 1024;

/// The key of a client's slot.
pub fn slot(client: IpAddr) -> String {
    format!("outgate.clients.{}", stable(&client.to_string()) % SLOTS)
}

/// The slot with one more connection of this client, or none if it has `limit` already.
pub fn add(slot: &[u8], client: IpAddr, limit: u32) -> Option<Vec<u8>> {
    let open = count(slot, client);
    (open < limit).then(|| with(slot, client, open + 1))
}

/// The slot with one connection less.
pub fn remove(slot: &[u8], client: IpAddr) -> Vec<u8> {
    with(slot, client, count(slot, client).saturating_sub(1))
}

fn count(slot: &[u8], client: IpAddr) -> u32 {
    entries(slot).find(|(known, _)| *known == client).map_or(0, |(_, count)| count)
}

fn with(slot: &[u8], client: IpAddr, count: u32) -> Vec<u8> {
    let changed = (count > 0).then_some((client, count));
    let entries = entries(slot).filter(|(known, _)| *known != client).chain(changed);
    entries.map(|(client, count)| format!("{client} {count}\n")).collect::<String>().into_bytes()
}

/// Lines `address count`; what is none counts for nothing.
fn entries(slot: &[u8]) -> impl Iterator<Item = (IpAddr, u32)> {
    let lines = std::str::from_utf8(slot).unwrap_or_default().lines();
    lines.filter_map(|line| {
        let (client, count) = line.split_once(' ')?;
        Some((client.parse().ok()?, count.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_up_to_the_limit_and_leave_nothing_behind() {
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let mut slot = Vec::new();
        for _ in 0..3 {
            slot = add(&slot, one, 3).unwrap();
        }
        assert_eq!(add(&slot, one, 3), None, "three are enough");
        slot = add(&slot, other, 3).unwrap();
        slot = remove(&slot, one);
        slot = add(&slot, one, 3).unwrap();
        for client in [one, one, one, other] {
            slot = remove(&slot, client);
        }
        assert!(slot.is_empty(), "{slot:?}");
        assert!(remove(&slot, one).is_empty(), "one too many does no harm");
    }

    #[test]
    fn rubbish_counts_for_nothing() {
        let client = "10.0.0.1".parse().unwrap();
        assert_eq!(add(b"\xff", client, 1).unwrap(), b"10.0.0.1 1\n");
        assert_eq!(add(b"x 1\n10.0.0.1 x\n", client, 1).unwrap(), b"10.0.0.1 1\n");
    }
}
