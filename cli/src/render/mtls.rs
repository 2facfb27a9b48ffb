//! mTLS listeners: from their files, or from options of `outgate run`, to Envoy's configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use outgate_handshake::configuration::HandshakeConfiguration;
use outgate_policy::document::parse_text;
use outgate_policy::{Destination, PolicyErrors};

use super::template::{Values, fill};
use super::{STRING_VALUE, WASM_HTTP, WASM_NETWORK, cluster, plugin, static_cluster, with};
use crate::resolve::Resolve;

const LISTENER: &str = include_str!("../../../envoy-config/template/mtls-listener.yaml");
const BOOTSTRAP: &str = include_str!("../../../envoy-config/template/mtls-bootstrap.yaml");
/// What of the listener's marks Envoy 1.36 does not know.
const AFTER_HANDSHAKE: &str = "on_downstream_tls_handshake:
- {object_key: outgate.handshake, factory_key: envoy.string, format_string: {text_format_source: {inline_string: finished}}}
";

/// What an mTLS listener's file says; see `docs/mtls-listener.md`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MtlsFile {
    /// The listener's name, and its label in metrics.
    pub name: Option<String>,
    /// Where it listens.
    pub listen: Option<SocketAddr>,
    /// CAs of client certificates.
    pub ca: Option<PathBuf>,
    /// Their revocation lists.
    pub crl: Option<PathBuf>,
    /// The server's certificate chain.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Where good requests go, over plain HTTP.
    pub upstream: Option<String>,
    /// Whether the CRLs must cover the whole chain, not the leaf alone.
    pub crl_whole_chain: bool,
    /// Certificates above the leaf that a chain may have.
    pub max_verify_depth: Option<u32>,
    /// Names of which a client's certificate must have one.
    pub sans: Vec<String>,
    /// SHA-256 of client certificates, one of which it must be.
    pub pins: Vec<String>,
    /// `TLSv1_0` to `TLSv1_3`
    pub tls_minimum: Option<String>,
    /// `TLSv1_0` to `TLSv1_3`
    pub tls_maximum: Option<String>,
    /// The cipher suites of TLS 1.2.
    pub cipher_suites: Vec<String>,
    /// Whether a load balancer in front says who the client is.
    pub proxy_protocol: bool,
    /// How long a handshake may take.
    pub handshake_timeout: Option<String>,
    /// Whether handshakes with certificates that are not trusted are completed, and their requests refused with 403.
    pub accept_untrusted: bool,
    /// `problem` or `html`.
    pub answer: Option<String>,
    /// Which of `category`, `reason` and `remedy` a refusal tells.
    pub tell: Vec<String>,
    /// A file to which Envoy's own access log writes the same lines.
    pub access_log: Option<PathBuf>,
    /// The access logger's own keys.
    pub log: Map<String, Value>,
    /// A collector that takes OTLP/HTTP logs.
    pub collector: Option<String>,
}

/// An mTLS listener.
#[derive(Clone, Debug)]
pub struct Mtls {
    /// Its name, and its label in metrics.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// CAs of client certificates.
    pub ca: PathBuf,
    /// Certificate and key of the server; without them cert-service gives one for this name.
    pub certificate: MtlsCertificate,
    /// Where good requests go; without it they are answered with the identity that was seen.
    pub upstream: Option<Destination>,
    /// All the rest.
    pub file: MtlsFile,
    /// The access logger's configuration.
    pub log: HandshakeConfiguration,
}

