//! From text to syntax tree: limits first, then the `cel` crate's parser, then positions.

use std::cell::OnceCell;
use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, SourceInfo, operators};
use cel::parser::PrattParser;
use cel::parser::pratt_parser::{Lexer, Token, TokenKind};

pub use cel::common::ast::IdedExpr;

use super::Problem;

/// The longest matcher, in bytes.
const LONGEST: usize = 16 * 1024;
/// How deep brackets may nest.
const DEEPEST_BRACKETS: usize = 64;
/// How deep a tree may be by what its tokens promise. The parser recurses and copies along long chains, so
/// this comes before it.
const DEEPEST_TOKENS: usize = 200;
/// How deep a tree may be, where chains of `&&` or `||` count once.
const DEEPEST: usize = 64;
/// How many nodes a tree may have; Secure Web Proxy's limit too.
pub const MOST_NODES: usize = 5_000;

/// A part of the text, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// A syntax tree with positions.
#[derive(Debug)]
pub struct Parsed<'t> {
    /// The tree.
    pub tree: IdedExpr,
    source: &'t str,
    /// Found out if something is to be said about a node: it takes as long as parsing.
    info: OnceCell<Option<Arc<SourceInfo>>>,
    tokens: Vec<Token>,
    /// For each token that is a bracket, its partner.
    partners: Vec<Option<usize>>,
}

/// Parses a matcher.
pub fn parse(source: &str) -> Result<Parsed<'_>, Problem> {
    if source.len() > LONGEST {
        let message = format!(
            "{} bytes are too long for a matcher; keep it below {LONGEST}, or split the rule",
            source.len()
        );
        return Err(Problem { message, offset: 0 });
    }
    let tokens = tokenize(source)?;
    let partners = check_shape(source, &tokens)?;
    let tree = PrattParser::new()
        .error_recovery_limit(8)
        .parse(source)
        .map_err(|errors| syntax_problem(source, &errors))?;
    let parsed = Parsed { tree, source, info: OnceCell::new(), tokens, partners };
    parsed.check_size()?;
    Ok(parsed)
}

fn problem(message: impl Into<String>, offset: usize) -> Problem {
    Problem { message: message.into(), offset }
}

fn tokenize(source: &str) -> Result<Vec<Token>, Problem> {
    let mut lexer = Lexer::new(source);
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokEnd => return Ok(tokens),
            TokenKind::TokWhitespace | TokenKind::TokComment => {}
            TokenKind::TokError => {
                let message =
                    lexer.get_error().map_or("unexpected character", |error| error.message.as_str());
                return Err(problem(message, token.start));
            }
            kind => {
                if kind == TokenKind::TokString
                    && has_raw_newline(source.get(token.start..token.end).unwrap_or_default())
                {
                    return Err(problem(
                        "a text ends on the line where it begins; write `\\n`, or use three quotes",
                        token.start,
                    ));
                }
                if let Some(last) = tokens.last()
                    && matches!(
                        (last.kind, kind),
                        (TokenKind::TokExclamation, TokenKind::TokMinus)
                            | (TokenKind::TokMinus, TokenKind::TokExclamation)
                    )
                {
                    return Err(problem("`!` and `-` do not go together; use parentheses", token.start));
                }
                tokens.push(token);
            }
        }
    }
}

/// The parser lets newlines into texts with single quotes; CEL does not.
fn has_raw_newline(token: &str) -> bool {
    let text = token.trim_start_matches(['r', 'R']);
    !text.starts_with("'''") && !text.starts_with("\"\"\"") && text.contains(['\n', '\r'])
}

