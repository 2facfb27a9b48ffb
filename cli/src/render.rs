//! From a policy to the complete configuration of Envoy.

pub mod mtls;
mod second_belt;
pub mod template;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use outgate_filter::configuration::{Grants, Lender, Limits, Log, PluginConfiguration, PolicyOf};
use outgate_filter::routing::{Leg, Routing};
use outgate_policy::Programs;
use outgate_policy::address::Cidr;

use crate::resolve::Resolve;
use crate::upstream_tls::UpstreamTls;
use mtls::{EnvoyVersion, Mtls, MtlsFileError};
use template::{TemplateError, Values, fill};

const BOOTSTRAP: &str = include_str!("../../envoy-config/template/bootstrap.yaml");
const HTTP_MANAGER: &str = include_str!("../../envoy-config/template/http-manager.yaml");
const TLS_LISTENER: &str = include_str!("../../envoy-config/template/tls-listener.yaml");
const STATS: &str = include_str!("../../envoy-config/template/stats.yaml");
const UNDECIDED_CHAIN: &str = include_str!("../../envoy-config/template/undecided-chain.yaml");

const WASM_HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const WASM_NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Headers that the origin must not see: our routing, and what Envoy adds after the filter.
const HEADERS_TO_REMOVE: [&str; 8] = [
    "x-outgate-route",
    "x-outgate-session",
    "x-outgate-host",
    "x-outgate-port",
    "x-forwarded-proto",
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-expected-rq-timeout-ms",
];

/// How many clients may be connected unless the operator says otherwise.
pub const MAX_CONNECTIONS: u32 = 50_000;

/// How much memory Envoy may use unless the operator says otherwise, in MiB.
pub const MAX_HEAP: u32 = 4096;

/// The root that has the policy.
const EXPLICIT: &str = "explicit";

/// Roots that follow it, and where the template has them.
const FOLLOWERS: [(&str, &str, &str); 5] = [
    (CONNECTIONS, WASM_NETWORK, "connections_filter"),
    ("inspected", WASM_HTTP, "inspected_filter"),
    ("tunnelled", WASM_HTTP, "tunnelled_filter"),
    ("tls", WASM_NETWORK, "guard_tls"),
    ("opaque", WASM_NETWORK, "guard_opaque"),
];

/// The filter that is there only if clients have a limit.
const CONNECTIONS: &str = "connections";

/// All that Envoy's configuration depends on.
#[derive(Clone, Debug)]
pub struct Rendering {
    /// The policy as its file says it.
    pub policy: Value,
    /// Its patterns, compiled.
    pub patterns: Programs,
    /// The explicit listener.
    pub listen: SocketAddr,
    /// Envoy's admin interface.
    pub admin: SocketAddr,
    /// Addresses of other listeners of ours; no client reaches these, or those above, through the proxy.
    pub own: Vec<SocketAddr>,
    /// The explicit listener over TLS.
    pub tls: Option<Mtls>,
    /// The mTLS listener.
    pub mtls: Option<Mtls>,
    /// Private addresses that may be reached.
    pub allow_private: Vec<Cidr>,
    /// Whether PROXY headers are read.
    pub proxy_protocol: bool,
    /// Destinations resolved by hand.
    pub resolve: Vec<Resolve>,
    /// How origins of inspected requests are verified.
    pub upstream_tls: UpstreamTls,
    /// The filter.
    pub wasm: PathBuf,
    /// cert-service's socket.
    pub cert_socket: PathBuf,
    /// The resolver that Envoy asks, which refuses private addresses.
    pub dns: SocketAddr,
    /// The most connections of clients at one time.
    pub max_connections: u32,
    /// The most connections of one client.
    pub max_connections_per_client: Option<NonZeroU32>,
    /// The most memory of Envoy, in MiB.
    pub max_heap: u32,
    /// Shards of the dynamic forward proxy.
    pub shards: u32,
    /// The share of allowances that is logged.
    pub allowances: f64,
    /// Where the policy lies, if Envoy is to watch it; else it is part of the whole.
    pub discovery: Option<PathBuf>,
    /// How many policies there were before, in force or not.
    pub generation: u64,
}

