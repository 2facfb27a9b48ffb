//! `outgate`: the command line of Outgate.

mod explain;
mod explain_tls;
mod render;
mod render_command;
mod resolve;
mod run;
mod top;
mod upstream_tls;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "outgate", version, about = "An open secure web proxy for Envoy and Istio")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a policy about a connection or a request, without a proxy
    Explain(explain::ExplainArgs),
    /// Say why TLS handshakes failed: a reason, a code, an alert, a certificate, whole logs
    ExplainTls(explain_tls::ExplainTlsArgs),
    /// Print the configuration that a policy becomes
    Render(render_command::RenderArgs),
    /// Run the proxy with a policy
    Run(Box<run::RunArgs>),
    /// Watch the handshakes that fail
    Top(top::TopArgs),
    /// Becomes a program that ends with its parent
    #[command(name = run::child::SUBCOMMAND, hide = true)]
    Child {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Explain(arguments) => explain::run(&arguments),
        Command::ExplainTls(arguments) => explain_tls::run(&arguments),
        Command::Render(arguments) => render_command::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Child { arguments } => run::child::become_child(&arguments),
    }
}