/// The server certificate of the mTLS listener.
#[derive(Clone, Debug)]
pub enum MtlsCertificate {
    /// PEM files.
    Files {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Minted by cert-service for this name.
    Minted(String),
}

/// Why a listener's file does not count.
#[derive(Debug, thiserror::Error)]
pub enum MtlsFileError {
    /// It cannot be read.
    #[error("cannot read `{}`: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Neither YAML nor JSON.
    #[error("`{}` does not parse:\n{errors}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        errors: PolicyErrors,
    },
    /// A key is wrong.
    #[error("`{}`: {error}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_path_to_error::Error<serde_json::Error>,
    },
    /// A key is missing.
    #[error("an mTLS listener needs `{0}`")]
    Missing(&'static str),
    /// An address that is none.
    #[error("`{key}`: {message}")]
    Destination {
        /// The key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The logger's keys are wrong.
    #[error("`log`: {0}")]
    Log(PolicyErrors),
}

impl MtlsFile {
    /// Reads a file; the paths in it are relative to its folder.
    pub fn open(path: &Path) -> Result<Self, MtlsFileError> {
        let text =
            fs::read_to_string(path).map_err(|error| MtlsFileError::Read { path: path.into(), error })?;
        let value =
            parse_text(&text).map_err(|errors| MtlsFileError::Syntax { path: path.into(), errors })?;
        let mut file: Self = serde_path_to_error::deserialize(value)
            .map_err(|error| MtlsFileError::Key { path: path.into(), error })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [&mut file.ca, &mut file.crl, &mut file.certificate, &mut file.key, &mut file.access_log]
            .into_iter()
            .flatten()
        {
            *path = std::path::absolute(folder.join(&*path)).unwrap_or_else(|_| path.clone());
        }
        Ok(file)
    }

    /// The listener, if all is there; `minted` is the name of the certificate that cert-service gives.
    pub fn listener(self, minted: Option<&str>) -> Result<Mtls, MtlsFileError> {
        let name = self.name.clone().unwrap_or_else(|| "mtls".to_owned());
        let certificate = match (&self.certificate, &self.key, minted) {
            (Some(chain), Some(key), _) => MtlsCertificate::Files { chain: chain.clone(), key: key.clone() },
            (None, None, Some(minted)) => MtlsCertificate::Minted(minted.to_owned()),
            (None, _, _) => return Err(MtlsFileError::Missing("certificate")),
            (Some(_), None, _) => return Err(MtlsFileError::Missing("key")),
        };
        let upstream = self.upstream.as_deref().map(|text| destination("upstream", text)).transpose()?;
        let mut log = self.log.clone();
        log.insert("listener".to_owned(), json!(name));
        log.insert("proxy_protocol".to_owned(), json!(self.proxy_protocol));
        if let Some(collector) = &self.collector {
            let otlp = log.entry("otlp").or_insert_with(|| json!({}));
            *otlp = with(
                otlp.take(),
                &[("cluster", json!(collector_cluster(&name))), ("authority", json!(collector))],
            );
        }
        if self.accept_untrusted {
            log.insert("untrusted".to_owned(), self.untrusted()?);
        }
        let log = Value::Object(log).to_string();
        Ok(Mtls {
            listen: self.listen.ok_or(MtlsFileError::Missing("listen"))?,
            ca: self.ca.clone().ok_or(MtlsFileError::Missing("ca"))?,
            certificate,
            upstream,
            log: HandshakeConfiguration::parse(log.as_bytes()).map_err(MtlsFileError::Log)?,
            name,
            file: self,
        })
    }
}

impl MtlsFile {
    /// What the filter holds certificates against: the filter cannot read files, so it gets their text.
    fn untrusted(&self) -> Result<Value, MtlsFileError> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|error| MtlsFileError::Read { path: path.clone(), error })
        };
        let all = ["category", "reason", "remedy"].map(str::to_owned).to_vec();
        Ok(json!({
            "ca": self.ca.as_ref().map(read).transpose()?.unwrap_or_default(),
            "crl": self.crl.as_ref().map(read).transpose()?,
            "sans": self.sans,
            "pins": self.pins,
            "answer": self.answer.as_deref().unwrap_or("problem"),
            "tell": if self.tell.is_empty() { &all } else { &self.tell },
        }))
    }
}

/// A listener and the clusters that it needs, ready to be put into a bootstrap.
pub struct RenderedListener {
    /// An item of `listeners`.
    pub listener: String,
    /// Items of `clusters`.
    pub clusters: String,
}

