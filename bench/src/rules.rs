//! The rules that every scenario is given, and the requests that match the first, the last or none of them.

/// What the rules look at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fields {
    /// The host, exactly, and the beginning of the path.
    Headers,
    /// These and the client's address.
    SourceIp,
    /// The whole path by a regular expression, which no index can help with.
    Regex,
}

/// Which of the rules a request matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match {
    /// The one of the highest priority.
    First,
    /// The one of the lowest.
    Last,
    /// None: the request is denied.
    None,
}

impl Fields {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Headers, Self::SourceIp, Self::Regex];

    /// As rows spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::SourceIp => "source_ip",
            Self::Regex => "regex",
        }
    }
}

impl Match {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Last, Self::None];

    /// As rows spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::None => "none",
        }
    }

    /// The answer to such a request.
    pub fn status(self) -> u16 {
        if self == Self::None { 403 } else { 200 }
    }

    /// The number of the rule that such a request is made for; none has the number after the last.
    pub fn rule(self, rules: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Last => rules - 1,
            Self::None => rules,
        }
    }
}

/// The host of a rule.
pub fn host(rule: usize) -> String {
    format!("h{rule}.bench.test")
}

/// What the paths of all rules begin with.
pub const PREFIX: &str = "/v1/";

/// The path of a rule's request.
pub fn path(rule: usize) -> String {
    format!("{PREFIX}item{rule}")
}

/// The regular expression of a rule.
pub fn regex(rule: usize) -> String {
    format!("^/v[0-9]+/item{rule}$")
}

/// A browser's request to a proxy in the clear.
pub fn request(url: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {url} HTTP/1.1\r\n\
         Host: {host}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.5\r\n\
         Accept-Encoding: gzip, deflate\r\n\
         Cookie: session=4f2a9c81d07be365; theme=dark; consent=necessary\r\n\
         Cache-Control: max-age=0\r\n\
         Priority: u=0, i\r\n\r\n"
    )
    .into_bytes()
}

/// The request that a rule is made for.
pub fn request_for(rule: usize) -> Vec<u8> {
    request(&format!("http://{}{}", host(rule), path(rule)), &host(rule))
}
