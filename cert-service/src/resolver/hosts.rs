//! The system's hosts file and `resolv.conf`, read again when they change.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use hickory_proto::rr::Name;

/// Long lists of hosts to block are a few megabytes.
const LONGEST_FILE: u64 = 16 << 20;

/// More name servers than any system asks.
const MOST_SERVERS: usize = 8;

/// What a file of the system says; an unreadable one says nothing.
pub struct SystemFile<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    read: RwLock<(Option<Fingerprint>, Arc<T>)>,
}

#[derive(PartialEq, Eq)]
struct Fingerprint {
    modified: SystemTime,
    length: u64,
}

impl<T> SystemFile<T> {
    /// Reads a file.
    pub fn new(path: &Path, parse: fn(&str) -> T) -> SystemFile<T> {
        let file =
            SystemFile { path: path.to_owned(), parse, read: RwLock::new((None, Arc::new(parse("")))) };
        file.refresh();
        file
    }

    /// What it said when it was read last.
    pub fn current(&self) -> Arc<T> {
        self.read.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Reads it again if it has changed.
    pub fn refresh(&self) {
        let found = fs::metadata(&self.path)
            .ok()
            .and_then(|found| Some(Fingerprint { modified: found.modified().ok()?, length: found.len() }));
        if self.read.read().unwrap_or_else(PoisonError::into_inner).0 == found {
            return;
        }
        let mut bytes = Vec::new();
        let text = match File::open(&self.path).map(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes)) {
            Ok(Ok(_)) => String::from_utf8_lossy(&bytes),
            _ => "".into(),
        };
        let read = (found, Arc::new((self.parse)(&text)));
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = read;
    }
}

/// The names of a hosts file.
pub type Hosts = HashMap<Name, Vec<IpAddr>>;

/// Reads a hosts file; lines that cannot be read do not count.
pub fn parse_hosts(text: &str) -> Hosts {
    let mut hosts = Hosts::new();
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let Some(ip) = words.next().and_then(address) else { continue };
        for name in words.filter_map(|word| Name::from_ascii(word).ok()) {
            let mut name = name;
            name.set_fqdn(true);
            let addresses = hosts.entry(name).or_default();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    hosts
}

/// Reads the name servers of a `resolv.conf`; one that names none means this machine.
pub fn parse_name_servers(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = lines(text)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let ip = (words.next()? == "nameserver").then(|| words.next().and_then(address))??;
            Some(SocketAddr::new(ip, DNS_PORT))
        })
        .take(MOST_SERVERS)
        .collect();
    if servers.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT)] } else { servers }
}

/// Where name servers listen.
pub const DNS_PORT: u16 = 53;

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split(['#', ';']).next())
}

fn address(word: &str) -> Option<IpAddr> {
    // `fe80::1%eth0`: the interface means nothing to a name's reader.
    word.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files() {
        let hosts = parse_hosts(
            "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # comment\n# 10.0.0.9 commented\n\
             10.0.0.1 db.example DB.example. db\n10.0.0.2 db\nnonsense x\n10.0.0.3\n10.0.0.4 a..b ok\nfe80::1%eth0 link\n",
        );
        for (name, addresses) in [
            ("localhost.", &["127.0.0.1", "::1"][..]),
            ("ip6-localhost.", &["::1"]),
            ("db.example.", &["10.0.0.1"]),
            ("db.", &["10.0.0.1", "10.0.0.2"]),
            ("ok.", &["10.0.0.4"]),
            ("link.", &["fe80::1"]),
        ] {
            let expected: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(hosts.get(&Name::from_ascii(name).unwrap()), Some(&expected), "{name}");
        }
        assert_eq!(hosts.len(), 6);
    }

    #[test]
    fn name_servers() {
        for (text, expected) in [
            ("", vec!["127.0.0.1:53"]),
            (
                "search example\nnameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\t2001:db8::1 # x\n",
                vec!["192.0.2.1:53", "[2001:db8::1]:53"],
            ),
            ("nameserver\nnameserver x\nnameservers 192.0.2.1\n", vec!["127.0.0.1:53"]),
        ] {
            let expected: Vec<SocketAddr> = expected.iter().map(|server| server.parse().unwrap()).collect();
            assert_eq!(parse_name_servers(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let path = std::env::temp_dir().join(format!("outgate-hosts-{}", std::process::id()));
        let name = Name::from_ascii("a.example.").unwrap();
        let _ = fs::remove_file(&path);
        let file = SystemFile::new(&path, parse_hosts);
        assert!(file.current().is_empty());
        fs::write(&path, "192.0.2.1 a.example\n").unwrap();
        file.refresh();
        assert!(file.current().contains_key(&name));
        fs::remove_file(&path).unwrap();
        file.refresh();
        assert!(file.current().is_empty());
    }
}