impl Mtls {
    /// The listener in Envoy's terms; `http_manager` is among the values.
    pub fn render(
        &self,
        values: &Values,
        wasm: &Path,
        resolve: &[Resolve],
        envoy: EnvoyVersion,
    ) -> Result<RenderedListener, super::RenderError> {
        let mut values = values.clone();
        self.insert_server(&mut values, wasm)?;
        values.insert(
            "handshake_timeout",
            self.file.handshake_timeout.clone().unwrap_or_else(|| "10s".to_owned()),
        );
        values.insert("proxy_protocol_filter", self.proxy_protocol_filter());
        values.insert("require_certificate", (!self.file.accept_untrusted).to_string());
        values.insert(
            "after_handshake",
            if envoy.marks_handshakes() { AFTER_HANDSHAKE.to_owned() } else { String::new() },
        );
        let log = serde_json::to_string(&self.log)?;
        values.insert("state_filter", self.state_filter(wasm, &log));
        values.insert("native_access_log", self.native_access_log());
        let mut clusters = String::new();
        values.insert("mtls_filters", self.http_filters(wasm, &log));
        if let Some(upstream) = &self.upstream {
            let route = json!({"match": {"prefix": ""}, "route": {"cluster": self.upstream_cluster(), "timeout": "0s"}});
            values.insert("mtls_route", route.to_string());
            clusters.push_str(&format!("- {}\n", self.upstream(upstream, resolve)));
        } else {
            let route = json!({"match": {"prefix": ""}, "direct_response": {"status": 200}});
            values.insert("mtls_route", route.to_string());
        }
        if let Some(collector) = &self.file.collector {
            let to = destination("collector", collector)?;
            let cluster = cluster(&collector_cluster(&self.name), to.host.as_str(), to.port);
            clusters.push_str(&format!("- {}\n", with(cluster, &[("type", json!("STRICT_DNS"))])));
        }
        Ok(RenderedListener { listener: fill(LISTENER, &values)?, clusters })
    }

    /// What every listener that verifies clients needs: its address, its TLS, its logger.
    pub fn insert_server(&self, values: &mut Values, wasm: &Path) -> Result<(), super::RenderError> {
        values.insert("mtls_name", json!(self.name).to_string());
        values.insert("mtls_address", json!(self.listen.ip().to_string()).to_string());
        values.insert("mtls_port", self.listen.port().to_string());
        values.insert("mtls_certificate", self.certificate());
        values.insert("mtls_tls_params", self.tls_params().to_string());
        values.insert("mtls_validation", self.validation().to_string());
        let log = string_value(&serde_json::to_string(&self.log)?);
        // A VM of its own: what a hostile certificate might do to the logger must not reach traffic.
        let plugin = plugin("handshake", "outgate-handshake", wasm, &log);
        values.insert("handshake_plugin", plugin.to_string());
        Ok(())
    }

    /// Leaves the record as filter state, if Envoy's own access log is to print it.
    fn state_filter(&self, wasm: &Path, log: &str) -> String {
        if self.file.access_log.is_none() {
            return String::new();
        }
        let config = plugin("handshake_state", "outgate-handshake-state", wasm, &string_value(log));
        // Explains only: what it might do must not end a connection.
        let config = with(config, &[("failure_policy", json!("FAIL_OPEN"))]);
        let filter = json!({"name": "handshake_state", "typed_config": {"@type": WASM_NETWORK, "config": without(config, "reload_config")}});
        format!("- {filter}\n")
    }

