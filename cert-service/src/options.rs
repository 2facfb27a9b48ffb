//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};

use crate::admission::AdmissionOptions;
use crate::ca::{CaFiles, KeyPlace};
use crate::grants::PoolName;
use crate::pools::{Authorities, Source};
use crate::transport::ListenOptions;
use crate::{leaf, resolver};
use outgate_policy::HostName;
use outgate_policy::address::Cidr;

/// Mints intercept certificates for exactly the hosts that were granted, and hands them to Envoy.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cert-service",
    version,
    after_help = "Besides: `cert-service ca init|show|rotate` and `cert-service mint --dry-run NAME`, each with `--help`."
)]
pub struct Options {
    /// Directory of the CA: `ca.pem` is what clients must trust, `ca-key.pem` the development CA's key.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Unix socket for Envoy (ADS, SDS) and for grants; only this user may connect.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Address for /healthz, /readyz, /metrics, /ca.pem, /ca.crt and, at /, how to install them.
    #[arg(long, value_name = "ADDR")]
    pub http: SocketAddr,
    /// Which CAs sign.
    #[command(flatten)]
    pub authorities: AuthorityArgs,
    /// A CA pool to serve; may be repeated [default: any].
    #[arg(long = "pool", value_name = "NAME", conflicts_with = "config")]
    pub pools: Vec<PoolName>,
    /// A host that needs no grant, for listeners of Envoy's own; may be repeated.
    #[arg(long = "serve", value_name = "HOST", value_parser = host)]
    pub served: Vec<HostName>,
    /// How long a certificate is valid, from 1h to 7d; it is replaced at two thirds of it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = leaf_ttl)]
    pub leaf_ttl: Duration,
    /// After SIGTERM, how long connections may go on.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub drain: Duration,
    /// How Envoys on other machines reach us.
    #[command(flatten)]
    pub transport: ListenOptions,
    /// Which names are minted for, and how many.
    #[command(flatten)]
    pub admission: AdmissionOptions,
    /// The resolver of names, if this is given.
    #[command(flatten)]
    pub dns: DnsOptions,
}

/// Which CAs sign, for the service and for what an operator runs beside it; a development CA, if nothing is given.
#[derive(Args, Clone, Debug)]
pub struct AuthorityArgs {
    /// CA pools, as YAML or JSON: their CAs and what each does; the service reads it again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "ca")]
    config: Option<PathBuf>,
    /// The CA to sign with: its certificate, then its intermediates, as PEM [default: a development CA].
    #[arg(long, value_name = "PEM", requires = "ca_key")]
    ca: Option<PathBuf>,
    /// The private key of that CA: PKCS#8, encrypted or not, SEC1 or PKCS#1, as PEM.
    #[arg(long, value_name = "PEM", requires = "ca")]
    ca_key: Option<PathBuf>,
    /// The file whose first line is the passphrase of --ca-key.
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_key_passphrase: Option<PathBuf>,
}

impl AuthorityArgs {
    /// Them.
    pub fn authorities(&self) -> Authorities {
        match (&self.config, &self.ca, &self.ca_key) {
            (Some(path), _, _) => Authorities::Configuration(path.clone()),
            (None, Some(certificate), Some(key)) => Authorities::Files(CaFiles {
                certificate: certificate.clone(),
                key: KeyPlace::File(key.clone()),
                passphrase: self.ca_key_passphrase.clone(),
            }),
            _ => Authorities::Development,
        }
    }
}

impl Options {
    /// Where the CA pools are from.
    pub fn source(&self) -> Source {
        Source {
            authorities: self.authorities.authorities(),
            names: self.pools.iter().cloned().collect(),
            state: self.state.clone(),
        }
    }
}

/// The part of the command line that is the resolver's.
#[derive(Clone, Debug, clap::Args)]
pub struct DnsOptions {
    /// Loopback address, UDP and TCP, where Envoy asks for names; without it nothing is resolved here.
    #[arg(long, value_name = "ADDR")]
    pub dns_listen: Option<SocketAddr>,
    /// A name server to ask, `IP` or `IP:PORT`; may be repeated [default: those of /etc/resolv.conf].
    #[arg(long = "dns-upstream", value_name = "ADDR", value_parser = resolver::parse_upstream, requires = "dns_listen")]
    pub dns_upstreams: Vec<SocketAddr>,
    /// The hosts file.
    #[arg(long, value_name = "FILE", default_value = "/etc/hosts")]
    pub hosts: PathBuf,
    /// A range that names may lead to although it is private; may be repeated.
    #[arg(long = "allow-private", value_name = "CIDR", requires = "dns_listen")]
    pub allowed: Vec<Cidr>,
}

impl DnsOptions {
    /// How the resolver is to work, if there is to be one.
    pub fn settings(&self) -> Option<resolver::Settings> {
        Some(resolver::Settings {
            listen: self.dns_listen?,
            upstreams: self.dns_upstreams.clone(),
            hosts: self.hosts.clone(),
            resolv_conf: "/etc/resolv.conf".into(),
            allowed: self.allowed.clone(),
            timeouts: resolver::Timeouts::default(),
        })
    }
}

fn host(text: &str) -> Result<HostName, String> {
    HostName::parse_for_certificate(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration like `24h`, `90m` or `7d`");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?))
}

fn leaf_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if leaf::TTL_RANGE.contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a certificate must be valid for 1h to 7d".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("1h", 3600), ("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("3600s", 3600)]
        {
            assert_eq!(leaf_ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "24",
            "h",
            "24 h",
            "-1h",
            "59m",
            "8d",
            "1w",
            "99999999999999999999d",
            "18446744073709551615d",
            "1é",
        ] {
            assert!(leaf_ttl(text).is_err(), "{text}");
        }
    }
}