/// Why a configuration could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A defect of the templates.
    #[error("cannot fill the configuration of Envoy: {0}; this is a defect of outgate")]
    Template(#[from] TemplateError),
    /// The policy does not serialise.
    #[error("cannot write the plugin configuration: {0}")]
    Plugin(#[from] serde_json::Error),
    /// The mTLS listener is wrong.
    #[error(transparent)]
    Mtls(#[from] MtlsFileError),
}

impl Rendering {
    /// The whole configuration, YAML for people and Envoy.
    pub fn bootstrap(&self) -> Result<String, RenderError> {
        let mut values = self.addresses();
        values.insert("http_manager", HTTP_MANAGER.to_owned());
        values.insert("stats_config", STATS.to_owned());
        values.insert("headers_to_remove", json!(HEADERS_TO_REMOVE).to_string());
        values.insert("cert_socket", quoted(&self.cert_socket));
        values.insert("max_heap", (u64::from(self.max_heap) << 20).to_string());
        values.insert("refused_addresses", second_belt::rules(&self.allow_private, &self.own()).to_string());
        values.insert("max_connections", self.max_connections.to_string());
        values.insert("circuit_breakers", circuit_breakers().to_string());
        values.insert("inspected_tls_params", self.upstream_tls.parameters().to_string());
        for (key, chain) in [
            ("chain_inspect", "inspect"),
            ("chain_undecided", "undecided"),
            ("chain_http", "http"),
            ("chain_opaque", "opaque"),
        ] {
            values.insert(key, chain_action(chain).to_string());
        }
        let inspected = json!({"listener": "inspected", "side": "inspecting"}).to_string();
        let inspected = self.plugin("handshake", &json!({"@type": STRING_VALUE, "value": inspected}));
        values.insert("inspected_handshakes", inspected.to_string());
        self.insert_proxy_protocol(&mut values);
        values.insert("handshake_mark", self.tls.as_ref().map(|_| handshake_mark()).unwrap_or_default());
        self.insert_filters(&mut values)?;
        self.insert_clusters(&mut values);
        values.insert("undecided_chain", fill(UNDECIDED_CHAIN, &values)?);
        let (listener, cluster) = self.mtls(&values)?;
        values.insert("tls_listener", self.tls(&values)?);
        values.insert("mtls_listener", listener);
        values.insert("mtls_cluster", cluster);
        Ok(fill(BOOTSTRAP, &values)?)
    }

    /// The configuration of the filter that has the policy, as Envoy's discovery reads it from a file.
    pub fn discovery_response(&self) -> Result<String, RenderError> {
        let response = json!({
            "version_info": self.generation.to_string(),
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": EXPLICIT,
                "typed_config": {
                    "@type": WASM_HTTP,
                    "config": self.plugin(EXPLICIT, &json!({"@type": STRING_VALUE, "value": self.plugin_json()?})),
                },
            }],
        });
        Ok(response.to_string())
    }

    /// The file of that filter's configuration.
    pub fn discovery_file(directory: &Path) -> PathBuf {
        directory.join(format!("{EXPLICIT}.json"))
    }

    fn plugin_json(&self) -> Result<String, RenderError> {
        let configuration = PluginConfiguration {
            policy: self.policy.clone(),
            patterns: self.patterns.clone(),
            routing: Routing {
                shards: self.shards,
                resolve: self.resolve.iter().map(|entry| entry.destination.clone()).collect(),
                own: self.own(),
            },
            grants: Grants::default(),
            limits: Limits { connections_per_client: self.max_connections_per_client },
            client_certificates: self.tls.is_some(),
            log: Log { allowances: self.allowances },
            generation: self.generation,
        };
        Ok(rule_by_rule(&configuration)?)
    }

    /// Every listener of ours.
    fn own(&self) -> Vec<SocketAddr> {
        let mut own = vec![self.listen, self.admin, self.dns];
        own.extend(self.tls.iter().map(|tls| tls.listen));
        own.extend(self.mtls.iter().map(|mtls| mtls.listen));
        own.extend(&self.own);
        own.sort_unstable();
        own.dedup();
        own
    }

    fn plugin(&self, root_id: &str, configuration: &Value) -> Value {
        plugin(root_id, "outgate", &self.wasm, configuration)
    }

    fn addresses(&self) -> Values {
        let mut values = Values::new();
        for (host, port, address) in
            [("listen_address", "listen_port", self.listen), ("admin_address", "admin_port", self.admin)]
        {
            values.insert(host, json!(address.ip().to_string()).to_string());
            values.insert(port, address.port().to_string());
        }
        values
    }

    fn insert_filters(&self, values: &mut Values) -> Result<(), RenderError> {
        let policy_of = serde_json::to_string(&PolicyOf { policy_of: Lender::Explicit })?;
        let policy_of = json!({"@type": STRING_VALUE, "value": policy_of});
        for (root_id, type_url, key) in FOLLOWERS {
            let filter = if root_id == CONNECTIONS && self.max_connections_per_client.is_none() {
                String::new()
            } else {
                let typed_config = json!({"@type": type_url, "config": self.plugin(root_id, &policy_of)});
                format!("- {}", json!({"name": root_id, "typed_config": typed_config}))
            };
            values.insert(key, filter);
        }
        let explicit = match &self.discovery {
            Some(directory) => discovered_filter(directory),
            None => self.inline_filter()?,
        };
        values.insert("explicit_filter", explicit);
        Ok(())
    }

    /// The filter with the policy in place, for people to read.
    fn inline_filter(&self) -> Result<String, RenderError> {
        let mut filter =
            format!("- name: {EXPLICIT}\n  typed_config:\n    \"@type\": {WASM_HTTP}\n    config:\n");
        let Value::Object(members) = self.plugin(EXPLICIT, &Value::Null) else {
            return Ok(filter);
        };
        for (key, value) in members.iter().filter(|(key, _)| *key != "configuration") {
            filter.push_str(&format!("      {key}: {value}\n"));
        }
        filter.push_str(&format!(
            "      configuration:\n        \"@type\": {STRING_VALUE}\n        value: |\n"
        ));
        for line in self.plugin_json()?.lines() {
            filter.push_str(&format!("          {line}\n"));
        }
        Ok(filter)
    }

    fn insert_clusters(&self, values: &mut Values) {
        let mut matches = String::new();
        let mut chains = String::new();
        let mut resolved = String::new();
        for (index, entry) in self.resolve.iter().enumerate() {
            let name = format!("resolve-{index}");
            matches.push_str(&format!("{name}: {}\n", chain_action(&name)));
            chains.push_str(&tunnel_chain(values, &name, None));
            for cluster in [
                self.plain(static_cluster(&name, entry.address)),
                self.over_tls(static_cluster(&format!("{name}-tls"), entry.address)),
            ] {
                resolved.push_str(&format!("- {cluster}\n"));
            }
        }
        let mut shards = String::new();
        let mut filters = String::new();
        for index in 0..self.shards {
            let name = format!("shard-{index}");
            matches.push_str(&format!("{name}: {}\n", chain_action(&name)));
            chains.push_str(&tunnel_chain(values, &name, Some(&self.dns_cache(&name))));
            let clusters = [(name.clone(), Leg::Unread), (format!("{name}-tls"), Leg::Tls)];
            for (name, leg) in clusters {
                let cluster = self.forward_cluster(&name, leg);
                let cluster = match leg {
                    Leg::Unread => self.plain(cluster),
                    Leg::Tls => self.over_tls(cluster),
                };
                filters.push_str(&format!("{name}: {}\n", forward_filter(&self.dns_cache(&name))));
                shards.push_str(&format!("- {cluster}\n"));
            }
        }
        values.insert("tunnel_matches", matches);
        values.insert("tunnel_chains", chains);
        values.insert("resolve_clusters", resolved);
        values.insert("shard_clusters", shards);
        values.insert("shard_filters", filters);
    }

    /// Bytes as they come: HTTP/1.1 or HTTP/2 as the client spoke it.
    fn plain(&self, cluster: Value) -> Value {
        let options = json!({"use_downstream_protocol_config": {"http_protocol_options": {"enable_trailers": true}, "http2_protocol_options": {}}});
        with(cluster, &[("typed_extension_protocol_options", http_options(options))])
    }

    /// TLS with the name and the trust that the session and the policy demand.
    fn over_tls(&self, cluster: Value) -> Value {
        let options = json!({
            "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
            "auto_config": {"http_protocol_options": {"enable_trailers": true}, "http2_protocol_options": {}},
        });
        with(
            cluster,
            &[
                ("typed_extension_protocol_options", http_options(options)),
                ("transport_socket", self.upstream_tls.transport_socket()),
            ],
        )
    }

    /// The true peer, where a PROXY header may say another.
    fn insert_proxy_protocol(&self, values: &mut Values) {
        let (mut listener_filter, mut peer_filter) = (String::new(), String::new());
        if self.proxy_protocol {
            let proxy_protocol = json!({"name": "envoy.filters.listener.proxy_protocol", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
                // The filter believes the header only of listed peers; others are clients like any other.
                "allow_requests_without_proxy_protocol": true,
            }});
            let peer = json!({"name": "peer", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
                "on_new_connection": [{
                    "object_key": "outgate.peer",
                    "factory_key": "envoy.string",
                    "format_string": {"text_format_source": {"inline_string": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"}},
                }],
            }});
            listener_filter = format!("- {proxy_protocol}");
            peer_filter = format!("- {peer}");
        }
        values.insert("proxy_protocol", listener_filter);
        values.insert("peer_filter", peer_filter);
    }

    fn tls(&self, values: &Values) -> Result<String, RenderError> {
        let Some(tls) = &self.tls else { return Ok(String::new()) };
        let mut values = values.clone();
        tls.insert_server(&mut values, &self.wasm)?;
        Ok(fill(TLS_LISTENER, &values)?)
    }

    fn mtls(&self, values: &Values) -> Result<(String, String), RenderError> {
        let Some(mtls) = &self.mtls else {
            return Ok(Default::default());
        };
        let rendered = mtls.render(values, &self.wasm, &self.resolve, EnvoyVersion::default())?;
        Ok((rendered.listener, rendered.clusters))
    }
}

