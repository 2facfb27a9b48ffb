//! Programs: patterns that are compiled already, as text. `outgate render` writes them beside the policy, so that
//! the module carries neither a compiler of patterns nor Unicode's tables.
//!
//! A program is the pattern's nondeterministic automaton: it grows with the pattern, never exponentially. The text is
//! base64 of a version, a part that every match contains (its length and its bytes), the number of states, the first of
//! them, and the states, numbered from 0. Each state begins with its kind:
//!
//! | kind | state | what follows |
//! |---|---|---|
//! | 0 | no way on | |
//! | 1 | a match | |
//! | 2 | a byte of one range | lowest, highest, next state |
//! | 3 | a byte of one of several ranges, in order | how many, then each as above |
//! | 4 | several ways without a byte | how many, then the next states |
//! | 5 and up | one of [`LOOKS`] holds here | next state |
//!
//! Bytes are bytes; all other numbers are LEB128.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use regex_automata::nfa::thompson::{self, NFA, Transition};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

/// Changes with the meaning of the bytes.
const VERSION: u8 = 1;
/// The longest text, in bytes.
const LONGEST: usize = 1 << 20;
/// The most states.
const MOST_STATES: usize = 1 << 16;

const FAIL: u8 = 0;
const MATCH: u8 = 1;
const RANGE: u8 = 2;
const RANGES: u8 = 3;
const WAYS: u8 = 4;
const FIRST_LOOK: u8 = 5;
/// What RE2 has besides bytes: `\A`, `\z`, `(?m)^`, `(?m)$`, `\b` and `\B`.
const LOOKS: [Look; 6] =
    [Look::Start, Look::End, Look::StartLF, Look::EndLF, Look::WordAscii, Look::WordAsciiNegate];

/// A program, read.
pub struct Program {
    /// What every match contains; nothing if that is not known.
    pub part: Box<str>,
    /// The automaton.
    pub automaton: NFA,
}

/// What is wrong with a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProgramError {
    /// Longer than any that is written.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    /// Not text of the right kind.
    #[error("is no base64")]
    Base64,
    /// Written by another version of outgate.
    #[error("has another version than {VERSION}")]
    Version,
    /// Shortened or changed.
    #[error("is damaged")]
    Damaged,
}

impl Program {
    /// Reads a program. Whatever the text, this ends in an automaton that can be searched with, or in a refusal.
    pub fn read(text: &str) -> Result<Self, ProgramError> {
        if text.len() > LONGEST {
            return Err(ProgramError::TooLong);
        }
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| ProgramError::Base64)?;
        let [VERSION, rest @ ..] = &*bytes else { return Err(ProgramError::Version) };
        read(rest).ok_or(ProgramError::Damaged)
    }

    /// The program of an automaton without groups; nothing if it is too large.
    #[cfg(feature = "patterns")]
    pub fn write(part: &str, automaton: &NFA) -> Option<String> {
        let states = automaton.states();
        if states.len() > MOST_STATES {
            return None;
        }
        let mut bytes = vec![VERSION];
        push(&mut bytes, part.len());
        bytes.extend(part.as_bytes());
        push(&mut bytes, states.len());
        push(&mut bytes, automaton.start_unanchored().as_usize());
        for state in states {
            push_state(&mut bytes, state)?;
        }
        let text = STANDARD_NO_PAD.encode(bytes);
        (text.len() <= LONGEST).then_some(text)
    }
}

fn read(bytes: &[u8]) -> Option<Program> {
    let mut reader = Reader { rest: bytes, states: 0 };
    let length = reader.number()?;
    let part = std::str::from_utf8(reader.take(length)?).ok()?.into();
    reader.states = reader.number().filter(|states| *states <= MOST_STATES)?;
    let start = reader.next_state()?;
    // What this would panic about is refused before: states that do not exist, ranges that are out of order, and ways
    // without a byte that are fewer than two, which could lead in a circle.
    let mut builder = thompson::Builder::new();
    builder.set_utf8(false);
    builder.start_pattern().ok()?;
    for _ in 0..reader.states {
        match reader.byte()? {
            FAIL => builder.add_fail(),
            MATCH => builder.add_match(),
            RANGE => builder.add_range(reader.transition()?),
            RANGES => builder.add_sparse(reader.transitions()?),
            WAYS => {
                let count = reader.several()?;
                builder.add_union((0..count).map(|_| reader.next_state()).collect::<Option<_>>()?)
            }
            kind => {
                let look = *LOOKS.get(usize::from(kind.checked_sub(FIRST_LOOK)?))?;
                builder.add_look(reader.next_state()?, look)
            }
        }
        .ok()?;
    }
    if !reader.rest.is_empty() {
        return None;
    }
    builder.finish_pattern(start).ok()?;
    Some(Program { part, automaton: builder.build(start, start).ok()? })
}

