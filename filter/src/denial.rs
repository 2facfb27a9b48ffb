//! What a client is told when its session or request is refused: a problem document (RFC 9457), or a
//! small page for a browser.

use outgate_policy::Reason;
use serde_json::json;

/// A refusal that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why, by its stable name.
    pub reason: Reason,
    /// The rule that refused, if one did.
    pub rule: Option<String>,
    /// One sentence for a person, with the remedy where there is one.
    pub detail: String,
    /// The request's id in our log.
    pub request_id: String,
}

/// The answer as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Denial {
    /// The document, as HTML if the client's `accept` prefers a page.
    pub fn answer(&self, accept: Option<&str>) -> Answer {
        let status = self.reason.status();
        if accept.is_some_and(|accept| accept.contains("text/html")) {
            Answer { status, content_type: "text/html; charset=utf-8", body: self.page() }
        } else {
            Answer {
                status,
                content_type: "application/problem+json",
                body: self.problem().to_string() + "\n",
            }
        }
    }

    fn problem(&self) -> serde_json::Value {
        json!({
            "type": format!("urn:outgate:problem:{}", self.reason.as_str()),
            "title": self.reason.title(),
            "status": self.reason.status(),
            "detail": self.detail,
            "reason": self.reason.as_str(),
            "rule": self.rule,
            "requestId": self.request_id,
        })
    }

    fn page(&self) -> String {
        let rule = self
            .rule
            .as_deref()
            .map_or_else(String::new, |rule| format!("<dt>Rule</dt><dd>{}</dd>", escape(rule)));
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}\
             dt{{font-weight:600}}dd{{margin:0 0 .5rem}}</style>\
             <h1>{title}</h1><p>{detail}</p>\
             <dl><dt>Reason</dt><dd>{reason}</dd>{rule}<dt>Request</dt><dd>{id}</dd></dl></html>\n",
            title = escape(self.reason.title()),
            detail = escape(&self.detail),
            reason = self.reason.as_str(),
            id = escape(&self.request_id),
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial() -> Denial {
        Denial {
            reason: Reason::RuleDenied,
            rule: Some("no-<posts>".to_owned()),
            detail: "the policy forbids this request".to_owned(),
            request_id: "0123".to_owned(),
        }
    }

    #[test]
    fn programs_get_a_problem_document() {
        let answer = denial().answer(Some("*/*"));
        assert_eq!((answer.status, answer.content_type), (403, "application/problem+json"));
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["type"], "urn:outgate:problem:rule_denied");
        assert_eq!(body["reason"], "rule_denied");
        assert_eq!(body["rule"], "no-<posts>");
        assert_eq!(body["requestId"], "0123");
        assert_eq!(body["status"], 403);
    }

    #[test]
    fn browsers_get_a_page_in_which_nothing_is_markup_but_ours() {
        let answer = denial().answer(Some("text/html,application/xhtml+xml"));
        assert_eq!(answer.content_type, "text/html; charset=utf-8");
        assert!(answer.body.contains("no-&lt;posts&gt;"));
    }
}
