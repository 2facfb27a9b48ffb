//! A writer of DER that knows as much of ASN.1 as certificates need.

use time::OffsetDateTime;

/// Tags.
pub(crate) mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OBJECT_IDENTIFIER: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;

    /// `[number]` around a whole value.
    pub const fn explicit(number: u8) -> u8 {
        0xa0 | number
    }

    /// `[number]` in place of a primitive's own tag.
    pub const fn implicit(number: u8) -> u8 {
        0x80 | number
    }
}

/// Appends DER values to a buffer.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(capacity) }
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends what is DER already.
    pub fn raw(&mut self, der: &[u8]) {
        self.bytes.extend_from_slice(der);
    }

    /// Appends a value with this tag and these contents.
    pub fn primitive(&mut self, tag: u8, contents: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend(Length::of(contents.len()));
        self.bytes.extend_from_slice(contents);
    }

    /// Appends a value with this tag and what `write` writes as its contents.
    pub fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Writer)) {
        self.bytes.push(tag);
        let start = self.bytes.len();
        write(self);
        let length = Length::of(self.bytes.len().saturating_sub(start));
        self.bytes.splice(start..start, length);
    }

    /// Appends a BIT STRING whose last byte has `unused` unused bits.
    pub fn bit_string(&mut self, unused: u8, bits: &[u8]) {
        self.nested(tag::BIT_STRING, |string| {
            string.raw(&[unused]);
            string.raw(bits);
        });
    }

    /// Appends a time: UTCTime until 2049, GeneralizedTime after, as RFC 5280 demands.
    pub fn time(&mut self, time: OffsetDateTime) {
        let time = time.to_offset(time::UtcOffset::UTC);
        let year = time.year().clamp(0, 9999);
        let rest = format!(
            "{:02}{:02}{:02}{:02}{:02}Z",
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        if (1950..2050).contains(&year) {
            self.primitive(tag::UTC_TIME, format!("{:02}{rest}", year % 100).as_bytes());
        } else {
            self.primitive(tag::GENERALIZED_TIME, format!("{year:04}{rest}").as_bytes());
        }
    }
}

/// The octets of a length: one below 128, else a count and that many.
struct Length;

impl Length {
    fn of(length: usize) -> impl Iterator<Item = u8> {
        let octets = length.to_be_bytes();
        let leading = octets.iter().take_while(|&&octet| octet == 0).count();
        let count = octets.len() - leading;
        // The count is at most eight.
        let first = if length < 128 { None } else { Some(0x80 | count as u8) };
        let skipped = if length == 0 { leading - 1 } else { leading };
        first.into_iter().chain(octets.into_iter().skip(skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_fewest_octets() {
        for (length, expected) in [
            (0, vec![0]),
            (1, vec![1]),
            (127, vec![127]),
            (128, vec![0x81, 128]),
            (255, vec![0x81, 255]),
            (256, vec![0x82, 1, 0]),
            (65_535, vec![0x82, 255, 255]),
            (65_536, vec![0x83, 1, 0, 0]),
        ] {
            assert_eq!(Length::of(length).collect::<Vec<u8>>(), expected, "{length}");
        }
    }

    #[test]
    fn times_change_form_in_2050() {
        for (seconds, expected) in [
            (0, &b"\x17\x0d700101000000Z"[..]),
            (1_763_868_896, b"\x17\x0d251123033456Z"),
            (2_524_607_999, b"\x17\x0d491231235959Z"),
            (2_524_608_000, b"\x18\x0f20500101000000Z"),
        ] {
            let mut writer = Writer::with_capacity(0);
            writer.time(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
            assert_eq!(writer.into_bytes(), expected, "{seconds}");
        }
    }
}
