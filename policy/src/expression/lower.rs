//! From syntax tree to typed program. Everything has one type, known here; what does not fit is said, all of it.

mod call;
mod operator;

use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::parse::{MOST_NODES, Parsed};
use super::program::{Condition, Mapping, Number, Quantifier, Test, Text, Time};
use super::{Matcher, Problem, Scope};
use crate::attribute::{self, Attribute, Kind, Row, Stages};
use crate::engine::RuleKind;
use crate::error;
use crate::hash::QuickSet;
use crate::suggestion::nearest;

/// Lowers a matcher, which must be a condition.
pub fn lower(parsed: &Parsed<'_>, scope: &Scope<'_>) -> Result<Condition, Vec<Problem>> {
    let mut lowering = Lowering { parsed, scope, problems: Vec::new(), variables: Vec::new(), nodes: 0 };
    let condition = lowering.condition(&parsed.tree, "a matcher");
    match condition {
        Some(condition) if lowering.problems.is_empty() => Ok(condition),
        _ => Err(lowering.problems),
    }
}

/// A node, by its type.
#[derive(Debug)]
enum Lowered {
    Condition(Condition),
    Headers,
    Number(Number),
    Numbers(Vec<Number>),
    Text(Text),
    Texts(Vec<Text>),
    TextsAttribute(Attribute),
    Time(Time),
}

/// What a macro's variable stands for.
#[derive(Clone, Copy)]
enum Variable<'p> {
    /// An element that is written out.
    Element(&'p IdedExpr),
    /// Whatever item a quantifier looks at.
    Item,
}

struct Lowering<'p, 's> {
    parsed: &'p Parsed<'p>,
    scope: &'s Scope<'s>,
    problems: Vec<Problem>,
    variables: Vec<(&'p str, Variable<'p>)>,
    /// Macros multiply what is written.
    nodes: usize,
}

impl Lowered {
    fn name(&self) -> &'static str {
        match self {
            Self::Condition(_) => "true or false",
            Self::Headers => "the headers",
            Self::Number(_) => "a number",
            Self::Numbers(_) => "a list of numbers",
            Self::Text(_) => "a text",
            Self::Texts(_) | Self::TextsAttribute(_) => "a list of texts",
            Self::Time(_) => "a time",
        }
    }
}

