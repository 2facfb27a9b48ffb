//! From a tree of values to a document.

use serde_json::Value;

use super::reader::{Item, Object, Reader, quoted, short_name};
use super::{
    Action, AfterInspection, AmbiguousPaths, Document, ErrorsInDeny, HostMismatch, OpenTunnels, Outgate,
    RuleDocument, TlsFeatureProfile, TlsInspectionPolicy, TlsVersion, TrustConfig, TunnelSni,
    UrlListDocument,
};
use crate::address::Cidr;
use crate::error::PolicyError;
use crate::excerpt::Excerpt;
use crate::hash::QuickMap;
use crate::source::{Source, SpiffePattern, TrustedHeader};
use crate::url_list::{DomainPattern, UrlEntry};

/// What Google's exports add and nobody reads.
const OUTPUT_ONLY: [&str; 3] = ["createTime", "etag", "updateTime"];

/// Reads a document; what is wrong with it comes beside what could be read.
pub fn read(value: &Value) -> (Option<Document>, Vec<PolicyError>) {
    let mut reader = Reader::new("policy");
    let document = policy(&mut reader, &Item::root(value));
    match reader.too_long() {
        Some(error) => (None, vec![error]),
        None => (document, reader.into_errors()),
    }
}

fn policy(reader: &mut Reader, item: &Item<'_>) -> Option<Document> {
    const KEYS: [&str; 10] = [
        "name",
        "description",
        "tlsInspectionPolicy",
        "rules",
        "urlLists",
        "tlsInspectionPolicies",
        "outgate",
        OUTPUT_ONLY[0],
        OUTPUT_ONLY[1],
        OUTPUT_ONLY[2],
    ];
    let object = reader.object(item, &KEYS)?;
    reader.optional_text(&object, "description");
    let name =
        object.get("name").and_then(|item| reader.reference(&item)).unwrap_or_else(|| "policy".to_owned());
    let rules: Vec<_> = (0..)
        .zip(&reader.list(&object, "rules"))
        .filter_map(|(index, item)| rule(reader, item, index))
        .collect();
    let url_lists: Vec<_> =
        reader.list(&object, "urlLists").iter().filter_map(|item| url_list(reader, item)).collect();
    let outgate = object.get("outgate").map_or_else(Outgate::default, |item| outgate(reader, &item));
    let tls_policies: Vec<_> = reader
        .list(&object, "tlsInspectionPolicies")
        .iter()
        .filter_map(|item| tls_policy(reader, item, &outgate.trust_configs))
        .collect();
    unique(reader, "rules", rules.iter().map(|rule| rule.name.as_str()));
    unique(reader, "urlLists", url_lists.iter().map(|list| list.name.as_str()));
    unique(reader, "tlsInspectionPolicies", tls_policies.iter().map(|policy| policy.name.as_str()));
    let tls_inspection = referred(reader, &object, tls_policies);
    if object.get("tlsInspectionPolicy").is_none() {
        let inspects = |rule: &&RuleDocument| rule.enabled && rule.tls_inspection_enabled;
        for rule in rules.iter().filter(inspects) {
            reader.error(
                "tlsInspectionPolicy",
                format!("missing, but rule `{}` inspects; name one of `tlsInspectionPolicies`", rule.name),
            );
        }
    }
    Some(Document { name, rules, url_lists, tls_inspection, outgate })
}

fn referred(
    reader: &mut Reader,
    object: &Object<'_>,
    policies: Vec<TlsInspectionPolicy>,
) -> Option<TlsInspectionPolicy> {
    let item = object.get("tlsInspectionPolicy")?;
    let name = reader.reference(&item)?;
    // A policy that is there but wrong has its own errors.
    let listed = object.get("tlsInspectionPolicies").and_then(|list| list.value.as_array());
    let names: Vec<_> = listed
        .into_iter()
        .flatten()
        .filter_map(|policy| policy.get("name").and_then(Value::as_str).map(short_name))
        .collect();
    if !names.contains(&name.as_str()) {
        reader.error(item.place, unresolved(&name, "tlsInspectionPolicies", &names));
    }
    policies.into_iter().find(|policy| policy.name == name)
}

fn unresolved(name: &str, list: &str, known: &[&str]) -> String {
    if known.is_empty() {
        format!("`{}` is not there: `{list}` is empty; add it", Excerpt::new(name))
    } else {
        let (some, more) = known.split_at_checked(10).unwrap_or((known, &[]));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        format!("`{}` is not in `{list}`, which has {}{more}", Excerpt::new(name), quoted(some))
    }
}

