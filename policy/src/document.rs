//! The policy document: what a policy file says, typed, with all its references resolved.
//!
//! The shapes are those of Secure Web Proxy; what it does not have lives under `outgate`. Names may be full
//! resource names (`projects/P/locations/L/…/NAME`), of which the last segment counts; `createTime`,
//! `updateTime` and `etag` are ignored. A rule that has one of these was exported, and exports leave out what
//! is false: there, a missing `enabled` means disabled. In a rule that somebody wrote it means enabled.
//!
//! # Keys under `outgate`
//!
//! | key | values | default |
//! |---|---|---|
//! | `sources` | list of `{cidrs, spiffeIds, dnsNames, header: {name, value, from}, tags, serviceAccount}`: a client that meets **all** conditions of an entry (any item of each list) gets its identities | none |
//! | `afterInspection` | `strict`, `lenient`: whether session rules with ALLOW match decrypted requests | `strict` |
//! | `hostMismatch` | `refuse`, `allow` | `refuse` |
//! | `tunnelSni` | `ignore`, `verify` | `ignore` |
//! | `ambiguousPaths` | `both`, `sent`: which readings of a path are judged | `both` |
//! | `errorsInDeny` | `skip`, `deny`: whether a matcher of a DENY rule that fails matches | `skip` |
//! | `openTunnels` | `keep`, `recheck` | `keep` |
//! | `destinations.allowPrivate` | list of CIDRs | none |
//! | `trustConfigs` | list of `{name, pem}` or `{name, pemFile}` | none |
//! | `log.allowances` | share of allowances that is logged, 0 to 1 | 1 |

mod read;
pub mod reader;
mod text;

pub(crate) use read::read;
pub(crate) use reader::short_name;
pub use text::{parse_json, parse_text};

use crate::address::Cidr;
use crate::source::Source;
use crate::url_list::UrlEntry;

/// A policy document.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Document {
    /// The policy's name.
    pub name: String,
    /// All rules, as the file orders them.
    pub rules: Vec<RuleDocument>,
    /// All URL lists.
    pub url_lists: Vec<UrlListDocument>,
    /// The TLS inspection policy that the policy refers to.
    pub tls_inspection: Option<TlsInspectionPolicy>,
    /// Everything that Secure Web Proxy does not have.
    pub outgate: Outgate,
}

/// One rule, as written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RuleDocument {
    /// Its short name.
    pub name: String,
    /// What its author says about it.
    pub description: Option<String>,
    /// Whether it exists.
    pub enabled: bool,
    /// The lower, the earlier.
    pub priority: i32,
    /// `basicProfile`
    pub action: Action,
    /// CEL over the session.
    pub session_matcher: String,
    /// CEL over the request.
    pub application_matcher: Option<String>,
    /// Whether TLS is decrypted for it.
    pub tls_inspection_enabled: bool,
    /// Whether it is evaluated and logged but never enforced.
    pub shadow: bool,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// `ALLOW`
    Allow,
    /// `DENY`
    Deny,
}

/// One URL list, as written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UrlListDocument {
    /// Its short name.
    pub name: String,
    /// Its entries.
    pub values: Vec<String>,
    /// The same, for the compiler, which takes them.
    pub(crate) entries: Vec<UrlEntry>,
}

/// How TLS is inspected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsInspectionPolicy {
    /// Its short name.
    pub name: String,
    /// The pool whose CA issues the certificates.
    pub ca_pool: String,
    /// The least version, on both legs.
    pub min_tls_version: TlsVersion,
    /// Roots for private origins.
    pub trust: Option<TrustConfig>,
    /// Whether origins must not chain to public roots.
    pub exclude_public_ca_set: bool,
    /// Which cipher suites are offered to origins.
    pub tls_feature_profile: TlsFeatureProfile,
    /// The suites of `CUSTOM`.
    pub custom_tls_features: Vec<String>,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// `TLS_1_0`
    Tls10,
    /// `TLS_1_1`
    Tls11,
    /// `TLS_1_2`
    Tls12,
    /// `TLS_1_3`
    Tls13,
}

/// A named set of cipher suites.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsFeatureProfile {
    /// `PROFILE_COMPATIBLE`
    Compatible,
    /// `PROFILE_MODERN`
    Modern,
    /// `PROFILE_RESTRICTED`
    Restricted,
    /// `PROFILE_CUSTOM`
    Custom,
}

/// Roots that a policy trusts, beside or instead of the public ones.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrustConfig {
    /// What `trustConfig` refers to.
    pub name: String,
    /// The certificates themselves.
    pub pem: Option<String>,
    /// The file that has them.
    pub pem_file: Option<String>,
}

/// The settings under `outgate`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outgate {
    /// Who has which tags and service accounts.
    pub sources: Vec<Source>,
    /// Whether session rules with ALLOW match decrypted requests.
    pub after_inspection: AfterInspection,
    /// What becomes of requests for another host than their connection.
    pub host_mismatch: HostMismatch,
    /// Whether tunnels that session rules decide are sniffed for their SNI.
    pub tunnel_sni: TunnelSni,
    /// Which readings of a path are judged.
    pub ambiguous_paths: AmbiguousPaths,
    /// What a matcher of a DENY rule that fails does.
    pub errors_in_deny: ErrorsInDeny,
    /// What becomes of open tunnels when the policy changes.
    pub open_tunnels: OpenTunnels,
    /// Private addresses that may be reached.
    pub allow_private: Vec<Cidr>,
    /// Peers that may say in a PROXY header who the client is.
    pub proxy_protocol_from: Vec<Cidr>,
    /// Roots for private origins.
    pub trust_configs: Vec<TrustConfig>,
    /// The share of allowances that is logged.
    pub log_allowances: f64,
}

/// `outgate.afterInspection`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AfterInspection {
    /// They do not match, as in Secure Web Proxy.
    #[default]
    Strict,
    /// They match.
    Lenient,
}

/// `outgate.hostMismatch`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostMismatch {
    /// They are refused.
    #[default]
    Refuse,
    /// They go where their connection goes, with the `Host` that they name.
    Allow,
}

/// `outgate.tunnelSni`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TunnelSni {
    /// They are not read.
    #[default]
    Ignore,
    /// They are.
    Verify,
}

/// `outgate.ambiguousPaths`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AmbiguousPaths {
    /// The one that is sent and the folded one.
    #[default]
    Both,
    /// Only the one that is sent.
    Sent,
}

/// `outgate.errorsInDeny`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ErrorsInDeny {
    /// It does not match, as in Secure Web Proxy.
    #[default]
    Skip,
    /// It matches.
    Deny,
}

/// `outgate.openTunnels`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OpenTunnels {
    /// They go on.
    #[default]
    Keep,
    /// They end if the new policy denies them.
    Recheck,
}

impl Default for Outgate {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            after_inspection: AfterInspection::default(),
            host_mismatch: HostMismatch::default(),
            tunnel_sni: TunnelSni::default(),
            ambiguous_paths: AmbiguousPaths::default(),
            errors_in_deny: ErrorsInDeny::default(),
            open_tunnels: OpenTunnels::default(),
            allow_private: Vec::new(),
            proxy_protocol_from: Vec::new(),
            trust_configs: Vec::new(),
            log_allowances: 1.0,
        }
    }
}
