//! Request paths: what is judged is what is sent.
//!
//! A path is judged, and sent on, with dot segments removed and escaped unreserved characters decoded
//! (RFC 3986 6.2.2); the query is left alone. Where an origin could read it otherwise, there is a second,
//! *folded* reading: escapes decoded until nothing changes, backslashes taken for slashes, slashes merged,
//! `;…` cut from each segment. Both readings must be allowed.

use std::borrow::Cow;

use crate::excerpt::Excerpt;
use crate::reason::Reason;

/// What makes an origin read a path otherwise.
const TELL_TALES: [&str; 6] = ["%2F", "%5C", "%25", "\\", "//", ";"];

/// A path and its query, as they are judged and sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestPath {
    sent: String,
    /// Where the path ends within `sent`.
    end: usize,
    folded: Option<String>,
}

/// Why a path was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Some origin would leave the folder.
    #[error(
        "`{0}` hides a `.` or `..` segment behind escapes, backslashes or `;`, so origins read it in different ways; send the path that is meant"
    )]
    Ambiguous(Excerpt),
    /// No leading slash.
    #[error("the path `{0}` does not begin with `/`")]
    NoSlash(Excerpt),
    /// Something that no path has.
    #[error("the path `{text}` has a character that must be escaped: {character:?}")]
    Character {
        /// The path.
        text: Excerpt,
        /// The character.
        character: char,
    },
    /// `%` without two hexadecimal digits.
    #[error(
        "the path `{0}` has a `%` that two hexadecimal digits do not follow; write `%25` for the sign itself"
    )]
    BrokenEscape(Excerpt),
    /// `*` in a request that is no `OPTIONS`.
    #[error("only OPTIONS has the target `*`")]
    Asterisk,
}

impl PathError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Ambiguous(_) => Reason::AmbiguousPath,
            Self::NoSlash(_) | Self::Character { .. } | Self::BrokenEscape(_) | Self::Asterisk => {
                Reason::BadPath
            }
        }
    }
}

impl RequestPath {
    /// Reads the `:path` of a request with this method.
    pub fn of_request(method: &str, text: &str) -> Result<Self, PathError> {
        match Self::parse(text)? {
            path if path.is_asterisk() && method != "OPTIONS" => Err(PathError::Asterisk),
            path => Ok(path),
        }
    }

    /// Reads `:path`, or the target of `OPTIONS *`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text == "*" {
            return Ok(Self { sent: text.to_owned(), end: text.len(), folded: None });
        }
        if let Some(end) = end_of_plain(text) {
            return Ok(Self { sent: text.to_owned(), end, folded: None });
        }
        Self::normalise(text)
    }

    fn normalise(text: &str) -> Result<Self, PathError> {
        let excerpt = || Excerpt::new(text);
        if !text.starts_with('/') {
            return Err(PathError::NoSlash(excerpt()));
        }
        // A space would end the path in HTTP/1.
        let strange = text.chars().find(|character| !matches!(character, '!'..='~') || *character == '#');
        if let Some(character) = strange {
            return Err(PathError::Character { text: excerpt(), character });
        }
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let decoded = decode_unreserved(path).ok_or_else(|| PathError::BrokenEscape(excerpt()))?;
        let mut sent = remove_dot_segments(&decoded);
        let folded = fold(&sent).map_err(|HiddenDots| PathError::Ambiguous(excerpt()))?;
        let end = sent.len();
        if let Some(query) = query {
            sent.push('?');
            sent.push_str(query);
        }
        Ok(Self { sent, end, folded })
    }

    /// The path that is judged and sent, without the query.
    pub fn path(&self) -> &str {
        self.sent.get(..self.end).unwrap_or_default()
    }

    /// The query, as it came.
    pub fn query(&self) -> Option<&str> {
        self.sent.get(self.end..).and_then(|rest| rest.strip_prefix('?'))
    }

    /// Path and query, as they are sent on.
    pub fn sent(&self) -> &str {
        &self.sent
    }

    /// The other reading, where some origin has one.
    pub fn folded(&self) -> Option<&str> {
        self.folded.as_deref()
    }

    /// Whether this is the target of `OPTIONS *`, which no other method may have.
    pub fn is_asterisk(&self) -> bool {
        self.sent == "*"
    }
}

/// Where the path ends, if it is in normal form already and has one reading, as nearly all have. What is not sure is not.
fn end_of_plain(text: &str) -> Option<usize> {
    let mut end = text.len();
    let mut previous = 0;
    for (index, byte) in text.bytes().enumerate() {
        if !matches!(byte, b'!'..=b'~') || byte == b'#' {
            return None;
        }
        if end < text.len() {
            continue;
        }
        match (previous, byte) {
            (0, b'/') => {}
            // Escapes, second readings, and what may be a dot segment.
            (0, _) | (_, b'%' | b'\\' | b';') | (b'/', b'/' | b'.') => return None,
            (_, b'?') => end = index,
            _ => {}
        }
        previous = byte;
    }
    text.starts_with('/').then_some(end)
}

/// RFC 3986 6.2.2.1 and 6.2.2.2; nothing if an escape is broken.
fn decode_unreserved(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = escape.get(..2)?;
        let byte = hexadecimal(digits.as_bytes())?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            decoded.push(char::from(byte));
        } else {
            decoded.push('%');
            decoded.push_str(&digits.to_ascii_uppercase());
        }
        rest = escape.get(2..)?;
    }
    decoded.push_str(rest);
    Some(Cow::Owned(decoded))
}

/// RFC 3986 5.2.4, for a path that begins with a slash.
fn remove_dot_segments(path: &str) -> String {
    let mut segments = Vec::new();
    let mut input = path.split('/').skip(1).peekable();
    while let Some(segment) = input.next() {
        let last = input.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(segment),
        }
    }
    let mut output = String::with_capacity(path.len());
    for segment in segments {
        output.push('/');
        output.push_str(segment);
    }
    output
}