fn unique<'a>(reader: &mut Reader, place: &str, names: impl Iterator<Item = &'a str>) {
    let mut first = QuickMap::default();
    for (index, name) in names.enumerate() {
        match first.get(name) {
            None => {
                first.insert(name, index);
            }
            Some(earlier) => {
                reader.error(
                    format!("{place}[{index}].name"),
                    format!("`{name}` is the name of {place}[{earlier}] already"),
                );
            }
        }
    }
}

fn rule(reader: &mut Reader, item: &Item<'_>, index: i32) -> Option<RuleDocument> {
    const KEYS: [&str; 12] = [
        "name",
        "description",
        "enabled",
        "priority",
        "basicProfile",
        "sessionMatcher",
        "applicationMatcher",
        "tlsInspectionEnabled",
        "shadow",
        OUTPUT_ONLY[0],
        OUTPUT_ONLY[1],
        OUTPUT_ONLY[2],
    ];
    let object = reader.object(item, &KEYS)?;
    let name = reader.required(&object, "name").and_then(|item| reader.reference(&item));
    let description = reader.optional_text(&object, "description");
    let exported = OUTPUT_ONLY.iter().any(|key| object.has(key));
    let enabled = reader.boolean(&object, "enabled", !exported);
    let priority = reader.required(&object, "priority").and_then(|item| integer(reader, &item));
    let action = reader
        .required(&object, "basicProfile")
        .and_then(|item| reader.choice(&item, &[("ALLOW", Action::Allow), ("DENY", Action::Deny)]));
    let session_matcher = reader.required(&object, "sessionMatcher").and_then(|item| matcher(reader, &item));
    let application_matcher = object.get("applicationMatcher").and_then(|item| matcher(reader, &item));
    let tls_inspection_enabled = reader.boolean(&object, "tlsInspectionEnabled", false);
    let shadow = reader.boolean(&object, "shadow", false);
    // What is wrong has its error; the rest of the rule is read on, so that all its errors are found.
    Some(RuleDocument {
        name: name.unwrap_or_else(|| item.place.clone()),
        description,
        enabled,
        // One that hardly any other rule has.
        priority: priority.unwrap_or(i32::MAX - index),
        action: action.unwrap_or(Action::Deny),
        session_matcher: session_matcher.unwrap_or_else(|| "false".to_owned()),
        // Exports write a missing text as an empty one.
        application_matcher: application_matcher.filter(|text| !text.trim().is_empty()),
        tls_inspection_enabled,
        shadow,
    })
}

fn integer(reader: &mut Reader, item: &Item<'_>) -> Option<i32> {
    let number = item.value.as_i64().and_then(|number| i32::try_from(number).ok());
    if number.is_none() {
        if item.value.is_number() {
            reader.error(&item.place, format!("`{}` is no whole number of 32 bits", item.value));
        } else {
            reader.wrong_type(item, "a number");
        }
    }
    number
}

/// CEL; YAML makes a boolean of `true`, which is CEL too.
fn matcher(reader: &mut Reader, item: &Item<'_>) -> Option<String> {
    match item.value {
        Value::Bool(value) => Some(value.to_string()),
        _ => reader.text(item),
    }
}

fn url_list(reader: &mut Reader, item: &Item<'_>) -> Option<UrlListDocument> {
    const KEYS: [&str; 6] = ["name", "description", "values", OUTPUT_ONLY[0], OUTPUT_ONLY[1], OUTPUT_ONLY[2]];
    let object = reader.object(item, &KEYS)?;
    let name = reader.required(&object, "name").and_then(|item| reader.reference(&item));
    reader.optional_text(&object, "description");
    reader.required(&object, "values");
    let read = |text: &str| UrlEntry::parse(text).map(|entry| (text.to_owned(), entry));
    let (values, entries) = reader.parsed(&object, "values", read).into_iter().unzip();
    Some(UrlListDocument { name: name?, values, entries })
}

