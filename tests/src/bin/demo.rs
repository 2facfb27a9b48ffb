//! What `make run` shows: the proxy with five exchanges, then the proxy to try.
//!
//! The origins, their addresses and the client certificates are the demonstration's own, because the
//! machine may have no internet. With internet the same proxy reaches real sites.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a demonstration whose own files and sockets fail has nothing to show"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use outgate_tests::certificates::{Authority, Profile};
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::origin::Origin;
use outgate_tests::outgate::executable;
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use x509_parser::prelude::FromDer;

/// The proxy with a demonstration.
#[derive(Parser)]
#[command(name = "outgate-demo")]
struct Arguments {
    /// Where clients reach the proxy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3128")]
    listen: SocketAddr,
    /// Envoy's admin interface
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// cert-service's health, metrics and CA download
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9902")]
    cert_http: SocketAddr,
    /// The listener that demands client certificates
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    mtls_listen: SocketAddr,
    /// Development CA, logs and working files
    #[arg(long, value_name = "DIR", default_value = ".outgate")]
    state: PathBuf,
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "examples/demo/policy.yaml")]
    policy: PathBuf,
    /// End after the exchanges; the status tells whether all turned out as they should
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut interrupts = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).unwrap());
    let demonstration = Demonstration::prepare(&arguments).await;
    let Some(mut proxy) = Proxy::start(&arguments, &demonstration) else {
        return ExitCode::FAILURE;
    };
    let good = demonstration.show(&arguments).await;
    if !arguments.once {
        demonstration.invite(&arguments);
        let [interrupt, terminate] = &mut interrupts;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = proxy.ended() => return ExitCode::FAILURE,
        }
        println!("\nEnding.");
    }
    drop(proxy);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Origins and certificates.
struct Demonstration {
    folder: PathBuf,
    log: PathBuf,
    plain: Origin,
    secure: Origin,
    clients: Authority,
}

