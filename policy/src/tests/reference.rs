//! The walks once more, from the documentation: rule by rule, with matchers that the `cel` crate interprets.

use cel::extractors::This;
use cel::{Context, Program, Value as CelValue};
use std::collections::HashMap;
use std::sync::Arc;

use super::difference::LISTS;
use super::*;

/// A policy as the file has it.
pub struct Reference {
    rules: Vec<ReferenceRule>,
    lenient: bool,
    errors_deny: bool,
    both_readings: bool,
    verify: bool,
}

struct ReferenceRule {
    name: String,
    denies: bool,
    inspects: bool,
    session: Program,
    application: Option<Program>,
}

/// What the matchers can ask about a case, for each reading of its path.
pub struct World {
    sent: Context<'static, 'static>,
    folded: Option<Context<'static, 'static>>,
}

impl World {
    pub fn new(case: &Case) -> Self {
        let path = RequestPath::parse(case.path).unwrap();
        Self { sent: context(case, path.path()), folded: path.folded().map(|folded| context(case, folded)) }
    }
}

fn context(case: &Case, path: &str) -> Context<'static, 'static> {
    let destination = Destination::parse(case.destination).unwrap();
    let host = destination.host.as_str().to_owned();
    let mut headers: HashMap<&str, CelValue> =
        case.headers.iter().map(|(name, value)| (*name, (*value).into())).collect();
    headers.insert("host", host.clone().into());
    let request: HashMap<&str, CelValue> =
        [("headers", headers.into()), ("method", case.method.into()), ("path", path.to_owned().into())]
            .into();
    let mut certificate = HashMap::<&str, CelValue>::new();
    if let Some(known) = &case.certificate {
        certificate.insert("subject", known.subject.clone().into());
        certificate.insert("dnsSans", known.dns_sans.clone().into());
    }
    let ip = case.ip.parse::<IpAddr>().unwrap().to_canonical();
    let source: HashMap<&str, CelValue> = [
        ("ip", ip.to_string().into()),
        ("mtls", case.certificate.is_some().into()),
        ("certificate", certificate.into()),
    ]
    .into();
    let port: HashMap<&str, CelValue> = [("port", CelValue::Int(destination.port.into()))].into();
    let mut context = Context::default();
    context.add_variable_from_value("request", request);
    context.add_variable_from_value("source", source);
    context.add_variable_from_value("destination", port);
    let url = format!("{host}{path}");
    let tags = case.tags.clone();
    context.add_function("host", move || host.clone()).unwrap();
    context.add_function("url", move |This(_): This<CelValue>| url.clone()).unwrap();
    context.add_function("lower", |This(text): This<Arc<String>>| text.to_lowercase()).unwrap();
    context
        .add_function("matchTag", move |This(_): This<CelValue>, tag: Arc<String>| tags.contains(&*tag))
        .unwrap();
    context.add_function("inIpRange", |ip: Arc<String>, range: Arc<String>| in_range(&ip, &range)).unwrap();
    context
        .add_function("inUrlList", |value: Arc<String>, list: Arc<String>| in_list(&value, &list))
        .unwrap();
    context
}

fn in_range(ip: &str, range: &str) -> bool {
    let (network, length) = range.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    let bits = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(ip) => (true, u128::from(ip.to_bits()) << 96),
        IpAddr::V6(ip) => (false, ip.to_bits()),
    };
    let ((one, left), (other, right)) = (bits(ip), bits(network));
    one == other && (length == 0 || (left ^ right) >> (128 - length) == 0)
}

fn in_list(value: &str, list: &str) -> bool {
    let entries = LISTS.iter().find(|(name, _)| *name == list).unwrap().1;
    let (host, path) = match value.split_once('/') {
        Some((host, path)) => (host, Some(format!("/{path}"))),
        None => (value, None),
    };
    entries.iter().any(|entry| {
        let (domain, wanted) = match entry.split_once('/') {
            Some((domain, path)) => (domain, Some(format!("/{path}"))),
            None => (*entry, None),
        };
        let below = |domain: &str| host.ends_with(&format!(".{domain}"));
        let in_domain = match (domain.strip_prefix("*."), domain.strip_prefix('*')) {
            (Some(domain), _) => below(domain),
            (_, Some(domain)) => host == domain || below(domain),
            _ => host == domain,
        };
        let in_path = match (&path, &wanted) {
            (None, _) | (_, None) => true,
            (Some(path), Some(wanted)) => match wanted.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == wanted,
            },
        };
        in_domain && in_path
    })
}