/// Pairs brackets, and refuses what is too deep for a parser that recurses. An upper bound of the tree's depth
/// inside one pair of brackets: its conditionals, and its longest chain of other operators, and the deepest of
/// the brackets in it. `&&` and `||` end a chain: the parser balances their trees.
fn check_shape(source: &str, tokens: &[Token]) -> Result<Vec<Option<usize>>, Problem> {
    #[derive(Default)]
    struct Level {
        opened: Option<(usize, TokenKind)>,
        conditionals: usize,
        chain: usize,
        longest_chain: usize,
        inner: usize,
    }
    impl Level {
        fn depth(&self) -> usize {
            1 + self.conditionals + self.longest_chain + self.inner
        }
    }
    let mut partners = vec![None; tokens.len()];
    let mut levels = vec![Level::default()];
    for (index, token) in tokens.iter().enumerate() {
        let count = levels.len();
        let Some(level) = levels.last_mut() else { break };
        match token.kind {
            TokenKind::TokLeftParen | TokenKind::TokLeftBracket | TokenKind::TokLeftBrace => {
                level.chain += 1;
                level.longest_chain = level.longest_chain.max(level.chain);
                if count > DEEPEST_BRACKETS {
                    return Err(problem(
                        format!("more than {DEEPEST_BRACKETS} brackets inside each other"),
                        token.start,
                    ));
                }
                levels.push(Level { opened: Some((index, token.kind)), ..Level::default() });
            }
            TokenKind::TokRightParen | TokenKind::TokRightBracket | TokenKind::TokRightBrace => {
                let depth = level.depth();
                let fits = level.opened.filter(|(_, opener)| closer(*opener) == token.kind);
                let Some((opener, _)) = fits else {
                    let text = source.get(token.start..token.end).unwrap_or_default();
                    return Err(problem(format!("`{text}` closes nothing"), token.start));
                };
                levels.pop();
                if let Some(outer) = levels.last_mut() {
                    outer.inner = outer.inner.max(depth);
                }
                for (one, other) in [(opener, index), (index, opener)] {
                    if let Some(partner) = partners.get_mut(one) {
                        *partner = Some(other);
                    }
                }
            }
            TokenKind::TokLogicalAnd | TokenKind::TokLogicalOr | TokenKind::TokComma => level.chain = 0,
            TokenKind::TokQuestion => level.conditionals += 1,
            TokenKind::TokDot
            | TokenKind::TokMinus
            | TokenKind::TokPlus
            | TokenKind::TokAsterisk
            | TokenKind::TokSlash
            | TokenKind::TokPercent
            | TokenKind::TokExclamation
            | TokenKind::TokEqualEqual
            | TokenKind::TokExclamationEqual
            | TokenKind::TokLess
            | TokenKind::TokLessEqual
            | TokenKind::TokGreater
            | TokenKind::TokGreaterEqual
            | TokenKind::TokIn => {
                level.chain += 1;
                level.longest_chain = level.longest_chain.max(level.chain);
            }
            _ => {}
        }
        if levels.iter().map(Level::depth).sum::<usize>() > DEEPEST_TOKENS + levels.len() {
            return Err(too_deep(token.start));
        }
    }
    if let Some((index, _)) = levels.last().and_then(|level| level.opened) {
        let offset = tokens.get(index).map_or(0, |token| token.start);
        let text = tokens.get(index).and_then(|token| source.get(token.start..token.end)).unwrap_or_default();
        return Err(problem(format!("`{text}` is never closed"), offset));
    }
    Ok(partners)
}

fn closer(opener: TokenKind) -> TokenKind {
    match opener {
        TokenKind::TokLeftParen => TokenKind::TokRightParen,
        TokenKind::TokLeftBracket => TokenKind::TokRightBracket,
        _ => TokenKind::TokRightBrace,
    }
}

fn too_deep(offset: usize) -> Problem {
    problem("too many operators or calls inside each other; split the rule, or use a list with `in`", offset)
}

fn syntax_problem(source: &str, errors: &cel::ParseErrors) -> Problem {
    let Some(error) = errors.errors.first() else { return problem("not CEL", 0) };
    let (line, column) = error.pos;
    let line = usize::try_from(line).unwrap_or(1).max(1) - 1;
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let column = usize::try_from(column).unwrap_or(1).max(1) - 1;
    let offset = (before + column).min(source.len());
    problem(reword(&error.msg, source.get(offset..).unwrap_or_default()), offset)
}

/// The parser's messages, in our words; `rest` begins with what it stumbled over.
fn reword(message: &str, rest: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    match message {
        "mismatched input '<EOF>' expecting expression" => "the expression ends too early".to_owned(),
        "mismatched input '=' expecting <EOF>" => {
            "nothing can be assigned here; write `==` to compare".to_owned()
        }
        "mismatched input 'and' expecting <EOF>" => "unexpected `and`; write `&&`".to_owned(),
        "mismatched input 'or' expecting <EOF>" => "unexpected `or`; write `||`".to_owned(),
        "unable to unescape string" => {
            "this text has an unknown escape; write `\\\\` for a backslash, or a raw text such as `R'\\d'`"
                .to_owned()
        }
        "unexpected token" => {
            let token = Lexer::new(rest).lex();
            format!("unexpected `{}`", rest.get(..token.end).unwrap_or(rest))
        }
        _ => message
            .replace("mismatched input '<EOF>'", "unexpected end")
            .replace("mismatched input", "unexpected")
            .replace(" expecting <EOF>", "; perhaps an operator such as `&&` is missing before it")
            .replace('\'', "`"),
    }
}