impl Rendering {
    fn forward_cluster(&self, name: &str, leg: Leg) -> Value {
        json!({
            "name": name,
            "connect_timeout": "5s",
            "lb_policy": "CLUSTER_PROVIDED",
            "circuit_breakers": circuit_breakers(),
            "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": self.dns_cache(name),
                // Without TLS of our own there is no name to verify.
                "allow_insecure_cluster_options": leg == Leg::Unread,
            }},
        })
    }

    /// Our resolver is asked, and nobody else; c-ares shrinks its timeout when answers come fast, hence the tries.
    fn dns_cache(&self, name: &str) -> Value {
        json!({
            "name": name,
            "dns_lookup_family": "V4_PREFERRED",
            "max_hosts": 16384,
            "host_ttl": "300s",
            "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": self.dns.ip().to_string(), "port_value": self.dns.port()}}],
                "dns_resolver_options": {"no_default_search_domain": true},
                "query_timeout_seconds": 5,
                "query_tries": 5,
            }},
        })
    }
}

/// JSON with a line for each rule: Envoy keeps dozens of copies, so there is no other white space.
fn rule_by_rule(configuration: &PluginConfiguration) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(configuration)?;
    let Some(Value::Array(rules)) = value.pointer_mut("/policy/rules").map(Value::take) else {
        return serde_json::to_string(configuration);
    };
    let lines = rules.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?.join(",\n");
    // No other key is called so, and quotes within texts are escaped.
    Ok(value.to_string().replacen("\"rules\":null", &format!("\"rules\":[\n{lines}\n]"), 1))
}

