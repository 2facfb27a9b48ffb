//! RE2's syntax, said again in Rust's.

use super::class;

/// How deep groups may nest.
const DEEPEST: usize = 64;
/// The most that counted repetitions may count, multiplied along their nesting.
const MOST: u32 = 1_000;

/// Translates a pattern, or says why RE2 rejects it.
pub fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator {
        rest: pattern,
        output: String::new(),
        flags: String::new(),
        groups: Vec::new(),
        repetitions: 1,
        last: Last::Nothing,
    };
    while let Some(character) = translator.next() {
        translator.step(character)?;
    }
    if !translator.groups.is_empty() {
        return Err("a `(` is never closed".to_owned());
    }
    Ok(translator.output)
}

/// What a repetition would repeat.
#[derive(Clone, Copy)]
enum Last {
    Nothing,
    Item(Item),
}

#[derive(Clone, Copy)]
struct Item {
    /// Where it begins in the output.
    start: usize,
    /// Its counted repetitions, multiplied along their nesting.
    repetitions: u32,
    repeated: Repeated,
}

#[derive(Clone, Copy, PartialEq)]
enum Repeated {
    Not,
    Just,
    /// But something without a meaning of its own follows, so that it may be repeated again.
    Before,
}

/// A group that is open.
struct Group {
    /// Where it begins in the output.
    start: usize,
    /// The most repetitions of any item before it, in the group around it.
    repetitions: u32,
}

struct Translator<'p> {
    rest: &'p str,
    output: String,
    /// Flags that hold from here on. They wait, because what repeats the last item may follow them.
    flags: String,
    groups: Vec<Group>,
    /// The most repetitions of any item of the innermost group so far.
    repetitions: u32,
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

    /// Nothing repeats the last item any more.
    fn write_flags(&mut self) {
        self.output.push_str(&std::mem::take(&mut self.flags));
    }

    fn atom(&mut self, text: &str) {
        self.write_flags();
        let item = Item { start: self.output.len(), repetitions: 1, repeated: Repeated::Not };
        self.output.push_str(text);
        self.last = Last::Item(item);
    }

    fn literal(&mut self, character: char) {
        let mut text = String::new();
        push_literal(&mut text, character);
        self.atom(&text);
    }

    /// Something without a meaning of its own.
    fn nothing(&mut self) {
        if let Last::Item(item @ Item { repeated: Repeated::Just, .. }) = &mut self.last {
            item.repeated = Repeated::Before;
        }
    }

    fn step(&mut self, character: char) -> Result<(), String> {
        match character {
            '^' => self.atom("^"),
            '$' => self.atom("$"),
            '.' => self.atom("."),
            '|' => {
                self.write_flags();
                self.output.push('|');
                self.last = Last::Nothing;
            }
            '(' => self.open()?,
            ')' => {
                let group = self.groups.pop().ok_or("a `)` closes nothing")?;
                self.write_flags();
                self.output.push(')');
                let repetitions = self.repetitions;
                self.repetitions = repetitions.max(group.repetitions);
                self.last = Last::Item(Item { start: group.start, repetitions, repeated: Repeated::Not });
            }
            '[' => {
                let class = class::bracketed(&mut self.rest)?;
                self.atom(&class);
            }
            '*' | '+' | '?' => self.repeat(&character.to_string(), 1)?,
            '{' => match self.counted()? {
                Some((operator, count)) => self.repeat(&operator, count)?,
                None => self.literal('{'),
            },
            '\\' => self.escape()?,
            _ => self.literal(character),
        }
        Ok(())
    }

    fn repeat(&mut self, operator: &str, count: u32) -> Result<(), String> {
        let Last::Item(mut item) = self.last else {
            return Err(format!("there is nothing to repeat before `{operator}`"));
        };
        match item.repeated {
            Repeated::Not => {}
            Repeated::Just => return Err("something is repeated twice; use a group".to_owned()),
            Repeated::Before => {
                self.output.insert_str(item.start, "(?:");
                self.output.push(')');
            }
        }
        item.repetitions = item.repetitions.saturating_mul(count.max(1));
        if item.repetitions > MOST {
            return Err(format!("repetitions multiply to more than {MOST}"));
        }
        self.repetitions = self.repetitions.max(item.repetitions);
        self.output.push_str(operator);
        // What is matched first makes no difference to whether there is a match.
        self.take("?");
        self.last = Last::Item(Item { repeated: Repeated::Just, ..item });
        Ok(())
    }

    /// `{n}`, `{n,}` or `{n,m}`, without leading zeros; any other `{` is a literal. Also how often it repeats at most, or
    /// at least where it has no end.
    fn counted(&mut self) -> Result<Option<(String, u32)>, String> {
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
            None => (format!("{{{least},}}"), least),
            Some(most) => {
                let most = number(most)?;
                if most < least {
                    return Err(format!("`{{{inside}}}` ends before it begins"));
                }
                (format!("{{{least},{most}}}"), most)
            }
        };
        self.rest = rest;
        Ok(Some(count))
    }

    fn open(&mut self) -> Result<(), String> {
        if !self.take("?") {
            return self.open_group("(?:");
        }
        if self.take("P<")
            || (self.rest.starts_with('<')
                && !self.rest.starts_with("<=")
                && !self.rest.starts_with("<!")
                && self.take("<"))
        {
            let (name, rest) = self.rest.split_once('>').ok_or("the name of a group is never closed")?;
            let known = |character: char| character.is_ascii_alphanumeric() || character == '_';
            if name.is_empty() || !name.chars().all(known) {
                return Err(format!(
                    "`{name}` is no name of a group; names are of ASCII letters, digits and `_`"
                ));
            }
            self.rest = rest;
            return self.open_group("(?:");
        }
        self.flags()
    }

    fn open_group(&mut self, opening: &str) -> Result<(), String> {
        if self.groups.len() >= DEEPEST {
            return Err(format!("more than {DEEPEST} groups inside each other"));
        }
        self.write_flags();
        self.groups.push(Group { start: self.output.len(), repetitions: self.repetitions });
        self.output.push_str(opening);
        self.repetitions = 1;
        self.last = Last::Nothing;
        Ok(())
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
                    let flags = format!("(?{on}{separator}{off}{end}");
                    if end == ':' {
                        return self.open_group(&flags);
                    }
                    if flags != "(?)" {
                        self.flags.push_str(&flags);
                    }
                    self.nothing();
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
            self.nothing();
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
