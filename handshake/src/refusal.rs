//! What a client is told whose certificate is refused after the handshake.

use serde_json::{Map, Value, json};

use crate::classify::Failure;
use crate::verify::{Answer, Told, Untrusted};

/// The status of every refusal.
pub const STATUS: u32 = 403;

/// A refusal: its media type and its body.
pub fn refusal(failure: &Failure, demands: &Untrusted) -> (&'static str, String) {
    const TITLE: &str = "The client certificate is refused";
    let told = |what, text: &'static str| demands.tell.contains(&what).then_some(text);
    let category = told(Told::Category, failure.category().as_str());
    let reason = told(Told::Reason, failure.sub_reason.as_str());
    let remedy = told(Told::Remedy, failure.remedy());
    match demands.answer {
        Answer::Problem => {
            let mut problem = Map::new();
            problem.insert("type".to_owned(), json!("urn:outgate:problem:client_certificate"));
            problem.insert("title".to_owned(), json!(TITLE));
            problem.insert("status".to_owned(), json!(STATUS));
            for (key, text) in [("category", category), ("reason", reason), ("detail", remedy)] {
                problem.extend(text.map(|text| (key.to_owned(), json!(text))));
            }
            ("application/problem+json", Value::Object(problem).to_string() + "\n")
        }
        // All of these texts are ours: nothing in them needs to be escaped but the apostrophe, which is no harm in text.
        Answer::Html => {
            let cause: Vec<_> = [category, reason].into_iter().flatten().collect();
            let cause = if cause.is_empty() {
                String::new()
            } else {
                format!("<p><code>{}</code></p>", cause.join(" / "))
            };
            let remedy = remedy.map(|remedy| format!("<p>{remedy}</p>")).unwrap_or_default();
            (
                "text/html; charset=utf-8",
                format!(
                    "<!doctype html><html lang=\"en\"><title>{TITLE}</title><h1>{TITLE}</h1>{cause}{remedy}</html>\n"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Evidence, classify};

    fn failure() -> Failure {
        let reason = "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:TLS_error_end";
        classify(&Evidence { reason, ..Evidence::default() }).unwrap()
    }

    #[test]
    fn a_refusal_tells_what_it_may() {
        let all =
            Untrusted { tell: vec![Told::Category, Told::Reason, Told::Remedy], ..Untrusted::default() };
        let (kind, body) = refusal(&failure(), &all);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(kind, "application/problem+json");
        assert_eq!(
            (&problem["status"], &problem["category"]),
            (&json!(403), &json!("client_certificate_missing"))
        );
        assert_eq!(problem["reason"], "no_client_certificate");
        assert_eq!(problem["detail"], failure().remedy());
        let (_, body) = refusal(&failure(), &Untrusted::default());
        assert!(!body.contains("no_client") && !body.contains("Configure"), "{body}");
        let (kind, body) = refusal(&failure(), &Untrusted { answer: Answer::Html, ..all });
        assert!(
            kind.starts_with("text/html")
                && body.contains("no_client_certificate")
                && body.contains("Configure")
        );
    }

    #[test]
    fn no_remedy_needs_escaping_in_a_page() {
        for sub_reason in crate::taxonomy::SubReason::ALL {
            assert!(!sub_reason.remedy().contains(['<', '>', '&', '"']), "{sub_reason}");
        }
    }
}