/// The parser keeps its positions to itself unless something is wrong, and it numbers nodes in the order of the
/// text. So it gets the same text with something wrong at the end.
fn positions(source: &str) -> Option<Arc<SourceInfo>> {
    let errors = PrattParser::new().parse(&format!("{source}\n)")).err()?;
    errors.errors.into_iter().find_map(|error| error.source_info)
}

impl Parsed<'_> {
    /// The part of the text that the node of this number is.
    pub fn span_of(&self, id: u64) -> Span {
        let mut stack = vec![&self.tree];
        while let Some(node) = stack.pop() {
            if node.id == id {
                return self.span(node);
            }
            stack.extend(children(&node.expr));
        }
        Span::default()
    }

    /// The part of the text that a node is. A node that a macro made has the part of what it was made of.
    pub fn span(&self, node: &IdedExpr) -> Span {
        let mut span = Span { start: usize::MAX, end: 0 };
        let mut stack = vec![node];
        let info = self.info.get_or_init(|| positions(self.source));
        while let Some(node) = stack.pop() {
            if let Some((start, end)) = info.as_ref().and_then(|info| info.offset_for(node.id)) {
                let (start, end) = (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0));
                let end = if needs_next(&node.expr) { self.end_of_next(start).unwrap_or(end) } else { end };
                span = Span { start: span.start.min(start), end: span.end.max(end) };
            }
            stack.extend(children(&node.expr));
        }
        if span.start > span.end { Span::default() } else { self.whole_brackets(span) }
    }

    fn end_of_next(&self, start: usize) -> Option<usize> {
        let index = self.tokens.iter().position(|token| token.start == start)?;
        self.tokens.get(index + 1).map(|token| token.end)
    }

    /// Grows until no bracket in the span has its partner outside.
    fn whole_brackets(&self, mut span: Span) -> Span {
        loop {
            let before = span;
            for (token, partner) in self.tokens.iter().zip(&self.partners) {
                // A call is known by its opening bracket, or by its name, which the bracket follows.
                let inside = token.start >= span.start
                    && token.start <= span.end
                    && (token.end <= span.end
                        || token.start == span.end && token.kind == TokenKind::TokLeftParen);
                if let (true, Some(partner)) = (inside, partner.and_then(|partner| self.tokens.get(partner)))
                {
                    span = Span { start: span.start.min(partner.start), end: span.end.max(partner.end) };
                }
            }
            if span == before {
                return span;
            }
        }
    }

    fn check_size(&self) -> Result<(), Problem> {
        let mut nodes = 0;
        // A chain of one operator counts once, wherever the parser put its brackets.
        let mut stack = vec![(&self.tree, 1, "")];
        while let Some((node, depth, outer)) = stack.pop() {
            nodes += 1;
            if depth > DEEPEST {
                return Err(too_deep(self.span(node).start));
            }
            if nodes > MOST_NODES {
                return Err(problem(
                    format!("more than {MOST_NODES} sub-expressions; split the rule, or use a URL list"),
                    0,
                ));
            }
            let operator = match &node.expr {
                Expr::Call(CallExpr { func_name, target: None, .. })
                    if matches!(func_name.as_str(), operators::LOGICAL_AND | operators::LOGICAL_OR) =>
                {
                    func_name.as_str()
                }
                _ => "",
            };
            let depth = if operator.is_empty() || operator != outer { depth + 1 } else { depth };
            stack.extend(children(&node.expr).map(|child| (child, depth, operator)));
        }
        Ok(())
    }
}

/// Whether a node's position is an operator of which the operand, or the field, comes next.
fn needs_next(expr: &Expr) -> bool {
    matches!(expr, Expr::Select(_) | Expr::Literal(_))
        && match expr {
            Expr::Literal(cel::common::ast::LiteralValue::Int(number)) => *number.inner() < 0,
            Expr::Literal(_) => false,
            _ => true,
        }
}

fn children(expr: &Expr) -> Box<dyn Iterator<Item = &IdedExpr> + '_> {
    match expr {
        Expr::Call(call) => Box::new(call.target.as_deref().into_iter().chain(&call.args)),
        Expr::Comprehension(comprehension) => {
            Box::new([&comprehension.iter_range, &comprehension.loop_step].into_iter())
        }
        Expr::List(list) => Box::new(list.elements.iter()),
        Expr::Select(select) => Box::new(std::iter::once(&*select.operand)),
        Expr::Map(map) => Box::new(map.entries.iter().flat_map(|entry| entries(&entry.expr))),
        Expr::Struct(structure) => Box::new(structure.entries.iter().flat_map(|entry| entries(&entry.expr))),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Box::new(std::iter::empty()),
    }
}

