//! Random expressions of each type, which mean something to other implementations of CEL too.

use super::random::Random;

const TEXTS: [&str; 12] = [
    "host()",
    "request.method",
    "request.path",
    "request.headers['x-team']",
    "request.headers['absent']",
    "request.headers['n']",
    "'www.example.com'",
    "'a'",
    "''",
    "'12'",
    "'é'",
    "R'\\d'",
];

const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

/// Writes expressions.
pub struct Expressions<'r> {
    /// Where chance comes from.
    pub random: &'r mut Random,
    /// Whether all attributes and functions are known, not only those that the `cel` crate has.
    pub everything: bool,
}

impl Expressions<'_> {
    /// A condition whose parts are nested so deep.
    pub fn condition(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.random.below(if self.everything { 8 } else { 4 }) {
                0 => "true".to_owned(),
                1 => "false".to_owned(),
                2 => "has(request.headers.n)".to_owned(),
                3 => "'absent' in request.headers".to_owned(),
                4 => "source.mtls".to_owned(),
                5 => format!(
                    "has({})",
                    self.random.pick(&["source.certificate.spiffeId", "connection.sni", "connection.ja4"])
                ),
                6 => format!("source.matchTag('{}')", self.random.pick(&["t1", "t2"])),
                _ => format!("source.matchServiceAccount('{}')", self.random.pick(&["ci@p.example", "ci"])),
            };
        }
        let inner = depth - 1;
        let comparison = self.random.pick(&COMPARISONS);
        match self.random.below(if self.everything { 18 } else { 13 }) {
            0 => format!("!({})", self.condition(inner)),
            1..=2 => format!("({} && {})", self.condition(inner), self.condition(inner)),
            3..=4 => format!("({} || {})", self.condition(inner), self.condition(inner)),
            5 => format!("({})", self.choice(inner, Self::condition)),
            6 => format!("{} {comparison} {}", self.text(inner), self.text(inner)),
            7..=8 => format!("{} {comparison} {}", self.number(inner), self.number(inner)),
            9 => {
                let function = self.random.pick(&["contains", "startsWith", "endsWith"]);
                format!("{}.{function}({})", self.text(inner), self.text(inner))
            }
            10 => format!("{} in [{}, {}]", self.text(inner), self.text(inner), self.text(inner)),
            11 => {
                let function = self.random.pick(&["exists", "all", "exists_one"]);
                let first = self.random.pick(&["'a'", "'b'", "'www'", "''"]);
                let second = self.random.pick(&["'a'", "'com'", "'/'"]);
                let (tested, other) = (self.text(inner), self.condition(inner));
                format!("[{first}, {second}].{function}(x, {tested}.contains(x) && {other})")
            }
            12 => format!("(({}) == ({}))", self.condition(inner), self.condition(inner)),
            13 => format!("{} {comparison} {}", self.time(inner), self.time(inner)),
            14 => {
                let range = self.random.pick(&[
                    "10.0.0.0/8",
                    "10.1.2.3/32",
                    "11.0.0.0/8",
                    "2001:db8::/32",
                    "0.0.0.0/0",
                ]);
                format!("inIpRange({}, '{range}')", self.text(inner))
            }
            15 => {
                let pattern = self.random.pick(&[
                    "^w+\\\\.",
                    "e$",
                    "[^a-z./]",
                    "(?i)EX(a|b)m",
                    "^$",
                    "\\\\d{2}",
                    "é|,",
                ]);
                format!("{}.matches('{pattern}')", self.text(inner))
            }
            16 => format!("{} in source.certificate.dnsSans", self.text(inner)),
            _ => {
                let function = self.random.pick(&["exists", "all", "exists_one"]);
                let part = self.random.pick(&["'a'", "'.example'", "'b.'"]);
                let other = self.condition(inner);
                format!("source.certificate.dnsSans.{function}(n, n.contains({part}) || {other})")
            }
        }
    }

    fn choice(&mut self, depth: usize, part: impl Fn(&mut Self, usize) -> String) -> String {
        format!("{} ? {} : {}", self.condition(depth), part(self, depth), part(self, depth))
    }

    fn text(&mut self, depth: usize) -> String {
        if depth == 0 {
            let more = self.everything && self.random.below(3) == 0;
            return match more {
                false => self.random.pick(&TEXTS),
                true => self.random.pick(&[
                    "source.ip",
                    "source.certificate.subject",
                    "source.certificate.spiffeId",
                    "connection.sni",
                    "connection.ja4",
                    "request.host",
                    "request.host()",
                    "request.query",
                    "request.scheme",
                    "request.url()",
                    "request.useragent()",
                ]),
            }
            .to_owned();
        }
        let inner = depth - 1;
        match self.random.below(if self.everything { 8 } else { 5 }) {
            0 => format!("({} + {})", self.text(inner), self.text(inner)),
            1 => format!("string({})", self.number(inner)),
            2 => format!("({})", self.choice(inner, Self::text)),
            3..=4 => self.text(0),
            5 => format!("{}.{}()", self.text(inner), self.random.pick(&["lowerAscii", "upperAscii"])),
            6 => format!("string({})", self.time(inner)),
            _ => format!("string({})", self.condition(inner)),
        }
    }

    fn number(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.random.below(if self.everything { 9 } else { 7 }) {
                0 => "0",
                1 => "1",
                2 => "-1",
                3 => "7",
                4 => "destination.port",
                5 => "9223372036854775807",
                6 => "-9223372036854775808",
                7 => "source.port",
                _ => "size(source.certificate.dnsSans)",
            }
            .to_owned();
        }
        let inner = depth - 1;
        match self.random.below(if self.everything { 8 } else { 6 }) {
            0..=1 => {
                let operator = self.random.pick(&["+", "-", "*", "/", "%"]);
                format!("({} {operator} {})", self.number(inner), self.number(inner))
            }
            2 => format!("-({})", self.number(inner)),
            3 => format!("int({})", self.text(inner)),
            4 => format!("size({})", self.text(inner)),
            5 => self.number(0),
            6 => format!("int({})", self.time(inner)),
            _ => {
                let part = self.random.pick(&[
                    "Date",
                    "DayOfMonth",
                    "DayOfWeek",
                    "DayOfYear",
                    "FullYear",
                    "Hours",
                    "Milliseconds",
                    "Minutes",
                    "Month",
                    "Seconds",
                ]);
                let zone = self.random.pick(&["", "'UTC'", "'+02:00'", "'-11:30'", "'05:45'"]);
                format!("{}.get{part}({zone})", self.time(inner))
            }
        }
    }

    fn time(&mut self, depth: usize) -> String {
        match self.random.below(if depth == 0 { 3 } else { 4 }) {
            0 => "request.time".to_owned(),
            1 => "source.certificate.notAfter".to_owned(),
            2 => format!(
                "timestamp('{}')",
                self.random.pick(&[
                    "2026-11-19T23:30:15.25Z",
                    "2024-02-29T00:00:00+05:30",
                    "0001-01-01T00:00:00Z",
                    "9999-12-31T23:59:59.999999999Z",
                    "1969-12-31T23:59:59.5Z",
                ])
            ),
            _ => format!("({})", self.choice(depth - 1, Self::time)),
        }
    }
}