impl Reference {
    pub fn new(policy: &Value) -> Self {
        let program = |value: &Value| Program::compile(value.as_str().unwrap()).unwrap();
        let rules = policy["rules"].as_array().unwrap().iter().filter(|rule| rule["shadow"] != json!(true));
        let rules = rules.map(|rule| ReferenceRule {
            name: rule["name"].as_str().unwrap().to_owned(),
            denies: rule["basicProfile"] == "DENY",
            inspects: rule["tlsInspectionEnabled"] == json!(true),
            session: program(&rule["sessionMatcher"]),
            application: rule.get("applicationMatcher").map(program),
        });
        let outgate = &policy["outgate"];
        Self {
            rules: rules.collect(),
            lenient: outgate["afterInspection"] == "lenient",
            errors_deny: outgate["errorsInDeny"] == "deny",
            both_readings: outgate["ambiguousPaths"] == "both",
            verify: outgate["tunnelSni"] == "verify",
        }
    }

    pub fn connect(&self, case: &Case, world: &World) -> String {
        let mut failed = Vec::new();
        let verdict = self.walk_connect(case, world, &mut failed);
        with_failures(verdict, &failed)
    }

    pub fn sniffed(&self, world: &World) -> String {
        let mut failed = Vec::new();
        let verdict = self.walk_tls(world, &mut failed);
        with_failures(verdict, &failed)
    }

    pub fn request(&self, world: &World, stage: RequestStage) -> String {
        let mut failed = Vec::new();
        let mut verdict = self.walk_request(&world.sent, stage, &mut failed);
        if let (Some(folded), true, true) = (&world.folded, self.both_readings, verdict.starts_with("allow"))
        {
            let other = self.walk_request(folded, stage, &mut failed);
            if other.starts_with("deny") {
                verdict = other + " (folded)";
            }
        }
        with_failures(verdict, &failed)
    }

    fn walk_connect<'r>(&'r self, case: &Case, world: &World, failed: &mut Vec<&'r str>) -> String {
        for rule in &self.rules {
            let name = &rule.name;
            if !self.matches(rule, &rule.session, &world.sent, failed) {
                continue;
            }
            return if rule.is_session() {
                match rule.denies {
                    true => format!("deny {name}"),
                    false if self.verify && case.connection.is_none() => {
                        format!("sniff {name}: tunnel {name}")
                    }
                    false => format!("tunnel {name}"),
                }
            } else {
                format!("sniff {name}: {}", self.walk_tls(world, failed))
            };
        }
        "deny".to_owned()
    }

    fn walk_tls<'r>(&'r self, world: &World, failed: &mut Vec<&'r str>) -> String {
        for rule in &self.rules {
            let name = &rule.name;
            if self.matches(rule, &rule.session, &world.sent, failed) && (rule.is_session() || rule.inspects)
            {
                return match (rule.inspects, rule.denies) {
                    (true, _) => format!("inspect {name}"),
                    (false, true) => format!("deny {name}"),
                    (false, false) => format!("tunnel {name}"),
                };
            }
        }
        "deny".to_owned()
    }

    fn walk_request<'r>(
        &'r self,
        context: &Context<'_, '_>,
        stage: RequestStage,
        failed: &mut Vec<&'r str>,
    ) -> String {
        for rule in &self.rules {
            let counts = rule.inspects || rule.is_session() && (rule.denies || self.lenient);
            if stage == RequestStage::Inspected && !counts {
                continue;
            }
            let mut matchers = std::iter::once(&rule.session).chain(&rule.application);
            if matchers.all(|matcher| self.matches(rule, matcher, context, failed)) {
                return format!("{} {}", if rule.denies { "deny" } else { "allow" }, rule.name);
            }
        }
        "deny".to_owned()
    }

    fn matches<'r>(
        &self,
        rule: &'r ReferenceRule,
        matcher: &Program,
        context: &Context<'_, '_>,
        failed: &mut Vec<&'r str>,
    ) -> bool {
        match matcher.execute(context) {
            Ok(CelValue::Bool(value)) => value,
            Ok(other) => panic!("{}: {other:?}", rule.name),
            Err(_) => {
                if !failed.contains(&rule.name.as_str()) {
                    failed.push(&rule.name);
                }
                rule.denies && self.errors_deny
            }
        }
    }
}

impl ReferenceRule {
    fn is_session(&self) -> bool {
        self.application.is_none() && !self.inspects
    }
}

fn with_failures(verdict: String, failed: &[&str]) -> String {
    if failed.is_empty() { verdict } else { format!("{verdict}, failed: {}", failed.join(" ")) }
}
