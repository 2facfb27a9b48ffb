//! Names of subjects and issuers as Envoy and `openssl x509 -nameopt RFC2253` print them.
//!
//! All of it is printable ASCII: other bytes are escaped as `\XX`, so nothing in a name can move a cursor.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// `CN=client,O=Example\, Inc.`: the last attribute first, as RFC 4514 has it.
pub fn render(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let names: Vec<_> = name.iter().collect();
    for relative in names.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        let attributes: Vec<_> = relative.iter().collect();
        for (index, attribute) in attributes.into_iter().rev().enumerate() {
            if index > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    match (short_name(&oid), utf8(value)) {
        (Some(name), Some(value)) => {
            text.push_str(name);
            text.push('=');
            push_escaped(text, &value);
        }
        (name, _) => {
            text.push_str(name.unwrap_or(&oid));
            text.push_str("=#");
            for byte in value.to_der_vec().unwrap_or_default() {
                push_hexadecimal(text, byte);
            }
        }
    }
}

/// The short names of RFC 4514 and those that certificates use besides.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.16" => "postalAddress",
        "2.5.4.17" => "postalCode",
        "2.5.4.18" => "postOfficeBox",
        "2.5.4.20" => "telephoneNumber",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.2.840.113549.1.9.2" => "unstructuredName",
        _ => return None,
    })
}

/// The value in UTF-8, if its type is one of text.
fn utf8(value: &Any<'_>) -> Option<Vec<u8>> {
    let characters: Vec<u32> = match value.tag().0 {
        // UTF8String: as it is, even if it is none.
        12 => return Some(value.data.to_vec()),
        // NumericString, PrintableString, TeletexString (Latin-1 to everyone), IA5String, times, VisibleString
        18..=20 | 22..=24 | 26 => value.data.iter().map(|byte| u32::from(*byte)).collect(),
        // UniversalString
        28 => value.data.as_chunks().0.iter().map(|chunk| u32::from_be_bytes(*chunk)).collect(),
        // BMPString
        30 => value.data.as_chunks().0.iter().map(|chunk| u32::from(u16::from_be_bytes(*chunk))).collect(),
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