/// A dot segment that only the folded reading has.
struct HiddenDots;

fn fold(path: &str) -> Result<Option<String>, HiddenDots> {
    if !TELL_TALES.iter().any(|tell_tale| path.contains(tell_tale)) {
        return Ok(None);
    }
    let bytes = decode_all(path);
    let mut folded = Vec::<u8>::with_capacity(bytes.len());
    let mut segments = bytes.split(|byte| matches!(byte, b'/' | b'\\')).skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        if matches!(segment, b"." | b"..") {
            return Err(HiddenDots);
        }
        if last || !segment.is_empty() {
            folded.push(b'/');
            folded.extend(segment);
        }
    }
    let folded = String::from_utf8(folded)
        .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
    Ok((folded != path).then_some(folded))
}

/// Decodes escapes until nothing changes, in one pass: what a decoded byte completes is decoded at once.
fn decode_all(path: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        decoded.push(byte);
        while let Some((head, [b'%', digits @ ..])) = decoded.split_last_chunk::<3>()
            && let Some(byte) = hexadecimal(digits)
        {
            let length = head.len();
            decoded.truncate(length);
            decoded.push(byte);
        }
    }
    decoded
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_no_dot_segments_and_no_needless_escapes() {
        for (text, sent) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/%2e%2E/a", "/a"),
            ("/a/%2e%2e/b", "/b"),
            ("/%61%7E%2d", "/a~-"),
            ("/a%2fb", "/a%2Fb"),
            ("/%c3%a9", "/%C3%A9"),
            ("/...", "/..."),
            ("/a?b/../c%zz", "/a?b/../c%zz"),
            ("/a?", "/a?"),
            ("/a?b?c", "/a?b?c"),
            ("/a|b\"<>{}^`", "/a|b\"<>{}^`"),
            ("*", "*"),
        ] {
            assert_eq!(RequestPath::parse(text).unwrap().sent(), sent, "{text}");
        }
    }

    #[test]
    fn plain_paths_are_read_as_all_others() {
        const CHARACTERS: &[u8; 10] = b"/.a%2F?;#\\";
        let mut plain = 0;
        for number in 0..1_000_000 {
            let characters = (0..6).map(|place| CHARACTERS[number / 10_usize.pow(place) % 10]);
            let text: String = "/".chars().chain(characters.map(char::from)).collect();
            let Some(end) = end_of_plain(&text) else { continue };
            plain += 1;
            let expected = RequestPath { sent: text.clone(), end, folded: None };
            assert_eq!(RequestPath::normalise(&text), Ok(expected), "{text}");
        }
        assert!(plain > 50_000, "{plain}");
        for text in ["", "a", " /", "/é", "/a b", "/\x7f"] {
            assert_eq!(end_of_plain(text), None, "{text}");
        }
    }

    #[test]
    fn some_paths_have_a_second_reading() {
        for (text, folded) in [
            ("/admin/x", None),
            ("/a%20b", None),
            ("/a%3Bb", None),
            ("/admin%2Fx", Some("/admin/x")),
            ("//admin/x", Some("/admin/x")),
            ("/a///b//", Some("/a/b/")),
            ("/admin;x/y", Some("/admin/y")),
            ("/;/admin", Some("/admin")),
            ("/admin/;x", Some("/admin/")),
            ("/a\\b", Some("/a/b")),
            ("/a%5cb", Some("/a/b")),
            ("/a%255cb", Some("/a/b")),
            ("/a%25252Fb", Some("/a/b")),
            ("/%2561dmin", Some("/admin")),
            ("/100%25", Some("/100%")),
            ("/%25%32%46x", Some("/x")),
            ("/a%2F%C3%A9", Some("/a/é")),
            ("/a%2F%E9", Some("/a/é")),
            ("/x//../admin", None),
            ("*", None),
        ] {
            assert_eq!(RequestPath::parse(text).unwrap().folded(), folded, "{text}");
        }
    }

    #[test]
    fn dots_that_only_some_origins_see_are_refused() {
        for text in [
            "/x/..%2fadmin/y",
            "/%252e%252e/",
            "/a\\..\\admin",
            "/a/..;/admin",
            "/a/..;x=y/admin",
            "/a/.;/b",
            "/..%5c",
            "/%25252e%25252e/a",
            "/a%2f..",
        ] {
            let error = RequestPath::parse(text).unwrap_err();
            assert_eq!(error.reason(), Reason::AmbiguousPath, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "",
            "a",
            "?",
            "http://a/",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/a\tb",
            "/a\0",
            "/é",
            "/a?é",
            "/\u{7f}",
            "/%",
            "/%2",
            "/%zz",
            "/a%2?b",
        ] {
            let error = RequestPath::parse(text).unwrap_err();
            assert_eq!(error.reason(), Reason::BadPath, "{text:?}");
        }
    }

    #[test]
    fn the_query_is_left_alone() {
        for (text, path, query) in [
            ("/a?b=%2e%2e/../c", "/a", Some("b=%2e%2e/../c")),
            ("/a", "/a", None),
            ("/a?", "/a", Some("")),
            ("/./a?x", "/a", Some("x")),
        ] {
            let parsed = RequestPath::parse(text).unwrap();
            assert_eq!((parsed.path(), parsed.query()), (path, query), "{text}");
        }
    }

    #[test]
    fn nested_escapes_cost_one_pass() {
        let text = format!("/%{}41", "25".repeat(100_000));
        assert_eq!(RequestPath::parse(&text).unwrap().folded(), Some("/A"));
    }
}
