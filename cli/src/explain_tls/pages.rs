//! The pages of `docs/tls`, compiled in: what each category and sub-reason means is said there and nowhere else.

use outgate_handshake::taxonomy::{Category, SubReason};

macro_rules! pages {
    ($($category:ident $file:literal)*) => {
        const PAGES: &[(Category, &str)] =
            &[$((Category::$category, include_str!(concat!("../../../docs/tls/", $file, ".md"))),)*];
    };
}

pages! {
    CertificateExpired "certificate_expired"
    ChainVerificationFailed "chain_verification_failed"
    CertificateRevocation "certificate_revocation"
    ProtocolVersionMismatch "protocol_version_mismatch"
    ClientCertificateMissing "client_certificate_missing"
    IdentityRejected "identity_rejected"
    NegotiationError "negotiation_error"
    PeerAlert "peer_alert"
    NotTls "not_tls"
    Transport "transport"
    ServerError "server_error"
    Unclassified "unclassified"
}

/// Where a sub-reason is documented.
pub fn address(sub_reason: SubReason) -> String {
    format!("docs/tls/{}.md#{sub_reason}", sub_reason.category())
}

/// What a sub-reason means: the first paragraph below its heading.
pub fn meaning(sub_reason: SubReason) -> String {
    let section = section(sub_reason).unwrap_or_default().trim_start();
    let paragraph = section.split_once("\n\n").map_or(section, |(first, _)| first);
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands below a sub-reason's heading, up to the next.
fn section(sub_reason: SubReason) -> Option<&'static str> {
    let (_, page) = PAGES.iter().find(|(category, _)| *category == sub_reason.category())?;
    let (_, section) = page.split_once(&format!("\n## {sub_reason}\n"))?;
    Some(section.split_once("\n## ").map_or(section, |(section, _)| section))
}

#[cfg(test)]
mod tests {
    use outgate_handshake::tables::{OTHER_VERIFY_ERRORS, SSL_REASONS, VALIDATORS, VERIFY_ERRORS};

    use super::*;

    const INDEX: &str = include_str!("../../../docs/tls/README.md");

    #[test]
    fn every_category_has_a_page_and_every_sub_reason_a_section_that_says_what_it_means() {
        for sub_reason in SubReason::ALL {
            let name = sub_reason.category().as_str();
            let (_, page) = PAGES.iter().find(|(category, _)| category.as_str() == name).expect(name);
            assert!(page.starts_with(&format!("# {name}\n")), "{name}");
            assert!(INDEX.contains(&format!("]({name}.md)")), "the index lacks {name}");
            let meaning = meaning(*sub_reason);
            assert!(meaning.len() > 40 && meaning.ends_with('.'), "{sub_reason}: `{meaning}`");
            let section = section(*sub_reason).unwrap();
            for part in ["**Seen as.**", "**Reproduce.**", "**Fix.**"] {
                assert!(section.contains(part), "{sub_reason} lacks {part}");
            }
        }
    }

    #[test]
    fn pages_have_no_section_that_is_no_sub_reason() {
        for (category, page) in PAGES {
            for heading in page.lines().filter_map(|line| line.strip_prefix("## ")) {
                let known = SubReason::ALL.iter().find(|known| known.as_str() == heading);
                assert_eq!(known.map(|known| known.category()), Some(*category), "{heading} in {category}");
            }
        }
    }

    #[test]
    fn every_text_that_is_classified_stands_in_its_section() {
        let verify = VERIFY_ERRORS.iter().map(|&(_, text, sub_reason)| (text, sub_reason));
        let names = SSL_REASONS
            .iter()
            .flat_map(|(sub_reason, names)| names.iter().map(|(_, name)| (*name, *sub_reason)));
        let texts =
            verify.chain(OTHER_VERIFY_ERRORS.iter().copied()).chain(VALIDATORS.iter().copied()).chain(names);
        for (text, sub_reason) in texts {
            let quoted = format!("`{text}`");
            let words: Vec<_> = section(sub_reason).unwrap().split_whitespace().collect();
            assert!(words.join(" ").contains(&quoted), "{sub_reason} lacks {quoted}");
        }
    }
}