fn tls_policy(
    reader: &mut Reader,
    item: &Item<'_>,
    trust_configs: &[TrustConfig],
) -> Option<TlsInspectionPolicy> {
    const KEYS: [&str; 11] = [
        "name",
        "description",
        "caPool",
        "trustConfig",
        "excludePublicCaSet",
        "minTlsVersion",
        "tlsFeatureProfile",
        "customTlsFeatures",
        OUTPUT_ONLY[0],
        OUTPUT_ONLY[1],
        OUTPUT_ONLY[2],
    ];
    const VERSIONS: [(&str, TlsVersion); 5] = [
        // What nobody chose is not what was the custom in 1999.
        ("TLS_VERSION_UNSPECIFIED", TlsVersion::Tls12),
        ("TLS_1_0", TlsVersion::Tls10),
        ("TLS_1_1", TlsVersion::Tls11),
        ("TLS_1_2", TlsVersion::Tls12),
        ("TLS_1_3", TlsVersion::Tls13),
    ];
    const PROFILES: [(&str, TlsFeatureProfile); 9] = [
        ("PROFILE_UNSPECIFIED", TlsFeatureProfile::Compatible),
        ("PROFILE_COMPATIBLE", TlsFeatureProfile::Compatible),
        ("PROFILE_MODERN", TlsFeatureProfile::Modern),
        ("PROFILE_RESTRICTED", TlsFeatureProfile::Restricted),
        ("PROFILE_CUSTOM", TlsFeatureProfile::Custom),
        ("COMPATIBLE", TlsFeatureProfile::Compatible),
        ("MODERN", TlsFeatureProfile::Modern),
        ("RESTRICTED", TlsFeatureProfile::Restricted),
        ("CUSTOM", TlsFeatureProfile::Custom),
    ];
    let object = reader.object(item, &KEYS)?;
    let name = reader.required(&object, "name").and_then(|item| reader.reference(&item));
    reader.optional_text(&object, "description");
    let ca_pool = reader.required(&object, "caPool").and_then(|item| reader.reference(&item));
    let trust = object.get("trustConfig").and_then(|item| {
        let name = reader.reference(&item)?;
        let found = trust_configs.iter().find(|config| config.name == name).cloned();
        if found.is_none() {
            let known: Vec<_> = trust_configs.iter().map(|config| config.name.as_str()).collect();
            reader.error(item.place, unresolved(&name, "outgate.trustConfigs", &known));
        }
        found
    });
    let exclude_public_ca_set = reader.boolean(&object, "excludePublicCaSet", false);
    if exclude_public_ca_set && object.get("trustConfig").is_none() {
        reader.error(object.place("excludePublicCaSet"), "no root is left to trust; name a `trustConfig`");
    }
    let min_tls_version = object.get("minTlsVersion").and_then(|item| reader.choice(&item, &VERSIONS));
    let profile = object.get("tlsFeatureProfile").and_then(|item| reader.choice(&item, &PROFILES));
    let tls_feature_profile = profile.unwrap_or(TlsFeatureProfile::Compatible);
    let custom_tls_features =
        reader.parsed(&object, "customTlsFeatures", |text| Ok::<_, String>(text.to_owned()));
    if (tls_feature_profile == TlsFeatureProfile::Custom) == custom_tls_features.is_empty() {
        reader.error(
            object.place("customTlsFeatures"),
            "goes with `tlsFeatureProfile: PROFILE_CUSTOM`, and neither goes without the other",
        );
    }
    Some(TlsInspectionPolicy {
        name: name?,
        ca_pool: ca_pool?,
        min_tls_version: min_tls_version.unwrap_or(TlsVersion::Tls12),
        trust,
        exclude_public_ca_set,
        tls_feature_profile,
        custom_tls_features,
    })
}

fn outgate(reader: &mut Reader, item: &Item<'_>) -> Outgate {
    const KEYS: [&str; 11] = [
        "sources",
        "proxyProtocol",
        "afterInspection",
        "hostMismatch",
        "tunnelSni",
        "ambiguousPaths",
        "errorsInDeny",
        "openTunnels",
        "destinations",
        "trustConfigs",
        "log",
    ];
    let Some(object) = reader.object(item, &KEYS) else { return Outgate::default() };
    let sources = reader.list(&object, "sources").iter().filter_map(|item| source(reader, item)).collect();
    let destinations = object.get("destinations").and_then(|item| reader.object(&item, &["allowPrivate"]));
    let allow_private =
        destinations.map_or_else(Vec::new, |object| reader.parsed(&object, "allowPrivate", Cidr::parse));
    let proxy_protocol = object.get("proxyProtocol").and_then(|item| reader.object(&item, &["from"]));
    let proxy_protocol_from =
        proxy_protocol.map_or_else(Vec::new, |object| reader.parsed(&object, "from", Cidr::parse));
    let trust_configs: Vec<_> =
        reader.list(&object, "trustConfigs").iter().filter_map(|item| trust_config(reader, item)).collect();
    unique(reader, "outgate.trustConfigs", trust_configs.iter().map(|config| config.name.as_str()));
    Outgate {
        sources,
        after_inspection: reader.optional_choice(
            &object,
            "afterInspection",
            &[("strict", AfterInspection::Strict), ("lenient", AfterInspection::Lenient)],
        ),
        host_mismatch: reader.optional_choice(
            &object,
            "hostMismatch",
            &[("refuse", HostMismatch::Refuse), ("allow", HostMismatch::Allow)],
        ),
        tunnel_sni: reader.optional_choice(
            &object,
            "tunnelSni",
            &[("ignore", TunnelSni::Ignore), ("verify", TunnelSni::Verify)],
        ),
        ambiguous_paths: reader.optional_choice(
            &object,
            "ambiguousPaths",
            &[("both", AmbiguousPaths::Both), ("sent", AmbiguousPaths::Sent)],
        ),
        errors_in_deny: reader.optional_choice(
            &object,
            "errorsInDeny",
            &[("skip", ErrorsInDeny::Skip), ("deny", ErrorsInDeny::Deny)],
        ),
        open_tunnels: reader.optional_choice(
            &object,
            "openTunnels",
            &[("keep", OpenTunnels::Keep), ("recheck", OpenTunnels::Recheck)],
        ),
        allow_private,
        proxy_protocol_from,
        trust_configs,
        log_allowances: object.get("log").map_or(1.0, |item| log_allowances(reader, &item)),
    }
}

