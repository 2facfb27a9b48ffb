//! The program `cert-service`.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use cert_service::options::Options;
use cert_service::resolver::Resolver;
use cert_service::resolver::refusal::Log;
use cert_service::server::Server;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let options = Options::parse();
    // No core dump and no debugger gets at the keys.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    match run(&options) {
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
    let server = Server::start(options, std::io::stdout()).await?;
    let _resolver = match options.dns.settings() {
        Some(settings) => Some(Resolver::start(settings, refusal_log()?).await?),
        None => None,
    };
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

/// Writes refused names beside the other lines; what a stalled reader misses is dropped.
fn refusal_log() -> std::io::Result<Log> {
    let (lines, queue) = std::sync::mpsc::sync_channel::<String>(64);
    std::thread::Builder::new().name("dns-log".to_owned()).spawn(move || {
        for line in queue {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    })?;
    Ok(Box::new(move |refusal| {
        if let Ok(line) = serde_json::to_string(refusal) {
            let _ = lines.try_send(line);
        }
    }))
}