fn plugin(root_id: &str, vm_id: &str, wasm: &Path, configuration: &Value) -> Value {
    json!({
        "name": root_id,
        "root_id": root_id,
        // A trap costs one request, not the worker; while the VM is being replaced nothing passes.
        "failure_policy": "FAIL_RELOAD",
        "reload_config": {"backoff": {"base_interval": "1s"}},
        "vm_config": {"vm_id": vm_id, "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": wasm}}},
        "configuration": configuration,
    })
}

fn discovered_filter(directory: &Path) -> String {
    let file = Rendering::discovery_file(directory);
    let source = json!({
        "resource_api_version": "V3",
        "path_config_source": {"path": file, "watched_directory": {"path": directory}},
    });
    format!(
        "- name: {EXPLICIT}\n  config_discovery:\n    config_source: {source}\n    type_urls: [{}]\n",
        WASM_HTTP.trim_start_matches("type.googleapis.com/"),
    )
}

/// Tells the access logger for certain whether the handshake was over.
fn handshake_mark() -> String {
    let mark = |text: &str| json!([{"object_key": "outgate.handshake", "factory_key": "envoy.string", "format_string": {"text_format_source": {"inline_string": text}}}]);
    let filter = json!({"name": "handshake", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
        "on_new_connection": mark("begun"),
        "on_downstream_tls_handshake": mark("finished"),
    }});
    format!("- {filter}")
}

