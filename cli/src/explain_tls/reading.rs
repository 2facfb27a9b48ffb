//! What a text was taken for, and what that means.

use outgate_handshake::classify::Failure;
use outgate_handshake::taxonomy::{Blame, Certainty, DetectedBy, SubReason};
use serde_json::{Value, json};

use super::pages;

/// One way to understand a text; a bare number can have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the text was taken for.
    pub taken_for: String,
    /// What it means.
    pub failure: Failure,
    /// Other causes that leave the same words, the more common ones first.
    pub or_else: Vec<SubReason>,
}

impl Reading {
    /// One with a single cause.
    pub fn new(taken_for: impl Into<String>, failure: Failure) -> Self {
        Self { taken_for: taken_for.into(), failure, or_else: Vec::new() }
    }

    /// One that allows no other cause.
    pub fn exact(taken_for: impl Into<String>, sub_reason: SubReason) -> Self {
        let failure = Failure { sub_reason, certainty: Certainty::Exact, depth: None, code: None };
        Self::new(taken_for, failure)
    }

    /// One with the more common cause first.
    pub fn any_of(taken_for: impl Into<String>, sub_reasons: &[SubReason]) -> Option<Self> {
        let (first, rest) = sub_reasons.split_first()?;
        let mut reading = Self::exact(taken_for, *first);
        if !rest.is_empty() {
            reading.failure.certainty = Certainty::Likely;
            reading.or_else = rest.to_vec();
        }
        Some(reading)
    }

    /// Stable: members are added, never renamed.
    pub fn json(&self) -> Value {
        let mut value = about(self.failure.sub_reason);
        if let Value::Object(members) = &mut value {
            members.insert("taken_for".to_owned(), json!(self.taken_for));
            members.insert("certainty".to_owned(), json!(self.failure.certainty.as_str()));
            let or_else: Vec<_> = self.or_else.iter().map(|sub_reason| sub_reason.as_str()).collect();
            members.insert("or_else".to_owned(), json!(or_else));
            members.extend(self.failure.depth.map(|depth| ("depth".to_owned(), json!(depth))));
            members.extend(self.failure.code.map(|code| ("code".to_owned(), json!(code))));
        }
        value
    }

    /// For a person.
    pub fn text(&self) -> String {
        let failure = &self.failure;
        let mut text = String::new();
        wrapped(&mut text, "taken for", &self.taken_for);
        let likely = match failure.certainty {
            Certainty::Exact => "",
            Certainty::Likely => " (likely)",
        };
        wrapped(&mut text, "what", &format!("{} / {}{likely}", failure.category(), failure.sub_reason));
        wrapped(&mut text, "class", failure.class().as_str());
        wrapped(&mut text, "noticed", noticed_by(failure.detected_by()));
        if let Some(depth) = failure.depth {
            wrapped(&mut text, "where", &place(depth));
        }
        wrapped(&mut text, "means", &pages::meaning(failure.sub_reason));
        wrapped(&mut text, "who", who(failure.blame()));
        wrapped(&mut text, "fix", failure.remedy());
        if !self.or_else.is_empty() {
            let names: Vec<_> =
                self.or_else.iter().map(|other| format!("{} / {other}", other.category())).collect();
            wrapped(&mut text, "or else", &names.join(", "));
        }
        wrapped(&mut text, "more", &pages::address(failure.sub_reason));
        text
    }
}

/// What is always said of a sub-reason.
pub fn about(sub_reason: SubReason) -> Value {
    let category = sub_reason.category();
    json!({
        "category": category.as_str(),
        "reason": sub_reason.as_str(),
        "class": category.class().as_str(),
        "detected_by": category.detected_by().as_str(),
        "blame": sub_reason.blame().as_str(),
        "meaning": pages::meaning(sub_reason),
        "remedy": sub_reason.remedy(),
        "documentation": pages::address(sub_reason),
    })
}

/// Who must act.
pub fn who(blame: Blame) -> &'static str {
    match blame {
        Blame::Client => "whoever runs the client",
        Blame::Operator => "whoever runs this listener",
        Blame::Network => "whoever runs what lies between, or nobody",
    }
}

fn noticed_by(detected_by: DetectedBy) -> &'static str {
    match detected_by {
        DetectedBy::Server => "by the server, which refused",
        DetectedBy::Client => "by the client, which refused",
        DetectedBy::Transport => "by neither: the connection ended",
    }
}

fn place(depth: u32) -> String {
    match depth {
        0 => "the client's own certificate (depth 0)".to_owned(),
        depth => format!("the certificate {depth} above the client's own (depth {depth})"),
    }
}

/// A row of which long text goes on in the next lines.
pub fn wrapped(text: &mut String, name: &str, value: &str) {
    const WIDTH: usize = 88;
    let mut line = format!("  {name:<9}");
    let mut words = 0;
    for word in value.split_whitespace() {
        if words > 0 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(11);
            words = 0;
        }
        line.push(' ');
        line.push_str(word);
        words += 1;
    }
    text.push_str(&line);
    text.push('\n');
}
