//! `outgate render`: prints the complete configuration of Envoy, plugin JSON inside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use outgate_policy::Engine;

use crate::render::mtls::{EnvoyVersion, MtlsFile, bootstrap};
use crate::render::{MAX_CONNECTIONS, MAX_HEAP, Rendering};
use crate::resolve::{Resolve, in_order};
use crate::run::policy_file::PolicyFile;
use crate::upstream_tls::UpstreamTls;

/// Options of `outgate render`.
#[derive(Args, Debug)]
pub struct RenderArgs {
    /// The policy: YAML or JSON
    #[arg(long, value_name = "FILE", required_unless_present = "mtls")]
    policy: Option<PathBuf>,
    /// Instead of a policy: an mTLS listener that explains failed handshakes; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
    mtls: Vec<PathBuf>,
    /// The Envoy that --mtls is for
    #[arg(long, value_enum, default_value_t = Envoy::Later, requires = "mtls")]
    envoy: Envoy,
    /// What to render for
    #[arg(long, value_enum, default_value_t = Target::Envoy)]
    target: Target,
    /// Where clients reach the proxy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3128")]
    listen: SocketAddr,
    /// Envoy's admin interface
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// The filter, as Envoy will find it
    #[arg(long, value_name = "PATH", default_value = "/etc/outgate/outgate.wasm")]
    wasm: PathBuf,
    /// cert-service's socket, as Envoy will find it
    #[arg(long, value_name = "PATH", default_value = "/run/outgate/cert-service.sock")]
    cert_socket: PathBuf,
    /// cert-service's resolver (its --dns-listen), as Envoy will find it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9953")]
    dns: SocketAddr,
    /// PEM of the roots that origins of inspected requests must chain to, as Envoy will find it
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    upstream_roots: PathBuf,
    /// Connect to ADDR for HOST:PORT; HOST may be `*`
    #[arg(long, value_name = "HOST:PORT:ADDR[:PORT]")]
    resolve: Vec<Resolve>,
    /// Clusters of the dynamic forward proxy
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    shards: u32,
}

/// What a configuration is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    /// A static bootstrap of Envoy
    Envoy,
}

/// Envoys that differ in what they understand.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Envoy {
    /// 1.36
    #[value(name = "1.36")]
    V1_36,
    /// 1.37 and later
    #[value(name = "1.37")]
    Later,
}

/// Prints the configuration; 2 if the policy does not compile.
pub fn run(args: &RenderArgs) -> ExitCode {
    let Some(policy) = &args.policy else {
        return print(mtls(args));
    };
    let policy = match PolicyFile::open(policy) {
        Ok((_, policy)) => policy,
        Err(error) => {
            eprintln!("outgate: {error}");
            return ExitCode::from(2);
        }
    };
    print(render(args, policy.value, &policy.engine))
}

fn print(rendered: Result<String, Box<dyn std::error::Error>>) -> ExitCode {
    match rendered {
        Ok(configuration) => {
            print!("{configuration}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("outgate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn mtls(args: &RenderArgs) -> Result<String, Box<dyn std::error::Error>> {
    let listeners: Result<Vec<_>, _> =
        args.mtls.iter().map(|path| MtlsFile::open(path)?.listener(None)).collect();
    let version = match args.envoy {
        Envoy::V1_36 => EnvoyVersion::V1_36,
        Envoy::Later => EnvoyVersion::Later,
    };
    Ok(bootstrap(&listeners?, args.admin, &args.wasm, version)?)
}

fn render(
    args: &RenderArgs,
    policy: serde_json::Value,
    engine: &Engine,
) -> Result<String, Box<dyn std::error::Error>> {
    let Target::Envoy = args.target;
    let rendering = Rendering {
        policy,
        patterns: engine.programs().clone(),
        listen: args.listen,
        admin: args.admin,
        own: Vec::new(),
        tls: None,
        mtls: None,
        allow_private: engine.document().outgate.allow_private.clone(),
        proxy_protocol: !engine.document().outgate.proxy_protocol_from.is_empty(),
        resolve: in_order(args.resolve.clone())?,
        upstream_tls: UpstreamTls::new(
            engine.document().tls_inspection.as_ref(),
            args.upstream_roots.clone(),
        )?,
        wasm: args.wasm.clone(),
        cert_socket: args.cert_socket.clone(),
        dns: args.dns,
        max_connections: MAX_CONNECTIONS,
        max_connections_per_client: None,
        max_heap: MAX_HEAP,
        shards: args.shards,
        allowances: engine.document().outgate.log_allowances,
        discovery: None,
        generation: 0,
    };
    Ok(rendering.bootstrap()?)
}
