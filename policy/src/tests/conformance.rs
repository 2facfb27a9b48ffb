//! Our language beside other people's: the cases of CEL's specification, cel-go, and RE2.
//!
//! What another side needs is fetched when a test runs; a test whose other side cannot be had says so in one line,
//! and only then passes without it.

mod cel_go;
mod re2;
mod suite;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Says something that is seen although the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The root of the repository.
fn repository() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// How many cases to compare: as the variable says, or so many.
fn wanted(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A program that answers line by line.
struct Oracle {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts it and waits for its `ready`; nothing if it ends with status 3 instead, which is that it cannot be had.
    fn start(name: &str, command: &mut Command) -> Option<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (questions, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut oracle = Self { process, questions, answers: BufReader::new(answers) };
        match &*oracle.line() {
            "ready" => return Some(oracle),
            other => assert_eq!(other, ""),
        }
        assert_eq!(oracle.process.wait().unwrap().code(), Some(3), "{name}");
        say(&format!("skipped: {name}, which cannot be had here"));
        None
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn tell(&mut self, fact: &serde_json::Value) {
        writeln!(self.questions, "{fact}").unwrap();
    }

    fn ask(&mut self, question: &serde_json::Value) -> String {
        self.tell(question);
        self.line()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