impl<'p> Lowering<'p, '_> {
    /// Says what is wrong with a node.
    fn refuse<T>(&mut self, node: &IdedExpr, message: impl Into<String>) -> Option<T> {
        if self.problems.len() >= error::MOST {
            return None;
        }
        let offset = self.parsed.span(node).start;
        self.problems.push(Problem { message: message.into(), offset });
        None
    }

    /// A test that is written out.
    fn test(&self, node: &IdedExpr, test: Test) -> Lowered {
        Lowered::Condition(Condition { test, node: Some(node.id) })
    }

    fn node(&mut self, node: &'p IdedExpr) -> Option<Lowered> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            // Said once: the callers only give up.
            if self.nodes == MOST_NODES + 1 {
                return self.refuse(
                    node,
                    format!("macros make more than {MOST_NODES} sub-expressions of this; shorten the lists"),
                );
            }
            return None;
        }
        match &node.expr {
            Expr::Literal(literal) => self.literal(node, literal),
            Expr::Ident(name) => self.identifier(node, name),
            Expr::Select(select) if select.test => self.presence(node, select),
            Expr::Select(select) => self.selection(node, select),
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => self.list(node, &list.elements),
            Expr::Comprehension(comprehension) => self.comprehension(node, comprehension),
            Expr::Map(_) => self.refuse(node, "maps are not supported in matchers"),
            Expr::Struct(_) => self.refuse(node, "messages are not supported in matchers"),
            Expr::Unspecified => self.refuse(node, "not CEL"),
        }
    }

    fn literal(&mut self, node: &IdedExpr, literal: &LiteralValue) -> Option<Lowered> {
        match literal {
            LiteralValue::Boolean(value) => Some(self.test(node, Test::Constant(*value.inner()))),
            LiteralValue::Int(value) => Some(Lowered::Number(Number::Literal(*value.inner()))),
            LiteralValue::String(value) => Some(Lowered::Text(Text::Literal(value.inner().into()))),
            LiteralValue::Bytes(_) => {
                self.refuse(node, "bytes are not supported in matchers; write a text without `b`")
            }
            LiteralValue::Double(_) => self.refuse(node, "only whole numbers are supported in matchers"),
            LiteralValue::UInt(_) => {
                self.refuse(node, "unsigned numbers are not supported in matchers; write it without `u`")
            }
            LiteralValue::Null => {
                self.refuse(node, "`null` is not supported in matchers; ask with `has(…)` or `in`")
            }
        }
    }

    fn identifier(&mut self, node: &IdedExpr, name: &'p str) -> Option<Lowered> {
        match self.variables.iter().rposition(|(variable, _)| *variable == name) {
            None => self.unknown(node, name),
            Some(index) => match self.variables.get(index).map(|(_, variable)| *variable) {
                Some(Variable::Element(element)) => {
                    // An element is outside of the macro that takes its variable from it.
                    let inner = self.variables.split_off(index);
                    let lowered = self.node(element);
                    self.variables.extend(inner);
                    lowered
                }
                _ => Some(Lowered::Text(Text::Item)),
            },
        }
    }

    fn selection(&mut self, node: &'p IdedExpr, select: &'p SelectExpr) -> Option<Lowered> {
        if let Some(name) = self.path(node) {
            if let Some(row) = attribute::find(&name) {
                return self.attribute(node, row);
            }
            if let Some((owner, key)) = name.rsplit_once('.')
                && let Some(row @ Row { kind: Kind::Headers, .. }) = attribute::find(owner)
            {
                self.attribute(node, row)?;
                return Some(Lowered::Text(Text::Header(Box::new(header_name(Text::Literal(key.into()))))));
            }
            return self.unknown(node, &name);
        }
        let owner = self.node(&select.operand)?;
        self.refuse(node, format!("{} has no `{}`", owner.name(), select.field))
    }

    /// `has(a.b)`
    fn presence(&mut self, node: &'p IdedExpr, select: &'p SelectExpr) -> Option<Lowered> {
        let owner = self.path(&select.operand);
        let name = owner.as_ref().map(|owner| format!("{owner}.{}", select.field));
        if let Some(row) = name.as_deref().and_then(attribute::find) {
            self.attribute(node, row)?;
            return Some(self.test(node, Test::HasAttribute(row.attribute)));
        }
        if let Some(row @ Row { kind: Kind::Headers, .. }) = owner.as_deref().and_then(attribute::find) {
            self.attribute(node, row)?;
            return Some(
                self.test(node, Test::HasHeader(header_name(Text::Literal(select.field.as_str().into())))),
            );
        }
        match name {
            Some(name) => self.unknown(node, &name),
            None => self
                .refuse(node, "`has` asks for an attribute or a header, as in `has(request.headers.cookie)`"),
        }
    }

    /// The dotted name that a node is, if it is one and no variable begins it.
    fn path(&self, node: &IdedExpr) -> Option<String> {
        let mut segments = Vec::new();
        let mut node = node;
        loop {
            match &node.expr {
                Expr::Ident(name) if self.variables.iter().any(|(variable, _)| variable == name) => {
                    return None;
                }
                Expr::Ident(name) => {
                    segments.push(name.as_str());
                    segments.reverse();
                    return Some(segments.join("."));
                }
                Expr::Select(select) if !select.test => {
                    segments.push(&select.field);
                    node = &select.operand;
                }
                _ => return None,
            }
        }
    }

    fn attribute(&mut self, node: &IdedExpr, row: &'static Row) -> Option<Lowered> {
        if let Some(message) = self.never_known(row) {
            return self.refuse(node, message);
        }
        let attribute = row.attribute;
        Some(match row.kind {
            Kind::Flag => self.test(node, Test::Flag(attribute)),
            Kind::Headers => Lowered::Headers,
            Kind::Number => Lowered::Number(Number::Attribute(attribute)),
            Kind::Text => Lowered::Text(Text::Attribute(attribute)),
            Kind::Texts => Lowered::TextsAttribute(attribute),
            Kind::Time => Lowered::Time(Time::Attribute(attribute)),
        })
    }

    /// Why this matcher can never have this attribute.
    fn never_known(&self, row: &Row) -> Option<String> {
        let name = row.name;
        match (row.stages, self.scope.matcher) {
            (Stages::Request, Matcher::Session(_)) => {
                Some(format!("`{name}` is known only for requests; ask for it in the applicationMatcher"))
            }
            (
                Stages::Sniffed,
                Matcher::Session(RuleKind::Application) | Matcher::Application(RuleKind::Application),
            ) => Some(format!(
                "`{name}` is known only of TLS, and a rule with an applicationMatcher sees TLS only with \
                     `tlsInspectionEnabled: true`"
            )),
            _ => None,
        }
    }

    fn unknown<T>(&mut self, node: &IdedExpr, name: &str) -> Option<T> {
        let bare = attribute::TABLE.iter().map(|row| row.name.trim_end_matches("()"));
        let meant = nearest(name, bare)
            .and_then(|bare| attribute::TABLE.iter().find(|row| row.name.trim_end_matches("()") == bare));
        let hint = meant.map_or_else(
            || "; put quotes around it if it is a text".to_owned(),
            |row| format!("; did you mean `{}`?", row.name),
        );
        self.refuse(node, format!("unknown attribute `{name}`{hint}"))
    }

    fn list(&mut self, node: &'p IdedExpr, elements: &'p [IdedExpr]) -> Option<Lowered> {
        let mut texts = Vec::new();
        let mut numbers = Vec::new();
        let mut complete = true;
        for element in elements {
            match self.node(element) {
                Some(Lowered::Text(text)) if numbers.is_empty() => texts.push(text),
                Some(Lowered::Number(number)) if texts.is_empty() => numbers.push(number),
                Some(Lowered::Text(_) | Lowered::Number(_)) => {
                    return self.refuse(element, "a list has either texts or numbers, not both");
                }
                Some(other) => {
                    return self
                        .refuse(element, format!("a list has texts or numbers, not {}", other.name()));
                }
                None => complete = false,
            }
        }
        if !complete {
            None
        } else if elements.is_empty() {
            self.refuse(node, "an empty list matches nothing; write `false` if that is meant")
        } else if numbers.is_empty() {
            Some(Lowered::Texts(texts))
        } else {
            Some(Lowered::Numbers(numbers))
        }
    }

    fn comprehension(&mut self, node: &'p IdedExpr, macro_: &'p ComprehensionExpr) -> Option<Lowered> {
        let Some((quantifier, body)) = quantified(macro_) else {
            return self
                .refuse(node, "`map` and `filter` are not supported in matchers; use `exists` or `all`");
        };
        if let Expr::List(list) = &macro_.iter_range.expr {
            let mut conditions = Vec::new();
            let mut complete = true;
            for element in &list.elements {
                if !matches!(&element.expr, Expr::Literal(_)) {
                    // An element that fails would have to fail the whole, whatever the condition says.
                    return self.refuse(element, "macros go over lists of literals, such as `['a', 'b']`");
                }
                match self.with_variable(&macro_.iter_var, Variable::Element(element), body) {
                    Some(condition) => conditions.push(condition),
                    // The same body fails in the same way for every element.
                    None => {
                        complete = false;
                        break;
                    }
                }
            }
            let test = match quantifier {
                Quantifier::All => Test::All(conditions.into()),
                Quantifier::Exists => Test::Any(conditions.into()),
                Quantifier::ExactlyOne => Test::ExactlyOne(conditions.into()),
            };
            return complete.then(|| Lowered::Condition(Condition::joining(test)));
        }
        match self.node(&macro_.iter_range)? {
            Lowered::TextsAttribute(attribute) => {
                if self.variables.iter().any(|(_, variable)| matches!(variable, Variable::Item)) {
                    return self.refuse(node, "lists of a certificate do not go inside each other in macros");
                }
                let condition = self.with_variable(&macro_.iter_var, Variable::Item, body)?;
                Some(self.test(node, Test::Items(quantifier, attribute, Box::new(condition))))
            }
            other => {
                self.refuse(&macro_.iter_range, format!("macros go over lists, not over {}", other.name()))
            }
        }
    }

    fn with_variable(
        &mut self,
        name: &'p str,
        variable: Variable<'p>,
        body: &'p IdedExpr,
    ) -> Option<Condition> {
        self.variables.push((name, variable));
        let condition = self.condition(body, "the condition of a macro");
        self.variables.pop();
        condition
    }

    fn condition(&mut self, node: &'p IdedExpr, what: &str) -> Option<Condition> {
        match self.node(node)? {
            Lowered::Condition(condition) => Some(condition),
            other => self.refuse(node, format!("{what} must be true or false, but this is {}", other.name())),
        }
    }

    fn text(&mut self, node: &'p IdedExpr, what: &str) -> Option<Text> {
        match self.node(node)? {
            Lowered::Text(text) => Some(text),
            other => self.refuse(node, format!("{what} must be a text, but this is {}", other.name())),
        }
    }

    /// A text that is written out.
    fn literal_text(&mut self, node: &'p IdedExpr, what: &str) -> Option<&'p str> {
        // What a macro's variable stands for is written out elsewhere.
        let mut node = node;
        while let Expr::Ident(name) = &node.expr
            && let Some((_, Variable::Element(element))) =
                self.variables.iter().rfind(|(variable, _)| variable == name)
        {
            node = element;
        }
        match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
            _ => self.refuse(node, format!("{what} must be a text that is written out, such as `'a'`")),
        }
    }
}

