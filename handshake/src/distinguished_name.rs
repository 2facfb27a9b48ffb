//! Names of subjects and issuers as Envoy and `openssl x509 -nameopt RFC2253` print them.
//!
//! All of it is printable ASCII: other bytes are escaped as `\XX`, so nothing in a name can move a cursor.

use std::fmt::Write as _;

use crate::der::{Element, NUMBER};
use crate::x509::{Attribute, Name, dotted};

/// The short names of RFC 4514 and those that certificates use besides: 2.5.4, 0.9.2342.19200300.100.1 and
/// 1.2.840.113549.1.9.
const SHORT_NAMES: [(&[u8], &str); 27] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 15], "businessCategory"),
    (&[0x55, 4, 16], "postalAddress"),
    (&[0x55, 4, 17], "postalCode"),
    (&[0x55, 4, 18], "postOfficeBox"),
    (&[0x55, 4, 20], "telephoneNumber"),
    (&[0x55, 4, 41], "name"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 44], "generationQualifier"),
    (&[0x55, 4, 45], "x500UniqueIdentifier"),
    (&[0x55, 4, 46], "dnQualifier"),
    (&[0x55, 4, 65], "pseudonym"),
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 1], "UID"),
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 25], "DC"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 13, 1, 9, 1], "emailAddress"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 13, 1, 9, 2], "unstructuredName"),
];

/// `CN=client,O=Example\, Inc.`: the last attribute first, as RFC 4514 has it.
pub fn render(name: &Name<'_>) -> String {
    let mut text = String::new();
    for attribute in name.attributes.iter().rev() {
        push_attribute(&mut text, attribute);
        text.push(if attribute.begins { ',' } else { '+' });
    }
    text.pop();
    text
}

fn push_attribute(text: &mut String, attribute: &Attribute<'_>) {
    let name = SHORT_NAMES.iter().find(|(identifier, _)| *identifier == attribute.identifier);
    match (name, utf8(&attribute.value)) {
        (Some((_, name)), Some(value)) => {
            text.push_str(name);
            text.push('=');
            push_escaped(text, &value);
        }
        (name, _) => {
            match name {
                Some((_, name)) => text.push_str(name),
                None => text.push_str(&dotted(attribute.identifier)),
            }
            text.push_str("=#");
            for byte in attribute.value.raw {
                push_hexadecimal(text, *byte);
            }
        }
    }
}

/// The value in UTF-8, if its type is one of text.
fn utf8(value: &Element<'_>) -> Option<Vec<u8>> {
    let characters: Vec<u32> = match value.tag & NUMBER {
        // UTF8String: as it is, even if it is none.
        12 => return Some(value.content.to_vec()),
        // NumericString, PrintableString, TeletexString (Latin-1 to everyone), IA5String, times, VisibleString
        18..=20 | 22..=24 | 26 => value.content.iter().map(|byte| u32::from(*byte)).collect(),
        // UniversalString
        28 => value.content.as_chunks().0.iter().map(|chunk| u32::from_be_bytes(*chunk)).collect(),
        // BMPString
        30 => value.content.as_chunks().0.iter().map(|chunk| u32::from(u16::from_be_bytes(*chunk))).collect(),
        _ => return None,
    };
    let text: String = characters
        .into_iter()
        .map(|character| char::from_u32(character).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(text.into_bytes())
}

fn push_escaped(text: &mut String, value: &[u8]) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.iter().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            b'#' if index == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                text.push('\\');
                push_hexadecimal(text, *byte);
            }
        }
    }
}

/// Appends two upper-case digits.
pub fn push_hexadecimal(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _infallible = write!(text, "{byte:02X}");
}