fn log_allowances(reader: &mut Reader, item: &Item<'_>) -> f64 {
    let Some(item) = reader.object(item, &["allowances"]).and_then(|object| object.get("allowances")) else {
        return 1.0;
    };
    let Some(share) = reader.share(&item) else { return 1.0 };
    // What is longer reads differently in the filter, whose JSON parser rounds: the policy's hash would differ.
    let plain = item.value.to_string().len() <= "0.123456789".len() && (share == 0.0 || share >= 1e-9);
    if !plain {
        reader.error(&item.place, format!("`{}` has too many digits; nine decimals are enough", item.value));
    }
    share
}

fn source(reader: &mut Reader, item: &Item<'_>) -> Option<Source> {
    const KEYS: [&str; 6] = ["cidrs", "spiffeIds", "dnsNames", "header", "tags", "serviceAccount"];
    let object = reader.object(item, &KEYS)?;
    if !KEYS.iter().take(4).any(|key| object.get(key).is_some()) {
        reader.error(&item.place, "no condition; add `cidrs`, `spiffeIds`, `dnsNames` or `header`");
    }
    if !KEYS.iter().skip(4).any(|key| object.get(key).is_some()) {
        reader.error(&item.place, "no identity; add `tags` or a `serviceAccount`");
    }
    for key in ["cidrs", "spiffeIds", "dnsNames"] {
        // An empty list would be no condition at all.
        if let Some(list) = object.get(key).filter(|list| list.value.as_array().is_some_and(Vec::is_empty)) {
            reader.error(list.place, "the list is empty; leave the key out, or the whole entry");
        }
    }
    Some(Source {
        cidrs: reader.parsed(&object, "cidrs", Cidr::parse),
        spiffe_ids: reader.parsed(&object, "spiffeIds", SpiffePattern::parse),
        dns_names: reader.parsed(&object, "dnsNames", DomainPattern::parse),
        header: object.get("header").and_then(|item| trusted_header(reader, &item)),
        tags: reader.parsed(&object, "tags", |text| Ok::<_, String>(text.to_owned())),
        service_account: reader.optional_text(&object, "serviceAccount"),
    })
}

fn trusted_header(reader: &mut Reader, item: &Item<'_>) -> Option<TrustedHeader> {
    let object = reader.object(item, &["name", "value", "from"])?;
    let name = reader.required(&object, "name").and_then(|item| reader.text(&item));
    let value = reader.required(&object, "value").and_then(|item| reader.text(&item));
    reader.required(&object, "from");
    let from = reader.parsed(&object, "from", Cidr::parse);
    let name = name?.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        reader.error(object.place("name"), format!("`{}` is no header name", Excerpt::new(&name)));
    }
    Some(TrustedHeader { name, value: value?, from })
}

fn trust_config(reader: &mut Reader, item: &Item<'_>) -> Option<TrustConfig> {
    let object = reader.object(item, &["name", "pem", "pemFile"])?;
    let name = reader.required(&object, "name").and_then(|item| reader.reference(&item));
    let pem = reader.optional_text(&object, "pem");
    let pem_file = reader.optional_text(&object, "pemFile");
    if pem.is_some() == pem_file.is_some() {
        reader.error(&item.place, "needs either `pem` or `pemFile`");
    }
    Some(TrustConfig { name: name?, pem, pem_file })
}
