//! `outgate explain`: asks a policy about connections and requests, without a proxy.

mod questions;
mod tree;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use outgate_policy::explain::explain;
use outgate_policy::{Destination, Engine};
use serde_json::json;

use crate::resolve::Resolve;
use questions::Questions;

/// What `outgate explain` takes.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The policy: YAML or JSON
    policy: PathBuf,
    /// Questions: JSON objects, one per line or spread over several; `-` is standard input
    #[arg(long, value_name = "FILE|-")]
    request: PathBuf,
    /// A destination that `outgate run` resolves by hand; such a one may be private
    #[arg(long, value_name = "HOST:PORT:ADDR[:PORT]")]
    resolve: Vec<Resolve>,
    /// How answers look
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How answers look.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// A tree for a person
    Text,
    /// One JSON object per line
    Json,
}

/// Why nothing could be answered.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    /// The policy cannot be read.
    #[error("cannot read the policy `{}`: {error}", .path.display())]
    Policy { path: PathBuf, error: io::Error },
    /// It does not compile.
    #[error("the policy `{}` does not compile:\n{errors}", .path.display())]
    Compile { path: PathBuf, errors: outgate_policy::PolicyErrors },
    /// The questions cannot be read.
    #[error("cannot read the questions `{}`: {error}; give a file, or `-` for standard input", .path.display())]
    Questions { path: PathBuf, error: io::Error },
}

/// Answers on standard output, in the order of the questions. 0; 1 if a question could not be answered, which its
/// line says; 2 if the policy does not compile.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let answered = compile(&args.policy).and_then(|engine| {
        let questions = open(&args.request)?;
        let resolved = |destination: &Destination| {
            args.resolve.iter().any(|entry| entry.destination.matches(destination))
        };
        answer(&engine, questions, &resolved, args.format, &mut io::stdout().lock())
            .map_err(|error| ExplainError::Questions { path: args.request.clone(), error })
    });
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("outgate: {error}");
            match error {
                ExplainError::Policy { .. } | ExplainError::Compile { .. } => ExitCode::from(2),
                ExplainError::Questions { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn compile(path: &Path) -> Result<Engine, ExplainError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ExplainError::Policy { path: path.to_owned(), error })?;
    Engine::from_text(&text).map_err(|errors| ExplainError::Compile { path: path.to_owned(), errors })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, ExplainError> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| ExplainError::Questions { path: path.to_owned(), error })?;
    Ok(Box::new(BufReader::new(file)))
}