    fn native_access_log(&self) -> String {
        let Some(path) = &self.file.access_log else { return String::new() };
        let log = json!({
            "name": "envoy.access_loggers.file",
            "filter": {"extension_filter": {"name": "failed", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": "'wasm.outgate_tls' in filter_state",
            }}},
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": {"text_format_source": {"inline_string": "%FILTER_STATE(wasm.outgate_tls:PLAIN)%\n"}},
            },
        });
        format!("- {log}\n")
    }

    fn http_filters(&self, wasm: &Path, log: &str) -> String {
        let mut filters = Vec::new();
        if self.file.accept_untrusted {
            filters.push(http_filter("refuse", plugin("refuse", "outgate", wasm, &string_value(log))));
        }
        if self.upstream.is_none() {
            filters.push(http_filter("identity", plugin("identity", "outgate", wasm, &string_value("{}"))));
        }
        filters.iter().map(|filter| format!("- {filter}\n")).collect()
    }

    fn proxy_protocol_filter(&self) -> String {
        if !self.file.proxy_protocol {
            return String::new();
        }
        let filter = json!({"name": "envoy.filters.listener.proxy_protocol", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        }});
        format!("- {filter}\n")
    }

    fn certificate(&self) -> String {
        match &self.certificate {
            MtlsCertificate::Files { chain, key } => format!(
                "tls_certificates: {}",
                json!([{"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}])
            ),
            MtlsCertificate::Minted(name) => format!(
                "tls_certificate_sds_secret_configs: {}",
                json!([{"name": name, "sds_config": {"resource_api_version": "V3", "ads": {}}}])
            ),
        }
    }

    fn tls_params(&self) -> Value {
        let minimum = self.file.tls_minimum.as_deref().unwrap_or("TLSv1_2");
        let mut parameters = json!({"tls_minimum_protocol_version": minimum});
        if let Some(maximum) = &self.file.tls_maximum {
            parameters = with(parameters, &[("tls_maximum_protocol_version", json!(maximum))]);
        }
        if !self.file.cipher_suites.is_empty() {
            parameters = with(parameters, &[("cipher_suites", json!(self.file.cipher_suites))]);
        }
        parameters
    }

    fn validation(&self) -> Value {
        let mut members = vec![("trusted_ca", json!({"filename": self.ca}))];
        if let Some(crl) = &self.file.crl {
            members.push(("crl", json!({"filename": crl})));
            members.push(("only_verify_leaf_cert_crl", json!(!self.file.crl_whole_chain)));
        }
        if self.file.accept_untrusted {
            members.push(("trust_chain_verification", json!("ACCEPT_UNTRUSTED")));
        }
        if let Some(depth) = self.file.max_verify_depth {
            members.push(("max_verify_depth", json!(depth)));
        }
        // Where untrusted certificates are accepted, the filter judges names and pins.
        if !self.file.sans.is_empty() && !self.file.accept_untrusted {
            let matchers: Vec<_> = self.file.sans.iter().map(|name| san_matcher(name)).collect();
            members.push(("match_typed_subject_alt_names", json!(matchers)));
        }
        if !self.file.pins.is_empty() && !self.file.accept_untrusted {
            members.push(("verify_certificate_hash", json!(self.file.pins)));
        }
        with(json!({}), &members)
    }

    fn upstream_cluster(&self) -> String {
        format!("{}-upstream", self.name)
    }

    /// The server behind the listener, where `--resolve` says it is if it does.
    fn upstream(&self, upstream: &Destination, resolve: &[Resolve]) -> Value {
        let name = self.upstream_cluster();
        match resolve.iter().find(|entry| entry.destination.matches(upstream)) {
            Some(entry) => static_cluster(&name, entry.address),
            None => {
                with(cluster(&name, upstream.host.as_str(), upstream.port), &[("type", json!("STRICT_DNS"))])
            }
        }
    }
}

/// An Envoy of which a configuration must be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvoyVersion {
    /// 1.36
    V1_36,
    /// 1.37 and later
    #[default]
    Later,
}

impl EnvoyVersion {
    /// Whether the network filter `set_filter_state` can mark a finished handshake.
    fn marks_handshakes(self) -> bool {
        self == Self::Later
    }
}

/// A whole bootstrap with these listeners and nothing else.
pub fn bootstrap(
    listeners: &[Mtls],
    admin: SocketAddr,
    wasm: &Path,
    envoy: EnvoyVersion,
) -> Result<String, super::RenderError> {
    let mut values: Values = BTreeMap::from([
        ("admin_address", json!(admin.ip().to_string()).to_string()),
        ("admin_port", admin.port().to_string()),
        ("stats_config", super::STATS.to_owned()),
        ("http_manager", super::HTTP_MANAGER.to_owned()),
    ]);
    let (mut rendered, mut clusters) = (String::new(), String::new());
    for listener in listeners {
        let one = listener.render(&values, wasm, &[], envoy)?;
        rendered.push_str(&one.listener);
        clusters.push_str(&one.clusters);
    }
    values.insert("mtls_listeners", rendered);
    values.insert("mtls_clusters", if clusters.is_empty() { "[]".to_owned() } else { clusters });
    Ok(fill(BOOTSTRAP, &values)?)
}

fn collector_cluster(name: &str) -> String {
    format!("{name}-collector")
}

fn destination(key: &'static str, text: &str) -> Result<Destination, MtlsFileError> {
    Destination::parse(text).map_err(|error| MtlsFileError::Destination { key, message: error.to_string() })
}

fn san_matcher(name: &str) -> Value {
    let kind = if name.contains("://") {
        "URI"
    } else if name.contains('@') {
        "EMAIL"
    } else if name.parse::<std::net::IpAddr>().is_ok() {
        "IP_ADDRESS"
    } else {
        "DNS"
    };
    json!({"san_type": kind, "matcher": {"exact": name}})
}

fn without(mut value: Value, member: &str) -> Value {
    if let Value::Object(members) = &mut value {
        members.remove(member);
    }
    value
}

fn http_filter(name: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": {"@type": WASM_HTTP, "config": config}})
}

fn string_value(text: &str) -> Value {
    json!({"@type": STRING_VALUE, "value": text})
}