impl Demonstration {
    async fn prepare(arguments: &Arguments) -> Self {
        let folder = arguments.state.join("demo");
        fs::create_dir_all(&folder).unwrap();
        let origins = Authority::new("Demo origins CA");
        let clients = Authority::new("Demo clients CA");
        let names = ["bank.demo.test", "github.demo.test"];
        let expired = clients.issue(&["alice.demo.test"], &Profile::client().expired());
        let good = clients.client("alice.demo.test");
        for (name, text) in [
            ("origins-ca.pem", origins.pem()),
            ("clients-ca.pem", clients.pem()),
            ("alice.pem", good.certificate_pem + &good.key_pem),
            ("alice-expired.pem", expired.certificate_pem + &expired.key_pem),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        Self {
            folder,
            log: arguments.state.join("log.jsonl"),
            plain: Origin::plain().await,
            secure: Origin::tls(&origins.server(&names)).await,
            clients,
        }
    }

    /// The five exchanges; whether all turned out as they should.
    async fn show(&self, arguments: &Arguments) -> bool {
        println!("\nFive exchanges, decided by {}\n", arguments.policy.display());
        let proxy = arguments.listen;
        let roots = self.roots(arguments);
        let mut good = true;

        let reply = client::get(proxy, "http://plain.demo.test/hello").await;
        let line = self.line("outgate.request", "plain.demo.test").await;
        good &= reply.status == 200;
        print(
            "1  allowed",
            "GET http://plain.demo.test/hello",
            &format!("{} from the origin", reply.status),
            &line,
        );

        let reply = client::get(proxy, "http://denied.demo.test/").await;
        let line = self.line("outgate.request", "denied.demo.test").await;
        good &= reply.status == 403;
        let said = format!("{} {}", reply.status, reply.reason().unwrap_or_default());
        print("2  denied", "GET http://denied.demo.test/", &said, &line);

        let anything = Tls::new("bank.demo.test", Vec::new());
        match client::https(proxy, "bank.demo.test", &anything, Ask::get("/account").at("bank.demo.test"))
            .await
        {
            Ok((reply, seen)) => {
                let line = self.line("outgate.session", "bank.demo.test").await;
                good &= reply.status == 200 && issuer(&seen).contains("Demo origins CA");
                let said = format!(
                    "{}; the client sees the bank's own certificate, of {}",
                    reply.status,
                    issuer(&seen)
                );
                print("3  tunnelled", "GET https://bank.demo.test/account", &said, &line);
            }
            Err(error) => good = failed("3  tunnelled", &error),
        }

        for (title, path, status) in
            [("4  inspected", "/grpc/grpc", 200), ("   inspected", "/torvalds/linux", 403)]
        {
            let trusting = Tls::new("github.demo.test", roots.clone());
            match client::https(proxy, "github.demo.test", &trusting, Ask::get(path).at("github.demo.test"))
                .await
            {
                Ok((reply, seen)) => {
                    let line = self.last_line("outgate.request", "github.demo.test", path).await;
                    good &= reply.status == status && issuer(&seen).contains("Outgate development CA");
                    let said =
                        format!("{}; the client sees our certificate, of {}", reply.status, issuer(&seen));
                    print(title, &format!("GET https://github.demo.test{path}"), &said, &line);
                }
                Err(error) => good = failed(title, &error),
            }
        }

        good & self.show_handshake(arguments, roots).await
    }

    async fn show_handshake(&self, arguments: &Arguments, roots: Vec<CertificateDer<'static>>) -> bool {
        let expired = self.clients.issue(&["alice.demo.test"], &Profile::client().expired());
        let tls = Tls::new("localhost", roots).http1().identity(expired);
        let stream = tokio::net::TcpStream::connect(arguments.mtls_listen).await.unwrap();
        // In TLS 1.3 the client learns of the refusal when it reads.
        let refused = match tls.handshake(stream).await {
            Ok(stream) => client::over_tls(stream, Ask::get("/").at("localhost")).await.is_err(),
            Err(_) => true,
        };
        let line = self.wait(|line| line["event"]["action"] == "tls.handshake.failure").await;
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        println!("5  explained  mTLS handshake with an expired client certificate");
        println!(
            "              who      {}  from {}",
            text(&line["tls"]["client"]["subject"]),
            text(&line["client"]["ip"])
        );
        println!(
            "              why      {} / {}",
            text(&line["error"]["type"]),
            text(&line["event"]["reason"])
        );
        println!("              until    {}", text(&line["tls"]["client"]["not_after"]));
        println!("              remedy   {}", text(&line["mtls"]["remedy"]));
        println!("              {line}\n");
        refused && line["event"]["reason"] == "expired"
    }

    fn invite(&self, arguments: &Arguments) {
        let proxy = format!("http://{}", arguments.listen);
        let ca = arguments.state.join("ca.pem");
        let (ca, folder) = (ca.display(), self.folder.display());
        println!("The proxy stays up. Ctrl-C ends it.\n");
        println!("  proxy        {proxy}");
        println!("  CA           {ca}   also http://{}/ca.pem", arguments.cert_http);
        println!("  mTLS         https://localhost:{}", arguments.mtls_listen.port());
        println!("  admin        http://{}/ready", arguments.admin);
        println!(
            "  metrics      http://{}/stats/prometheus   http://{}/metrics",
            arguments.admin, arguments.cert_http
        );
        println!("  decisions    {}", self.log.display());
        println!("  other logs   {}", arguments.state.display());
        println!("\nTry:\n");
        println!("  curl -x {proxy} http://plain.demo.test/hello");
        println!("  curl -x {proxy} http://denied.demo.test/");
        println!("  curl -x {proxy} --cacert {folder}/origins-ca.pem https://bank.demo.test/account");
        println!("  curl -x {proxy} --cacert {ca} https://github.demo.test/grpc/grpc");
        println!("  curl -x {proxy} --cacert {ca} https://github.demo.test/torvalds/linux");
        println!(
            "  curl --cacert {ca} --cert {folder}/alice.pem https://localhost:{}/",
            arguments.mtls_listen.port()
        );
        println!(
            "  curl --cacert {ca} --cert {folder}/alice-expired.pem https://localhost:{}/",
            arguments.mtls_listen.port()
        );
        println!("  tail -f {}", self.log.display());
        println!(
            "\nEdit {} meanwhile: the new policy is in force a moment later.",
            arguments.policy.display()
        );
    }

    fn roots(&self, arguments: &Arguments) -> Vec<CertificateDer<'static>> {
        let pem = fs::read(arguments.state.join("ca.pem")).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
    }