/// Whether every question could be answered. Each answer is written at once, so that a program can ask one question
/// after the other.
fn answer(
    engine: &Engine,
    questions: impl BufRead,
    resolved: &dyn Fn(&Destination) -> bool,
    format: Format,
    output: &mut impl Write,
) -> io::Result<bool> {
    let mut all = true;
    for question in Questions::new(questions) {
        let text = match (question?, format) {
            (Ok(question), Format::Json) => {
                serde_json::to_string(&explain(engine, &question, resolved))? + "\n"
            }
            (Ok(question), Format::Text) => tree::draw(&question, &explain(engine, &question, resolved)),
            (Err(message), Format::Json) => {
                all = false;
                json!({"error": message}).to_string() + "\n"
            }
            (Err(message), Format::Text) => {
                all = false;
                format!("error: {message}\n")
            }
        };
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(all),
            written => written?,
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
name: egress
tlsInspectionPolicy: default
rules:
- {name: docs, priority: 10, basicProfile: ALLOW, sessionMatcher: host() == 'docs.example', tlsInspectionEnabled: true, applicationMatcher: request.path.startsWith('/public/')}
- {name: ssh, priority: 20, basicProfile: ALLOW, sessionMatcher: destination.port == 22}
tlsInspectionPolicies:
- {name: default, caPool: main}
";

    fn ask(questions: &str, format: Format) -> (bool, String) {
        let engine = Engine::from_text(POLICY).unwrap();
        let mut output = Vec::new();
        let all = answer(&engine, questions.as_bytes(), &|_| false, format, &mut output).unwrap();
        (all, String::from_utf8(output).unwrap())
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let (all, output) = ask(
            r#"{"source":{"ip":"10.0.0.1","port":1},"connect":"a.example:22","flow":"opaque"}
nonsense
{"source":{"ip":"10.0.0.1","port":1},"connect":"a.example:22","flow":"opaqe"}

{"source":{"ip":"10.0.0.1","port":1},"connect":"a.example:23","flow":"opaque"}
"#,
            Format::Json,
        );
        assert!(!all);
        let lines: Vec<serde_json::Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{output}");
        assert_eq!(lines[0]["session"]["verdict"], "tunnel");
        assert!(lines[1]["error"].as_str().unwrap().contains("line 2"), "{}", lines[1]);
        assert!(lines[2]["error"].as_str().unwrap().contains("`opaqe`"), "{}", lines[2]);
        assert_eq!(lines[3]["session"]["verdict"], "deny");
    }

    #[test]
    fn what_the_proxy_refuses_before_any_rule_is_said() {
        let engine = Engine::from_text(
            "name: all\nrules:\n- {name: all, priority: 1, basicProfile: ALLOW, sessionMatcher: source.mtls || destination.port == 22}\n",
        )
        .unwrap();
        let by_hand: Resolve = "10.0.0.2:22:127.0.0.1".parse().unwrap();
        let resolved = |destination: &Destination| by_hand.destination.matches(destination);
        for (source, connect, reason) in [
            (r#""ip":"10.0.0.1""#, "10.0.0.1:22", "destination_refused"),
            (r#""ip":"10.0.0.1""#, "[::ffff:127.0.0.1]:22", "destination_refused"),
            (r#""ip":"10.0.0.1""#, "10.0.0.2:22", "rule_allowed"),
            (r#""ip":"10.0.0.1""#, "8.8.8.8:22", "rule_allowed"),
            (r#""ip":"10.0.0.1""#, "8.8.8.8:23", "default_denied"),
            (
                r#""ip":"10.0.0.1","certificate":{"notAfter":"2030-01-01T00:00:00Z"}"#,
                "8.8.8.8:23",
                "rule_allowed",
            ),
        ] {
            let question = format!(r#"{{"source":{{{source}}},"connect":"{connect}","flow":"opaque"}}"#);
            let mut output = Vec::new();
            answer(&engine, question.as_bytes(), &resolved, Format::Json, &mut output).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&output).unwrap();
            assert_eq!(answer["session"]["reason"], reason, "{question}: {answer}");
        }
    }

    #[test]
    fn a_person_reads_a_tree() {
        let (all, output) = ask(
            r#"{
  "source": {"ip": "10.0.0.1", "port": 4711},
  "connect": "docs.example:443", "flow": "tls", "sni": "docs.example",
  "request": {"method": "GET", "scheme": "https", "authority": "docs.example", "path": "/private/x", "headers": {}}
}"#,
            Format::Text,
        );
        assert!(all);
        assert_eq!(
            output,
            "\
docs.example:443 (tls, SNI docs.example), from 10.0.0.1
├─ session: INSPECT by rule `docs`; TLS is decrypted
├─ request: DENY, no rule matches (default_denied): GET /private/x
└─ rules
   ├─ docs, session: matched: `host() == 'docs.example'` is true: host() is \"docs.example\"
   ├─ ssh, session: not-reached: a rule before it decided
   ├─ docs, application: not-matched: `request.path.startsWith('/public/')` is false: request.path is \"/private/x\"
   └─ ssh, application: skipped: a session rule with ALLOW does not match once traffic is intercepted; give it a lower \
priority number than the inspecting rule, or narrow that rule's sessionMatcher
"
        );
    }

    #[test]
    fn a_policy_that_does_not_compile_is_told_apart() {
        let path = std::env::temp_dir().join(format!("outgate-explain-{}.yaml", std::process::id()));
        std::fs::write(&path, POLICY.replace("host()", "hosts()")).unwrap();
        let error = compile(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(&error, ExplainError::Compile { .. }));
        assert!(error.to_string().contains("^ column 1"), "{error}");
    }
}
