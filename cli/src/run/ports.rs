//! The addresses that `outgate run` serves: checked before anything starts.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Port 0.
    #[error(
        "{option} {address}: port 0 would be a different one at each start; choose a port from 1 to 65535"
    )]
    Zero {
        /// The option.
        option: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// Two options, one address.
    #[error("{first} and {second} both say `{address}`; choose another for one of them")]
    Twice {
        /// The option that came first.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Somebody else has it.
    #[error(
        "{option} {address}: the address is in use, perhaps by another outgate; stop that one or choose another address with {option}"
    )]
    Taken {
        /// The option.
        option: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// The system refuses it.
    #[error(
        "{option} {address}: cannot listen there: {error}; choose an address of this machine, and a port over 1023 if you are not root"
    )]
    Refused {
        /// The option.
        option: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// Where the system takes no ports for outgoing connections: a port found here stays free while cert-service restarts.
const QUIET: Range<u16> = 20_000..32_000;

/// A port of loopback that is free for the resolver, over UDP and TCP.
pub fn free_for_dns() -> Result<SocketAddr, PortError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    // Runs that start at the same time begin their search at different places.
    let offset = usize::try_from(std::process::id()).unwrap_or_default() % QUIET.len();
    QUIET
        .skip(offset)
        .chain(QUIET.take(offset))
        .map(|port| SocketAddr::new(any.ip(), port))
        .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .ok_or_else(|| PortError::Refused {
            option: "the resolver's",
            address: any,
            error: io::ErrorKind::AddrInUse.into(),
        })
}

/// The listeners, by every address of this machine that leads to them.
pub fn reached_by(listeners: &[SocketAddr]) -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let on_all = listeners.iter().filter(|listener| listener.ip().is_unspecified());
    let reached = on_all.flat_map(|listener| {
        interfaces.iter().map(|interface| SocketAddr::new(interface.ip(), listener.port()))
    });
    listeners.iter().copied().chain(reached).collect()
}

/// Checks that each address can be listened on.
pub fn check(addresses: &[(&'static str, SocketAddr)]) -> Result<(), PortError> {
    let mut seen = BTreeMap::new();
    for &(option, address) in addresses {
        if address.port() == 0 {
            return Err(PortError::Zero { option, address });
        }
        if let Some(first) = seen.insert(address, option) {
            return Err(PortError::Twice { first, second: option, address });
        }
        match TcpListener::bind(address) {
            Ok(_listener) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(PortError::Taken { option, address });
            }
            Err(error) => return Err(PortError::Refused { option, address, error }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_served_is_said_with_its_option() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        // The listener is gone, but the address was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(check(&[("--listen", free)]).is_ok());
        let zero = check(&[("--listen", "127.0.0.1:0".parse().unwrap())]).unwrap_err();
        assert!(zero.to_string().starts_with("--listen 127.0.0.1:0: port 0"), "{zero}");
        let twice = check(&[("--listen", free), ("--admin", free)]).unwrap_err();
        assert!(twice.to_string().starts_with("--listen and --admin both say"), "{twice}");
        let _ = taken;
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = check(&[("--admin", holder.local_addr().unwrap())]).unwrap_err();
        assert!(busy.to_string().contains("is in use"), "{busy}");
    }
}
