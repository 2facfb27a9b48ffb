//! The program `cert-service`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use cert_service::options::Options;
use cert_service::reload::Cause;
use cert_service::server::Server;
use cert_service::tools::Tool;
use clap::Parser as _;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // No core dump and no debugger gets at the keys. Where the system forbids even this, we serve nevertheless.
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let done = match Tool::from_command_line() {
        Some(tool) => tool.run(OffsetDateTime::now_utc()).map(|text| print!("{text}")).map_err(Into::into),
        None => run(&Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cert-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(serve(options));
    // What is not over by now (a log whose reader stalls) does not keep us.
    runtime.shutdown_background();
    served
}

async fn serve(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let server = Server::start(options, std::io::stdout()).await?;
    if let Some(settings) = options.dns.settings() {
        server.service().start_resolver(settings).await?;
    }
    let service = server.service().clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let service = service.clone();
            // The audit log says what came of it.
            let _ = tokio::task::spawn_blocking(move || service.reload(Cause::Signal)).await;
        }
    });
    server
        .serve(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        })
        .await;
    Ok(())
}