fn entries(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_before_the_parser() {
        let cases = [
            ("(".repeat(10_000), "brackets inside each other"),
            (format!("{}1{}", "(".repeat(65), ")".repeat(65)), "brackets inside each other"),
            (format!("1{}", "+1".repeat(5_000)), "too many operators"),
            (format!("s{}", ".f()".repeat(2_000)), "too many operators"),
            (format!("s{}", ".a".repeat(5_000)), "too many operators"),
            (format!("s{}", "[0]".repeat(3_000)), "too many operators"),
            (format!("{}true", "!".repeat(10_000)), "too many operators"),
            (format!("{}1", "-".repeat(10_000)), "too many operators"),
            (format!("{}d", "c?1:".repeat(3_000)), "too many operators"),
            (format!("{}d", "c?".repeat(3_000)), "too many operators"),
            (format!("{}1", "1-(".repeat(60)), "never closed"),
            ("a".repeat(1_000_000), "too long"),
            (format!("a{}", " || a".repeat(3_000)), "sub-expressions"),
            (format!("[{}]", "1,".repeat(6_000)), "sub-expressions"),
        ];
        for (source, expected) in cases {
            let problem = std::thread::Builder::new()
                .stack_size(1 << 20)
                .spawn(move || parse(&source).unwrap_err())
                .unwrap()
                .join()
                .unwrap();
            assert!(problem.message.contains(expected), "{}", problem.message);
        }
    }

    #[test]
    fn what_is_within_the_limits_parses_on_a_small_stack() {
        let cases = [
            format!("{}1{}", "(".repeat(64), ")".repeat(64)),
            format!("{}1{}", "(1 + ".repeat(30), ")".repeat(30)),
            format!("a{}", " || a".repeat(2_000)),
            format!("a{}", " || b && c".repeat(800)),
            format!("1{}", " + 1".repeat(60)),
            format!("{}d", "c ? b : ".repeat(60)),
        ];
        for source in cases {
            std::thread::Builder::new()
                .stack_size(1 << 20)
                .spawn(move || drop(parse(&source).unwrap()))
                .unwrap()
                .join()
                .unwrap();
        }
    }

    #[test]
    fn what_the_grammar_lacks_is_refused() {
        for (source, expected, offset) in [
            ("!-a", "do not go together", 1),
            ("-!a", "do not go together", 1),
            ("'a\nb' == host()", "three quotes", 0),
            ("host() == 'a", "unterminated string literal", 10),
            ("host() = 'a'", "write `==`", 7),
            ("host() & true", "expected `&&`", 7),
            ("é == 'a'", "unexpected character", 0),
            ("host() == 'a' 'b'", "perhaps an operator", 14),
            ("(true", "`(` is never closed", 0),
            ("true)", "`)` closes nothing", 4),
            ("(true]", "`]` closes nothing", 5),
            ("", "ends too early", 0),
            ("true &&", "ends too early", 7),
            ("a.b(,)", "unexpected `,`", 4),
            ("'\\q'", "raw text such as `R`", 0),
        ] {
            let problem = parse(source).unwrap_err();
            assert!(problem.message.replace('\'', "`").contains(expected), "{source}: {}", problem.message);
            assert_eq!(problem.offset, offset, "{source}: {}", problem.message);
        }
    }

    #[test]
    fn nodes_know_their_part_of_the_text() {
        for (source, text) in [
            ("host() == 'a'", "host() == 'a'"),
            (" (host()) == 'a' ", "(host()) == 'a'"),
            ("(host() == 'a')", "host() == 'a'"),
            ("request.url().startsWith('a/b')", "request.url().startsWith('a/b')"),
            ("-5 < int(request.headers['x'])", "-5 < int(request.headers['x'])"),
            ("5 > -5", "5 > -5"),
            ("has(request.headers.x)", "has(request.headers.x)"),
            ("source.ip in ['a', 'b']", "source.ip in ['a', 'b']"),
            ("a.b.c", "a.b.c"),
            ("(a || b)", "a || b"),
            ("a // c", "a"),
        ] {
            let parsed = parse(source).unwrap();
            let span = parsed.span(&parsed.tree);
            assert_eq!(source.get(span.start..span.end), Some(text));
        }
    }
}
