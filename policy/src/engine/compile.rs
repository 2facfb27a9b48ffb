//! From a document to an engine.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::indexes::Indexes;
use super::{Engine, Rule, RuleKind};
use crate::document::{self, Document, RuleDocument};
use crate::error::{self, MatcherError, PolicyError, PolicyErrors};
use crate::expression::{Expression, Matcher, Patterns, Problem, Programs, Scope};
use crate::hash::QuickMap;
use crate::url_list::UrlLists;

/// How much of a long line an error shows.
const WIDEST: usize = 100;

/// Compiles a policy, and its patterns unless their programs are given.
pub fn compile(value: Cow<'_, Value>, programs: Option<&Programs>) -> Result<Engine, PolicyErrors> {
    let hash = hash(&value);
    let (document, errors) = document::read(&value);
    drop(value);
    let Some(mut document) = document else { return Err(PolicyErrors::new(errors)) };
    let lists = document.url_lists.iter_mut();
    let lists = lists.map(|list| (list.name.clone(), std::mem::take(&mut list.entries)));
    let url_lists = Arc::new(UrlLists::new(lists));
    let patterns = Patterns::new(programs);
    let mut compiler =
        Compiler { url_lists: &url_lists, patterns: &patterns, made: QuickMap::default(), errors };
    let mut rules = Vec::new();
    for rule in document.rules.iter().filter(|rule| rule.enabled) {
        if compiler.errors.len() >= error::MOST {
            break;
        }
        rules.extend(compiler.rule(rule));
    }
    let mut errors = compiler.errors;
    // The file's order counts among shadow rules with one priority.
    rules.sort_by_key(|rule: &Rule| rule.priority);
    equal_priorities(&document, &mut errors);
    if !errors.is_empty() {
        return Err(PolicyErrors::new(errors));
    }
    let indexes = Indexes::new(&rules, document.outgate.after_inspection, &url_lists);
    Ok(Engine {
        document,
        hash,
        rules,
        indexes,
        #[cfg(feature = "patterns")]
        programs: patterns.into_compiled(),
    })
}

fn equal_priorities(document: &Document, errors: &mut Vec<PolicyError>) {
    let mut first = QuickMap::<i32, &str>::default();
    for rule in document.rules.iter().filter(|rule| rule.enabled && !rule.shadow) {
        match first.get(&rule.priority) {
            None => {
                first.insert(rule.priority, &rule.name);
            }
            Some(other) => errors.push(PolicyError::Document {
                place: "rules".to_owned(),
                message: format!(
                    "`{other}` and `{}` both have priority {}, so nobody can tell which goes first; give each its own",
                    rule.name, rule.priority
                ),
            }),
        }
    }
}

/// Makes expressions, those that are written alike once.
struct Compiler<'d> {
    url_lists: &'d Arc<UrlLists>,
    patterns: &'d Patterns<'d>,
    made: QuickMap<(Matcher, &'d str), Arc<Expression>>,
    errors: Vec<PolicyError>,
}

impl<'d> Compiler<'d> {
    fn rule(&mut self, rule: &'d RuleDocument) -> Option<Rule> {
        let kind = match (&rule.application_matcher, rule.tls_inspection_enabled) {
            (_, true) => RuleKind::Inspecting,
            (Some(_), false) => RuleKind::Application,
            (None, false) => RuleKind::Session,
        };
        let session = self.matcher(rule, Matcher::Session(kind), &rule.session_matcher);
        let application = match &rule.application_matcher {
            None => Some(None),
            Some(source) => self.matcher(rule, Matcher::Application(kind), source).map(Some),
        };
        Some(Rule {
            name: rule.name.clone(),
            priority: rule.priority,
            action: rule.action,
            kind,
            shadow: rule.shadow,
            session: session?,
            application: application?,
        })
    }

    fn matcher(&mut self, rule: &RuleDocument, matcher: Matcher, source: &'d str) -> Option<Arc<Expression>> {
        if let Some(made) = self.made.get(&(matcher, source)) {
            return Some(Arc::clone(made));
        }
        let scope = Scope { matcher, url_lists: self.url_lists, patterns: self.patterns };
        match Expression::compile(source, &scope) {
            Ok(expression) => {
                let expression = Arc::new(expression);
                self.made.insert((matcher, source), Arc::clone(&expression));
                Some(expression)
            }
            Err(problems) => {
                self.errors
                    .extend(problems.iter().map(|problem| matcher_error(rule, matcher, source, problem)));
                None
            }
        }
    }
}

fn matcher_error(rule: &RuleDocument, matcher: Matcher, source: &str, problem: &Problem) -> PolicyError {
    let before = source.get(..problem.offset).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = source.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    // Of a long line, what is around the column.
    let left = if column >= WIDEST { column - WIDEST / 2 } else { 0 };
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut excerpt: String = line.chars().skip(left).take(WIDEST).map(plain).collect();
    let mut caret = column - left;
    if left > 0 {
        excerpt.insert(0, '…');
        caret += 1;
    }
    if line.chars().nth(left + WIDEST).is_some() {
        excerpt.push('…');
    }
    PolicyError::Matcher(Box::new(MatcherError {
        rule: rule.name.clone(),
        field: matcher.field(),
        message: problem.message.clone(),
        line: before.matches('\n').count() + 1,
        column: column + 1,
        excerpt,
        caret,
        multiline: source.trim_end().contains('\n'),
    }))
}

/// The first 16 hexadecimal digits of the SHA-256 of the document as JSON, its keys in order, without spaces.
fn hash(value: &Value) -> String {
    let mut canonical = Vec::new();
    write(value, &mut canonical);
    Sha256::digest(canonical).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn write(value: &Value, output: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            output.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    output.push(b',');
                }
                write(item, output);
            }
            output.push(b']');
        }
        Value::Object(members) => {
            let mut ordered: Vec<_> = members.iter().collect();
            // `serde_json` may keep the order of the file.
            ordered.sort_by_key(|(key, _)| *key);
            output.push(b'{');
            for (index, (key, value)) in ordered.into_iter().enumerate() {
                if index > 0 {
                    output.push(b',');
                }
                scalar(key, output);
                output.push(b':');
                write(value, output);
            }
            output.push(b'}');
        }
        value => scalar(value, output),
    }
}

fn scalar(value: &impl Serialize, output: &mut Vec<u8>) {
    let _infallible = serde_json::to_writer(output, value);
}
