//! RE2's syntax, said again in Rust's.

use super::class;

/// How deep groups may nest.
const DEEPEST: usize = 64;
/// The most that a counted repetition may count.
const MOST: u32 = 1_000;

/// Translates a pattern, or says why RE2 rejects it.
pub fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator { rest: pattern, output: String::new(), groups: 0, last: Last::Nothing };
    while let Some(character) = translator.next() {
        translator.step(character)?;
    }
    if translator.groups > 0 {
        return Err("a `(` is never closed".to_owned());
    }
    Ok(translator.output)
}

/// What a repetition would repeat.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Nothing,
    Atom,
    Repetition,
}

struct Translator<'p> {
    rest: &'p str,
    output: String,
    groups: usize,
    last: Last,
}

/// A literal, so that no character means anything else.
pub fn push_literal(output: &mut String, character: char) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() {
        output.push(character);
    } else {
        output.push_str(&format!("\\x{{{:X}}}", u32::from(character)));
    }
}

/// Takes the first character.
pub fn next(rest: &mut &str) -> Option<char> {
    let mut characters = rest.chars();
    let character = characters.next();
    *rest = characters.as_str();
    character
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        next(&mut self.rest)
    }

    /// Takes a prefix, if it is there.
    fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn atom(&mut self, text: &str) {
        self.output.push_str(text);
        self.last = Last::Atom;
    }

    fn literal(&mut self, character: char) {
        push_literal(&mut self.output, character);
        self.last = Last::Atom;
    }

    fn step(&mut self, character: char) -> Result<(), String> {
        match character {
            '^' => self.atom("^"),
            '$' => self.atom("$"),
            '.' => self.atom("."),
            '|' => {
                self.output.push('|');
                self.last = Last::Nothing;
            }
            '(' => self.open()?,
            ')' => {
                self.groups = self.groups.checked_sub(1).ok_or("a `)` closes nothing")?;
                self.atom(")");
            }
            '[' => {
                let class = class::bracketed(&mut self.rest)?;
                self.atom(&class);
            }
            '*' | '+' | '?' => self.repeat(&character.to_string())?,
            '{' => match self.counted()? {
                Some(count) => self.repeat(&count)?,
                None => self.literal('{'),
            },
            '\\' => self.escape()?,
            _ => self.literal(character),
        }
        Ok(())
    }

    fn repeat(&mut self, operator: &str) -> Result<(), String> {
        match self.last {
            Last::Nothing => return Err(format!("there is nothing to repeat before `{operator}`")),
            Last::Repetition => return Err("something is repeated twice; use a group".to_owned()),
            Last::Atom => {}
        }
        self.output.push_str(operator);
        // What is matched first makes no difference to whether there is a match.
        self.take("?");
        self.last = Last::Repetition;
        Ok(())
    }

    /// `{n}`, `{n,}` or `{n,m}`, without leading zeros; any other `{` is a literal.
    fn counted(&mut self) -> Result<Option<String>, String> {
        let Some((inside, rest)) = self.rest.split_once('}') else { return Ok(None) };
        let (least, most) = match inside.split_once(',') {
            None => (inside, Some(inside)),
            Some((least, "")) => (least, None),
            Some((least, most)) => (least, Some(most)),
        };
        let digits = |text: &str| {
            text == "0"
                || !text.is_empty()
                    && !text.starts_with('0')
                    && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(least) || !most.is_none_or(digits) {
            return Ok(None);
        }
        let number = |text: &str| {
            let number = text.parse::<u32>().ok().filter(|number| *number <= MOST);
            number.ok_or_else(|| format!("`{{{inside}}}` repeats more than {MOST} times"))
        };
        let least = number(least)?;
        let count = match most {
            None => format!("{{{least},}}"),
            Some(most) => {
                let most = number(most)?;
                if most < least {
                    return Err(format!("`{{{inside}}}` ends before it begins"));
                }
                format!("{{{least},{most}}}")
            }
        };
        self.rest = rest;
        Ok(Some(count))
    }

    fn open(&mut self) -> Result<(), String> {
        self.groups += 1;
        if self.groups > DEEPEST {
            return Err(format!("more than {DEEPEST} groups inside each other"));
        }
        self.last = Last::Nothing;
        if !self.take("?") {
            self.output.push_str("(?:");
            return Ok(());
        }
        if self.take("P<")
            || (self.rest.starts_with('<')
                && !self.rest.starts_with("<=")
                && !self.rest.starts_with("<!")
                && self.take("<"))
        {
            let (name, rest) = self.rest.split_once('>').ok_or("the name of a group is never closed")?;
            if name.is_empty()
                || !name.chars().all(|character| character.is_alphanumeric() || character == '_')
            {
                return Err(format!("`{name}` is no name of a group"));
            }
            self.rest = rest;
            self.output.push_str("(?:");
            return Ok(());
        }
        self.flags()
    }

    /// `(?i)`, `(?i-s:`
    fn flags(&mut self) -> Result<(), String> {
        let (mut on, mut off) = (String::new(), String::new());
        let mut negative = false;
        let mut named = true;
        loop {
            match self.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U')) => {
                    named = true;
                    let (into, from) = if negative { (&mut off, &mut on) } else { (&mut on, &mut off) };
                    from.retain(|other| other != flag);
                    // Greed makes no difference to whether there is a match.
                    if flag != 'U' && !into.contains(flag) {
                        into.push(flag);
                    }
                }
                Some('-') if !negative => {
                    negative = true;
                    named = false;
                }
                Some(end @ (')' | ':')) if named => {
                    let separator = if off.is_empty() { "" } else { "-" };
                    if end == ')' {
                        self.groups -= 1;
                        if on.is_empty() && off.is_empty() {
                            return Ok(());
                        }
                    }
                    self.output.push_str(&format!("(?{on}{separator}{off}{end}"));
                    return Ok(());
                }
                Some(flag @ ('=' | '!' | '>' | '#' | '<' | 'P')) => {
                    return Err(format!("groups that begin with `(?{flag}` do not exist"));
                }
                Some(flag) => return Err(format!("`{flag}` is no flag of a group; there are i, m, s and U")),
                None => return Err("a `(?` is never closed".to_owned()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        if self.take("Q") {
            let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            for character in quoted.chars() {
                self.literal(character);
            }
            self.rest = rest;
            return Ok(());
        }
        // Words, and what is at their ends, are ASCII.
        for (escape, meaning) in
            [("A", "\\A"), ("z", "\\z"), ("b", "(?-u:\\b)"), ("B", "(?-u:\\B)"), ("C", "(?s-u:.)")]
        {
            if self.take(escape) {
                self.atom(meaning);
                return Ok(());
            }
        }
        if let Some(class) = class::escaped(&mut self.rest)? {
            self.atom(&class);
            return Ok(());
        }
        let character = class::character(&mut self.rest)?;
        self.literal(character);
        Ok(())
    }
}
