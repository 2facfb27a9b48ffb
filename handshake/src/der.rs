//! DER (X.690), as much of it as X.509 needs: definite lengths, tags of one octet.
//!
//! Lengths may be padded, as BoringSSL has it of certificates.
//!
//! Nothing here recurses or allocates more than a small multiple of its input. What is not DER is `None`: whoever
//! reads hostile bytes refuses them as a whole, wherever they are wrong.

/// `BOOLEAN`
pub const BOOLEAN: u8 = 0x01;
/// `INTEGER`
pub const INTEGER: u8 = 0x02;
/// `BIT STRING`
pub const BIT_STRING: u8 = 0x03;
/// `OCTET STRING`
pub const OCTET_STRING: u8 = 0x04;
/// `OBJECT IDENTIFIER`
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// `UTCTime`
pub const UTC_TIME: u8 = 0x17;
/// `GeneralizedTime`
pub const GENERALIZED_TIME: u8 = 0x18;
/// `SEQUENCE`, `SEQUENCE OF`
pub const SEQUENCE: u8 = 0x30;
/// `SET OF`
pub const SET: u8 = 0x31;

/// The class bits of a tag.
pub const CLASS: u8 = 0xC0;
/// Tags that mean something by themselves.
pub const UNIVERSAL: u8 = 0x00;
/// Tags that mean something where they are.
pub const CONTEXT: u8 = 0x80;
/// The number bits of a tag.
pub const NUMBER: u8 = 0x1F;

/// A value with its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Class, form and number.
    pub tag: u8,
    /// The value.
    pub content: &'a [u8],
    /// All of it.
    pub raw: &'a [u8],
}

impl<'a> Element<'a> {
    /// What is in a `SEQUENCE`.
    pub fn fields(self) -> Option<Der<'a>> {
        (self.tag == SEQUENCE).then_some(Der(self.content))
    }
}

/// What is still to be read.
#[derive(Clone, Copy, Debug)]
pub struct Der<'a>(pub &'a [u8]);

impl<'a> Der<'a> {
    /// The next value, whatever it is.
    pub fn element(&mut self) -> Option<Element<'a>> {
        let input = self.0;
        let [tag, first, after @ ..] = input else { return None };
        let (length, after) = match usize::from(*first) {
            short @ ..0x80 => (short, after),
            long => {
                let (octets, after) = after.split_at_checked(long - 0x80)?;
                let length = octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
                // Indefinite, or padded beyond what BoringSSL takes.
                (1..=4).contains(&octets.len()).then_some((length, after))?
            }
        };
        let (content, rest) = after.split_at_checked(length)?;
        // X.509 has no tag of more than one octet.
        if tag & NUMBER == NUMBER {
            return None;
        }
        self.0 = rest;
        Some(Element { tag: *tag, content, raw: input.get(..input.len() - rest.len())? })
    }

    /// The content of the next value, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// The content of the next value if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(Some) } else { Some(None) }
    }

    /// What is in the `SEQUENCE` that must come next.
    pub fn sequence(&mut self) -> Option<Der<'a>> {
        self.expect(SEQUENCE).map(Der)
    }

    /// Nothing must follow.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// All values that follow.
    pub fn elements(mut self) -> Option<Vec<Element<'a>>> {
        let mut elements = Vec::new();
        while !self.0.is_empty() {
            elements.push(self.element()?);
        }
        Some(elements)
    }
}

/// The content of an `INTEGER`, not padded.
pub fn integer(content: &[u8]) -> Option<&[u8]> {
    (!matches!(content, [] | [0, ..0x80, ..])).then_some(content)
}

/// The octets of a `BIT STRING` from its content; bits that fill the last one up are zero.
pub fn bits(content: &[u8]) -> Option<&[u8]> {
    let (unused, octets) = content.split_first()?;
    let zeros = octets.last().map_or(0, |last| last.trailing_zeros().min(7));
    (u32::from(*unused) <= zeros).then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_definite_and_within_the_input() {
        let long = [[0x04, 0x81, 0x80].as_slice(), &[7; 0x80]].concat();
        assert_eq!(Der(&long).expect(OCTET_STRING), Some([7; 0x80].as_slice()));
        assert_eq!(Der(&[0x04, 0x01, 7, 8]).expect(OCTET_STRING), Some([7].as_slice()));
        assert_eq!(Der(&[0x04, 0x84, 0, 0, 0, 1, 7, 8]).expect(OCTET_STRING), Some([7].as_slice()));
        for refused in [
            [].as_slice(),
            &[0x04],
            &[0x04, 0x02, 7],
            &[0x04, 0x81, 0x02, 7],
            &[0x04, 0x82, 0x01],
            &[0x04, 0x80, 7, 0, 0],
            &[0x04, 0x85, 0, 0, 0, 0, 1, 7],
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 7],
            &[0x04, 0x85, 1, 0, 0, 0, 0, 7],
            &[0x04, 0xff, 7],
            &[0x1f, 0x81, 0x01, 0x00],
        ] {
            assert_eq!(Der(refused).element(), None, "{refused:x?}");
        }
    }

    #[test]
    fn what_is_optional_is_left_for_the_next() {
        let mut der = Der(&[0x02, 0x01, 5, 0x01, 0x02, 0xff]);
        assert_eq!(der.optional(BOOLEAN), Some(None));
        assert_eq!(der.optional(INTEGER), Some(Some([5].as_slice())));
        assert_eq!(der.optional(BOOLEAN), None, "it is there, but truncated");
        assert_eq!(der.end(), None);
        assert_eq!(der.elements(), None);
    }

    #[test]
    fn integers_are_not_padded() {
        for (content, expected) in [
            ([0].as_slice(), true),
            (&[0, 0x80], true),
            (&[0xFF, 0xFF], true),
            (&[], false),
            (&[0, 0], false),
            (&[0, 0x7F], false),
        ] {
            assert_eq!(integer(content).is_some(), expected, "{content:x?}");
        }
    }

    #[test]
    fn bits_that_are_not_used_are_zero() {
        for (content, expected) in [
            ([0].as_slice(), Some([].as_slice())),
            (&[3, 0xf8], Some(&[0xf8])),
            (&[7, 0x00], Some(&[0x00])),
            (&[], None),
            (&[1], None),
            (&[4, 0xf8], None),
            (&[8, 0x00], None),
        ] {
            assert_eq!(bits(content), expected, "{content:x?}");
        }
    }
}