/// The name of a header; all are in lower case, whatever rules and clients write.
fn header_name(name: Text) -> Text {
    match name {
        Text::Literal(name) => Text::Literal(name.to_ascii_lowercase().into()),
        name => Text::Mapped(Mapping::LowerAscii, Box::new(name)),
    }
}

/// What `exists`, `all` and `exists_one` became in the parser.
fn quantified(macro_: &ComprehensionExpr) -> Option<(Quantifier, &IdedExpr)> {
    let Expr::Call(CallExpr { func_name, args, .. }) = &macro_.loop_step.expr else { return None };
    match (func_name.as_str(), args.as_slice(), &macro_.accu_init.expr) {
        (operators::LOGICAL_OR, [_, body], Expr::Literal(LiteralValue::Boolean(_))) => {
            Some((Quantifier::Exists, body))
        }
        (operators::LOGICAL_AND, [_, body], Expr::Literal(LiteralValue::Boolean(_))) => {
            Some((Quantifier::All, body))
        }
        (operators::CONDITIONAL, [body, ..], Expr::Literal(LiteralValue::Int(_))) => {
            Some((Quantifier::ExactlyOne, body))
        }
        _ => None,
    }
}

/// The literals of a list, if all its texts are literals.
fn literals(texts: Vec<Text>) -> Result<QuickSet<Arc<str>>, Vec<Text>> {
    if !texts.iter().all(|text| matches!(text, Text::Literal(_))) {
        return Err(texts);
    }
    Ok(texts
        .into_iter()
        .filter_map(|text| match text {
            Text::Literal(literal) => Some(literal),
            _ => None,
        })
        .collect())
}

/// The same of numbers, in order.
fn number_literals(numbers: &[Number]) -> Option<Box<[i64]>> {
    let literal = |number: &Number| match number {
        Number::Literal(literal) => Some(*literal),
        _ => None,
    };
    let mut literals = numbers.iter().map(literal).collect::<Option<Box<[i64]>>>()?;
    literals.sort_unstable();
    Some(literals)
}
