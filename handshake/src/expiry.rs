//! How many days are left to the certificates that clients come with.

use std::collections::HashMap;

use time::OffsetDateTime;

use crate::certificate::Certificate;

/// Certificates whose end is remembered: those that come again and again are read once.
const REMEMBERED: usize = 1024;

/// Ends of certificates, by fingerprint.
#[derive(Debug, Default)]
pub struct Expiry {
    ends: HashMap<String, Option<OffsetDateTime>>,
}

impl Expiry {
    /// Whole days that are left of a certificate, 0 if it has expired; none if it cannot be read.
    pub fn days(
        &mut self,
        fingerprint: &str,
        now: OffsetDateTime,
        pem: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Option<u64> {
        let end = match self.ends.get(fingerprint) {
            Some(end) => *end,
            None => {
                let end = pem()
                    .and_then(|pem| Certificate::from_pem(&pem).ok())
                    .map(|certificate| certificate.not_after);
                if self.ends.len() >= REMEMBERED {
                    self.ends.clear();
                }
                self.ends.insert(fingerprint.to_owned(), end);
                end
            }
        };
        Some(u64::try_from((end? - now).whole_days()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn days_are_whole_and_certificates_are_read_once() {
        let mut expiry = Expiry::default();
        let pem = include_bytes!("certificate/fixtures/sans.pem");
        let end = Certificate::from_pem(pem).unwrap().not_after;
        assert_eq!(expiry.days("AB", end - Duration::hours(36), || Some(pem.to_vec())), Some(1));
        assert_eq!(expiry.days("AB", end - Duration::days(7), || panic!("it is known")), Some(7));
        assert_eq!(expiry.days("AB", end + Duration::days(7), || None), Some(0));
        assert_eq!(expiry.days("CD", end, || Some(b"rubbish".to_vec())), None);
        for index in 0..5_000 {
            expiry.days(&index.to_string(), end, || None);
        }
        assert!(expiry.ends.len() <= REMEMBERED);
    }
}
