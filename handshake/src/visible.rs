//! Text of a peer, made fit for a log: printable ASCII, and not too much of it.

use std::fmt::Write as _;

/// At most `maximum` characters of `bytes`; what is not printable ASCII is written as `\u{…}`, or `\x..` if it is
/// no UTF-8; a text that was cut ends with `…(+N)`, N bytes being gone.
pub fn visible(bytes: &[u8], maximum: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let start = text.len();
            push(&mut text, character);
            if text.len() > maximum {
                text.truncate(start);
                return cut(text, bytes.len() - used);
            }
            used += character.len_utf8();
        }
        for byte in chunk.invalid() {
            if text.len() + 4 > maximum {
                return cut(text, bytes.len() - used);
            }
            // Writing to a string cannot fail.
            let _infallible = write!(text, "\\x{byte:02x}");
            used += 1;
        }
    }
    text
}

/// Marks a text of which `gone` bytes were cut.
pub fn cut(mut text: String, gone: usize) -> String {
    let _infallible = write!(text, "…(+{gone})");
    text
}

fn push(text: &mut String, character: char) {
    match character {
        ' '..='~' => text.push(character),
        _ => text.extend(character.escape_unicode()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printable_ascii_is_escaped() {
        for (bytes, expected) in [
            (&b"client.example"[..], "client.example"),
            (b"a\r\n\x1b[2J\0", "a\\u{d}\\u{a}\\u{1b}[2J\\u{0}"),
            ("\u{202e}gpj.exe".as_bytes(), "\\u{202e}gpj.exe"),
            ("J\u{fc}rgen".as_bytes(), "J\\u{fc}rgen"),
            (b"\xff\xfeok", "\\xff\\xfeok"),
        ] {
            assert_eq!(visible(bytes, 256), expected);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(visible(b"0123456789", 10), "0123456789");
        assert_eq!(visible(b"0123456789a", 10), "0123456789…(+1)");
        assert_eq!(visible("ab\u{202e}c".as_bytes(), 6), "ab…(+4)");
        assert_eq!(visible(b"abc\xff\xff", 8), "abc\\xff…(+1)");
    }
}