struct Reader<'b> {
    rest: &'b [u8],
    /// How many there are.
    states: usize,
}

impl<'b> Reader<'b> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// Up to 28 bits, which is more than any program needs.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// How many follow: two at least, and no more than there are bytes.
    fn several(&mut self) -> Option<usize> {
        self.number().filter(|count| (2..=self.rest.len()).contains(count))
    }

    fn next_state(&mut self) -> Option<StateID> {
        let state = self.number().filter(|state| *state < self.states)?;
        StateID::new(state).ok()
    }

    fn transition(&mut self) -> Option<Transition> {
        let (start, end) = (self.byte()?, self.byte()?);
        let next = self.next_state()?;
        (start <= end).then_some(Transition { start, end, next })
    }

    fn transitions(&mut self) -> Option<Vec<Transition>> {
        let count = self.several()?;
        let transitions = (0..count).map(|_| self.transition()).collect::<Option<Vec<_>>>()?;
        transitions.is_sorted_by(|one, other| one.end < other.start).then_some(transitions)
    }
}

#[cfg(feature = "patterns")]
fn push(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(feature = "patterns")]
fn push_state(bytes: &mut Vec<u8>, state: &thompson::State) -> Option<()> {
    use thompson::State;
    let push_transition = |bytes: &mut Vec<u8>, transition: &Transition| {
        bytes.extend([transition.start, transition.end]);
        push(bytes, transition.next.as_usize());
    };
    let push_ways = |bytes: &mut Vec<u8>, ways: &[StateID]| {
        bytes.push(WAYS);
        push(bytes, ways.len());
        ways.iter().for_each(|way| push(bytes, way.as_usize()));
    };
    match state {
        State::Fail => bytes.push(FAIL),
        State::Match { .. } => bytes.push(MATCH),
        State::ByteRange { trans } => {
            bytes.push(RANGE);
            push_transition(bytes, trans);
        }
        State::Sparse(sparse) => {
            bytes.push(RANGES);
            push(bytes, sparse.transitions.len());
            sparse.transitions.iter().for_each(|transition| push_transition(bytes, transition));
        }
        State::Union { alternates } => push_ways(bytes, alternates),
        State::BinaryUnion { alt1, alt2 } => push_ways(bytes, &[*alt1, *alt2]),
        State::Look { look, next } => {
            let index = LOOKS.iter().position(|known| known == look)?;
            bytes.push(FIRST_LOOK + u8::try_from(index).ok()?);
            push(bytes, next.as_usize());
        }
        State::Dense(_) | State::Capture { .. } => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::regex::{Regex, compile};
    use crate::tests::random::Random;

    fn text(bytes: &[u8]) -> String {
        STANDARD_NO_PAD.encode(bytes)
    }

    /// Version 1, no part, two states, the first first; then the states.
    fn two_states(states: &[u8]) -> String {
        text(&[&[1, 0, 2, 0], states].concat())
    }

    fn refusal(program: &str) -> Option<ProgramError> {
        Program::read(program).err()
    }

    #[test]
    fn what_cannot_be_searched_with_is_refused() {
        for (program, expected) in [
            (two_states(&[RANGE, b'a', b'z', 1, MATCH]), None),
            (two_states(&[RANGES, 2, b'a', b'b', 1, b'c', b'c', 0, MATCH]), None),
            (two_states(&[WAYS, 2, 0, 1, MATCH]), None),
            (two_states(&[FIRST_LOOK + 5, 1, FAIL]), None),
            ("é".to_owned(), Some(ProgramError::Base64)),
            ("AA==".to_owned(), Some(ProgramError::Base64)),
            (String::new(), Some(ProgramError::Version)),
            (text(&[2, 0, 1, 0, MATCH]), Some(ProgramError::Version)),
            ("A".repeat(LONGEST + 1), Some(ProgramError::TooLong)),
            (text(&[1]), Some(ProgramError::Damaged)),
            (text(&[1, 1, 0xff, 1, 0, MATCH]), Some(ProgramError::Damaged)),
            (text(&[1, 9, b'a', 1, 0, MATCH]), Some(ProgramError::Damaged)),
            (text(&[1, 0, 0, 0]), Some(ProgramError::Damaged)),
            (text(&[1, 0, 1, 1, MATCH]), Some(ProgramError::Damaged)),
            (text(&[1, 0, 0x80, 0x80, 0x80, 0x80, 1, 0]), Some(ProgramError::Damaged)),
            (two_states(&[MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[MATCH, MATCH, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[RANGE, b'z', b'a', 1, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[RANGE, b'a', b'z', 2, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[RANGES, 1, b'a', b'b', 1, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[RANGES, 2, b'a', b'b', 1, b'b', b'c', 1, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[RANGES, 2, b'c', b'c', 1, b'a', b'b', 1, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[WAYS, 0, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[WAYS, 1, 0, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[WAYS, 2, 0, 2, MATCH]), Some(ProgramError::Damaged)),
            (two_states(&[FIRST_LOOK + 6, 1, MATCH]), Some(ProgramError::Damaged)),
        ] {
            assert_eq!(refusal(&program), expected, "{program:.80}");
        }
        let states = |count: usize| {
            let mut bytes = vec![1, 0];
            push(&mut bytes, count);
            bytes.push(0);
            bytes.resize(bytes.len() + count, FAIL);
            text(&bytes)
        };
        assert_eq!(refusal(&states(MOST_STATES)), None);
        assert_eq!(refusal(&states(MOST_STATES + 1)), Some(ProgramError::Damaged));
    }

    #[test]
    fn whatever_happens_to_a_program_it_is_refused_or_works() {
        const TEXTS: [&str; 4] = ["", "/v1/item7\n", "aé日🦀 \0", "aaaaaaaaaaaaaaaaaaaaaaaaab"];
        let (mut refused, mut works) = (0, 0);
        let mut search = |bytes: &[u8]| match Regex::new("x", &text(bytes)) {
            Ok(regex) => {
                works += 1;
                TEXTS.iter().for_each(|text| _ = regex.is_match(text));
            }
            Err(_) => refused += 1,
        };
        let mut random = Random::new(1);
        for pattern in ["^/v[0-9]+/item7$", r"(?im)^\bk*(aé|[^b]\B)+?$", r"(a|b|)*(\C{2}|[日-本]){3}", r"\pL"]
        {
            let program = STANDARD_NO_PAD.decode(compile(pattern).unwrap()).unwrap();
            for length in 0..program.len().min(100) {
                search(&program[..length]);
            }
            for _ in 0..2_000 {
                let mut damaged = program.clone();
                for _ in 0..=random.below(3) {
                    // Mostly near the beginning, where the counts are.
                    let near = if random.below(2) == 0 { 24 } else { damaged.len() };
                    let place = random.below(near.min(damaged.len()));
                    damaged[place] = match random.below(3) {
                        0 => damaged[place] ^ (1 << random.below(8)),
                        1 => u8::try_from(random.below(256)).unwrap(),
                        _ => u8::try_from(random.below(12)).unwrap(),
                    };
                }
                search(&damaged);
            }
        }
        for _ in 0..5_000 {
            let length = random.below(40);
            let states = (0..length).map(|_| u8::try_from(random.below(12)).unwrap());
            search(&[1, 0, 4, 0].into_iter().chain(states).collect::<Vec<_>>());
        }
        assert!(refused > 1_000 && works > 1_000, "{refused} refused, {works} work");
    }

    /// The compiler's limit of memory bounds the text too.
    #[test]
    fn the_largest_patterns_have_programs() {
        for piece in ["[^a]", r"\pL", "(?i)k", "(a|b|c)"] {
            let repeated = |count: usize| compile(&format!("({piece}){{{count}}}")).ok();
            let counts: Vec<usize> = (1..=1_000).collect();
            let most = counts.partition_point(|count| repeated(*count).is_some());
            let largest = repeated(most).unwrap();
            println!("{most} × {piece}: a program of {} bytes", largest.len());
            assert_eq!(refusal(&largest), None, "{piece}");
        }
    }
}