/// Resolves the name before anything connects, so that its address can be judged; the cache is the cluster's own.
fn forward_filter(dns_cache: &Value) -> Value {
    json!({"action": {"name": "forward", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
        "typed_config": {"name": "forward", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
            "save_upstream_address": true,
            "allow_dynamic_host_from_filter_state": true,
            "dns_cache_config": dns_cache,
        }},
    }}})
}

fn chain_action(name: &str) -> Value {
    json!({"action": {"name": name, "typed_config": {"@type": STRING_VALUE, "value": name}}})
}

/// The chain that passes TLS unread to `cluster`; fresh names are resolved before the connection.
fn tunnel_chain(values: &Values, cluster: &str, dns_cache: Option<&Value>) -> String {
    let mut chain = format!("- name: {cluster}\n  filters:\n");
    for line in values.get("guard_tls").into_iter().flat_map(|guard| guard.lines()) {
        chain.push_str(&format!("  {line}\n"));
    }
    if let Some(dns_cache) = dns_cache {
        let resolver = json!({"name": "resolve", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
            "port_value": 443,
            "save_upstream_address": true,
            "dns_cache_config": dns_cache,
        }});
        chain.push_str(&format!("  - {resolver}\n"));
        chain.push_str(
            "  - {name: second-belt, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: second-belt, rules: *refused_addresses}}\n",
        );
    }
    let proxy = json!({"name": "tunnel", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tunnel",
        "cluster": cluster,
        "idle_timeout": "3600s",
    }});
    chain.push_str(&format!("  - {proxy}\n"));
    chain
}

fn static_cluster(name: &str, address: SocketAddr) -> Value {
    cluster(name, &address.ip().to_string(), address.port())
}

fn cluster(name: &str, address: &str, port: u16) -> Value {
    json!({
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": circuit_breakers(),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}]}]},
    })
}

/// Envoy's default of 1,024 would cut tunnels.
fn circuit_breakers() -> Value {
    json!({"thresholds": [{
        "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000, "max_retries": 1_000,
    }]})
}

fn http_options(mut options: Value) -> Value {
    if let Value::Object(members) = &mut options {
        members.insert("@type".to_owned(), json!(format!("type.googleapis.com/{HTTP_OPTIONS}")));
    }
    json!({HTTP_OPTIONS: options})
}

fn with(mut value: Value, members: &[(&str, Value)]) -> Value {
    if let Value::Object(object) = &mut value {
        object.extend(members.iter().map(|(key, member)| ((*key).to_owned(), member.clone())));
    }
    value
}

fn quoted(path: &Path) -> String {
    json!(path).to_string()
}
