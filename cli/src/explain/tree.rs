//! An answer as a short tree, for a person at three in the morning.

use outgate_policy::explain::{Answer, Decided, Flow, Question};

/// Draws an answer.
pub fn draw(question: &Question, answer: &Answer) -> String {
    let mut lines = vec![title(question)];
    lines.push(format!("├─ session: {}", session(answer)));
    if let (Some(decided), Some(request)) = (&answer.request, &question.request) {
        lines.push(format!(
            "├─ request: {}: {} {}",
            verdict(decided),
            plain(&request.method),
            plain(&request.path)
        ));
    }
    lines.push("└─ rules".to_owned());
    let last = answer.trace.len().saturating_sub(1);
    for (index, step) in answer.trace.iter().enumerate() {
        let branch = if index == last { "└─" } else { "├─" };
        lines.push(format!("   {branch} {}, {}: {}: {}", step.rule, step.stage, step.outcome, step.detail));
    }
    if answer.trace.is_empty() {
        lines.push("   └─ there are none".to_owned());
    }
    lines.join("\n") + "\n"
}

fn title(question: &Question) -> String {
    let flow = match question.flow {
        Flow::Direct => "in the clear".to_owned(),
        Flow::Http => "plain HTTP in a tunnel".to_owned(),
        Flow::Opaque => "neither TLS nor HTTP".to_owned(),
        Flow::Tls => match &question.sni {
            Some(sni) => format!("tls, SNI {}", plain(sni)),
            None => "tls without SNI".to_owned(),
        },
    };
    let authority = question.request.as_ref().and_then(|request| request.authority.as_deref());
    let destination = question.connect.as_deref().or(authority).unwrap_or("nowhere");
    format!("{} ({flow}), from {}", plain(destination), question.source.ip)
}

fn session(answer: &Answer) -> String {
    match answer.session.verdict {
        "http" => "each request is decided on its own".to_owned(),
        _ if answer.decrypted => format!("{}; TLS is decrypted", verdict(&answer.session)),
        _ => verdict(&answer.session),
    }
}

fn verdict(decided: &Decided) -> String {
    let Decided { verdict, rule, reason } = decided;
    let verdict = verdict.to_uppercase();
    match (rule, *reason) {
        (Some(rule), "rule_allowed" | "rule_denied") => format!("{verdict} by rule `{rule}`"),
        (Some(rule), reason) => format!("{verdict} by rule `{rule}` ({reason})"),
        (None, "default_denied") => format!("{verdict}, no rule matches (default_denied)"),
        (None, "no_sni") => format!(
            "{verdict} (no_sni): TLS came without the server name that inspection needs; have the client send SNI, or \
             let a session rule tunnel it"
        ),
        (None, "host_mismatch") => {
            format!("{verdict} (host_mismatch): CONNECT, SNI and request do not name the same host and port")
        }
        (None, reason) => format!("{verdict} before any rule ({reason})"),
    }
}

/// Nothing that a terminal would act on.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}