    async fn line(&self, action: &str, host: &str) -> Value {
        self.wait(|line| line["event"]["action"] == action && line["destination"]["domain"] == host).await
    }

    async fn last_line(&self, action: &str, host: &str, path: &str) -> Value {
        self.wait(|line| {
            line["event"]["action"] == action
                && line["destination"]["domain"] == host
                && line["url"]["path"] == path
        })
        .await
    }

    /// A line of the log, which comes within a second of its event.
    async fn wait(&self, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..100 {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.filter(|line| fits(line)).last() {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Value::Null
    }
}

/// `outgate run`
struct Proxy {
    process: Child,
}

impl Proxy {
    fn start(arguments: &Arguments, demonstration: &Demonstration) -> Option<Self> {
        // The lines of an earlier demonstration would be taken for this one's.
        let _not_there = fs::remove_file(&demonstration.log);
        let mut command = Command::new(executable());
        command.arg("run").arg("--policy").arg(&arguments.policy).arg("--state").arg(&arguments.state);
        for (option, address) in [
            ("--listen", arguments.listen),
            ("--admin", arguments.admin),
            ("--cert-http", arguments.cert_http),
            ("--mtls-listen", arguments.mtls_listen),
        ] {
            command.args([option, &address.to_string()]);
        }
        let file = |name: &str| demonstration.folder.join(name);
        command.arg("--mtls-ca").arg(file("clients-ca.pem")).arg("--upstream-ca").arg(file("origins-ca.pem"));
        command.arg("--log-file").arg(&demonstration.log);
        for (host, port, origin) in [
            ("plain.demo.test", 80, &demonstration.plain),
            ("denied.demo.test", 80, &demonstration.plain),
            ("bank.demo.test", 443, &demonstration.secure),
            ("github.demo.test", 443, &demonstration.secure),
        ] {
            let address = origin.address;
            command.args(["--resolve", &format!("{host}:{port}:{}:{}", address.ip(), address.port())]);
        }
        println!("Starting outgate");
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while said.read_line(&mut line).is_ok_and(|count| count > 0) {
            let ready = line.trim_end().ends_with("outgate: ready");
            if !ready {
                print!("  {line}");
            }
            line.clear();
            if ready {
                std::thread::spawn(move || {
                    for line in said.lines().map_while(Result::ok) {
                        println!("  {line}");
                    }
                });
                return Some(Self { process });
            }
        }
        let _reaped = process.wait();
        None
    }

    async fn ended(&mut self) {
        while self.process.try_wait().is_ok_and(|status| status.is_none()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _already_gone = kill_process(pid, Signal::INT);
        }
        let _reaped = self.process.wait();
    }
}

fn print(title: &str, what: &str, said: &str, line: &Value) {
    let verdict = line["outgate"]["verdict"].as_str().unwrap_or("?");
    let rule =
        line["rule"]["name"].as_str().map_or_else(|| "no rule".to_owned(), |rule| format!("rule `{rule}`"));
    println!("{title:<14}{what}");
    println!("              {said}");
    println!(
        "              verdict `{verdict}`, {rule}, {}\n",
        line["event"]["reason"].as_str().unwrap_or("?")
    );
}

fn failed(title: &str, error: &std::io::Error) -> bool {
    println!("{title:<14}failed: {error}\n");
    false
}

fn issuer(certificate: &CertificateDer<'_>) -> String {
    x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_or_else(|_| "?".to_owned(), |(_, certificate)| certificate.issuer().to_string())
}
