//! The program itself: how it starts, refuses to, and ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::Directory;

#[test]
fn it_starts_says_so_and_ends_on_a_signal() {
    for (signal, name) in
        [(rustix::process::Signal::TERM, "SIGTERM"), (rustix::process::Signal::INT, "SIGINT")]
    {
        let directory = Directory::new();
        let mut child = start(&directory);
        let (lines, mut out) = read_until_started(&mut child);
        assert!(
            lines[0].contains("\"event\":\"ca_loaded\"") && lines[0].contains("\"created\":true"),
            "{lines:?}"
        );
        let socket = std::fs::symlink_metadata(directory.path("socket")).unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);

        // Longer than from one look at the files to the next: the CA that it made itself is no change.
        std::thread::sleep(Duration::from_millis(400));
        // An open connection does not hold it up.
        let _idle = UnixStream::connect(directory.path("socket")).unwrap();
        let asked = Instant::now();
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(!directory.path("socket").exists());
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("\"event\":\"stopped\"") && rest.contains(name), "{rest}");
        assert!(!rest.contains("\"event\":\"reload\""), "{rest}");
    }
}

#[test]
fn sighup_reads_the_pools_again_and_no_core_is_dumped() {
    let directory = Directory::new();
    let mut child = start(&directory);
    let (_, mut out) = read_until_started(&mut child);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core: Vec<&str> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["0", "0"]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::HUP)
        .unwrap();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    for words in ["\"event\":\"reload\"", "\"result\":\"ok\"", "\"cause\":\"signal\""] {
        assert!(line.contains(words), "{line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_replaces_a_socket_that_was_left_behind_and_no_other() {
    let directory = Directory::new();
    drop(UnixListener::bind(directory.path("socket")).unwrap());
    let mut first = start(&directory);
    read_until_started(&mut first);

    let second = run(&directory, &["--http", "127.0.0.1:0"]);
    refused(&second, 1, &["another process serves the socket", "choose another `--socket`"]);
    assert!(UnixStream::connect(directory.path("socket")).is_ok(), "the first still serves");

    // Killed, it leaves its socket behind; the next one takes over.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(directory.path("socket").exists());
    let mut third = start(&directory);
    read_until_started(&mut third);
    third.kill().unwrap();
    third.wait().unwrap();
}

#[test]
fn it_says_why_it_does_not_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = Directory::new();
    let output = run(&directory, &["--http", &taken]);
    refused(&output, 1, &[&format!("cannot listen on `{taken}`"), "choose another `--http`"]);
    assert!(!directory.path("state").exists(), "it left something behind");

    directory.write("socket", "a file", 0o600);
    let output = run(&directory, &["--http", "127.0.0.1:0"]);
    refused(&output, 1, &["exists and is no socket"]);
    assert_eq!(std::fs::read(directory.path("socket")).unwrap(), b"a file");

    let directory = Directory::new();
    std::fs::create_dir(directory.path("state")).unwrap();
    directory.write("state/ca-key.pem", "key", 0o644);
    let output = run(&directory, &["--http", "127.0.0.1:0"]);
    refused(&output, 1, &["other users can reach the private key", "chmod 600"]);

    let output = run(&Directory::new(), &["--http", "127.0.0.1:0", "--listen", "0.0.0.0:0"]);
    refused(&output, 1, &["`--listen 0.0.0.0:0` has no TLS and is not loopback", "`--insecure-plaintext`"]);

    for (arguments, words) in [
        (&["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--listen-cert", "x"][..], "--listen-key"),
        (&["--http", "127.0.0.1:0", "--config", "x", "--pool", "main"], "cannot be used with"),
        (&["--http", "nowhere"], "invalid value 'nowhere'"),
        (&["--http", "127.0.0.1:0", "--leaf-ttl", "30d"], "a certificate must be valid for 1h to 7d"),
        (&["--http", "127.0.0.1:0", "--max-leases", "0"], "at least one name must fit"),
        (&["--http", "127.0.0.1:0", "--pool", "a b"], "is not a pool name"),
        (&["--http", "127.0.0.1:0", "--ca", "x"], "--ca-key"),
    ] {
        refused(&run(&Directory::new(), arguments), 2, &[words]);
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let directory = Directory::new();
    let mut child = start(&directory);
    // The pipe stays open and fills.
    let (_, _out) = read_until_started(&mut child);
    let body = format!(r#"{{"pool":"main","host":"{}"}}"#, "a b".repeat(100));
    let request =
        format!("POST /v1/grants HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut socket = UnixStream::connect(directory.path("socket")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 4096];
    for _ in 0..1000 {
        socket.write_all(request.as_bytes()).unwrap();
        let length = socket.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 400"));
    }
    let asked = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

fn command(directory: &Directory) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cert-service"));
    command.arg("--state").arg(directory.path("state")).arg("--socket").arg(directory.path("socket"));
    command
}

fn start(directory: &Directory) -> Child {
    command(directory).args(["--http", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap()
}

fn run(directory: &Directory, arguments: &[&str]) -> Output {
    command(directory).args(arguments).output().unwrap()
}

fn read_until_started(child: &mut Child) -> (Vec<String>, BufReader<std::process::ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended: {lines:?}");
        let started = line.contains("\"event\":\"started\"");
        lines.push(line);
        if started {
            return (lines, out);
        }
    }
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for words in words {
        assert!(said.contains(words), "{words} in {said}");
    }
}
