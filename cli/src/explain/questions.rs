//! Reads questions: JSON objects, one per line or spread over several lines. A line that is none says so and does no
//! harm to the others.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use outgate_policy::explain::Question;
use serde_json::Value;

/// The questions of a stream, or what is wrong with them.
pub struct Questions<R> {
    input: R,
    /// What was read and not yet handed out.
    ready: VecDeque<Result<Question, String>>,
    /// The beginning of an object that is not complete yet.
    pending: String,
    /// The line where it begins.
    start: usize,
    /// The last line that was read.
    line: usize,
    /// Whether the rest of a broken object is skipped.
    skipping: bool,
}

impl<R: BufRead> Questions<R> {
    /// Of this stream.
    pub fn new(input: R) -> Self {
        Self { input, ready: VecDeque::new(), pending: String::new(), start: 1, line: 0, skipping: false }
    }

    fn take(&mut self, line: &str) {
        self.line += 1;
        let begins = line.trim_start().starts_with('{');
        if (line.trim().is_empty() && self.pending.is_empty()) || (self.skipping && !begins) {
            return;
        }
        self.skipping = false;
        if begins
            && !self.pending.is_empty()
            && parse(line).is_ok()
            && parse(&(self.pending.clone() + line)).is_err()
        {
            // A whole object where another never ended: that one is broken, and not this one.
            self.end();
        }
        if self.pending.is_empty() {
            self.start = self.line;
        }
        self.pending.push_str(line);
        match parse(&self.pending) {
            Ok(value) => {
                let question = Question::from_value(value);
                self.ready.push_back(question.map_err(|error| format!("line {}: {error}", self.start)));
                self.pending.clear();
            }
            Err(error) if error.is_eof() && self.pending.trim_start().starts_with('{') => {}
            Err(error) => {
                // The rest of an object that is spread over lines is no question of its own.
                self.skipping = self.line > self.start;
                self.broken(&error);
            }
        }
    }

    /// No more lines for what is pending.
    fn end(&mut self) {
        if let Err(error) = parse(&self.pending)
            && !self.pending.is_empty()
        {
            self.broken(&error);
        }
    }

    fn broken(&mut self, error: &serde_json::Error) {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let line = self.start + error.line().saturating_sub(1);
        self.ready.push_back(Err(format!("line {line}, column {}: {message}", error.column())));
        self.pending.clear();
    }
}

impl<R: BufRead> Iterator for Questions<R> {
    type Item = io::Result<Result<Question, String>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(question) = self.ready.pop_front() {
                return Some(Ok(question));
            }
            let mut line = Vec::new();
            match self.input.read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(error)),
                Ok(0) => {
                    self.end();
                    return self.ready.pop_front().map(Ok);
                }
                Ok(_) => self.take(&String::from_utf8_lossy(&line)),
            }
        }
    }
}

fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        Questions::new(text.as_bytes())
            .map(|question| match question.unwrap() {
                Ok(question) => question.connect.unwrap(),
                Err(message) => message,
            })
            .collect()
    }

    const A: &str = r#"{"source":{"ip":"10.0.0.1"},"connect":"a:1","flow":"tls"}"#;
    const B: &str = r#"{"source":{"ip":"10.0.0.1"},"connect":"b:1","flow":"tls"}"#;

    #[test]
    fn objects_may_be_spread_over_lines() {
        let spread = A.replace(',', ",\n").replace('{', "{\n");
        assert_eq!(read(&format!("{spread}\n{B}\n\n{spread}")), ["a:1", "b:1", "a:1"]);
        assert_eq!(read(""), Vec::<String>::new());
        assert_eq!(read("\n \n"), Vec::<String>::new());
    }

    #[test]
    fn broken_lines_do_no_harm_to_others() {
        for (text, expected) in [
            (
                format!("{A}\nx\ny\n{B}"),
                ["a:1", "line 2, column 1: expected value", "line 3, column 1: expected value", "b:1"]
                    .as_slice(),
            ),
            (format!("{{\"a\":\n{B}\n{A}"), &["line 2, column 0: EOF while parsing a value", "b:1", "a:1"]),
            (format!("{{\"a\": x}}\n{B}"), &["line 1, column 7: expected value", "b:1"]),
            (format!("{{\n\"a\": x,\n\"b\": 1\n}}\n{B}"), &["line 2, column 6: expected value", "b:1"]),
            (format!("{A}{{"), &["line 1, column 58: trailing characters"]),
            (format!("{A}\n{{"), &["a:1", "line 2, column 1: EOF while parsing an object"]),
            (format!("[]\n{A}"), &["line 1: question: expected an object", "a:1"]),
        ] {
            let read = read(&text);
            assert_eq!(read.len(), expected.len(), "{text}: {read:?}");
            for (read, expected) in read.iter().zip(expected) {
                assert!(read.starts_with(expected), "{text}: {read}");
            }
        }
    }
}
