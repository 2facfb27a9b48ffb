//! TLS of inspected traffic, on both legs, as the policy's TLS inspection policy demands it.
//!
//! Secure Web Proxy accepts these keys and honours none of them; here all count.

use std::path::PathBuf;

use serde_json::{Value, json};

use outgate_policy::document::{TlsFeatureProfile, TlsInspectionPolicy, TlsVersion};

/// `tlsFeatureProfile: MODERN`, as Google's SSL policies define it, in BoringSSL's spelling.
const MODERN: [&str; 10] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
];

/// How many of `MODERN` are authenticated encryption: `tlsFeatureProfile: RESTRICTED`.
const RESTRICTED: usize = 6;

/// IANA's names of the suites that `customTlsFeatures` may list, and BoringSSL's; those of TLS 1.3 are always on.
const CUSTOM: [(&str, Option<&str>); 17] = [
    ("TLS_AES_128_GCM_SHA256", None),
    ("TLS_AES_256_GCM_SHA384", None),
    ("TLS_CHACHA20_POLY1305_SHA256", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Some("ECDHE-ECDSA-AES128-GCM-SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Some("ECDHE-ECDSA-AES256-GCM-SHA384")),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Some("ECDHE-ECDSA-CHACHA20-POLY1305")),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Some("ECDHE-ECDSA-AES128-SHA")),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Some("ECDHE-ECDSA-AES256-SHA")),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Some("ECDHE-RSA-AES128-GCM-SHA256")),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Some("ECDHE-RSA-AES256-GCM-SHA384")),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Some("ECDHE-RSA-CHACHA20-POLY1305")),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Some("ECDHE-RSA-AES128-SHA")),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Some("ECDHE-RSA-AES256-SHA")),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", Some("AES128-GCM-SHA256")),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", Some("AES256-GCM-SHA384")),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", Some("AES128-SHA")),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", Some("AES256-SHA")),
];

/// What Envoy is told about TLS of inspected traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    minimum: TlsVersion,
    cipher_suites: Vec<&'static str>,
    /// PEM of the roots that origins must chain to.
    roots: PathBuf,
}

/// Why a TLS inspection policy cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// `customTlsFeatures` names a suite that Envoy does not have.
    #[error(
        "tlsInspectionPolicies: `{policy}`: customTlsFeatures: `{suite}` is no cipher suite of Envoy; use IANA names such as `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`"
    )]
    Suite {
        /// The TLS inspection policy.
        policy: String,
        /// The suite.
        suite: String,
    },
}

impl UpstreamTls {
    /// What `policy` demands; without one, TLS 1.2 and Envoy's suites.
    pub fn new(policy: Option<&TlsInspectionPolicy>, roots: PathBuf) -> Result<Self, UpstreamTlsError> {
        let Some(policy) = policy else {
            return Ok(Self { minimum: TlsVersion::Tls12, cipher_suites: Vec::new(), roots });
        };
        let cipher_suites = match policy.tls_feature_profile {
            TlsFeatureProfile::Compatible => Vec::new(),
            TlsFeatureProfile::Modern => MODERN.to_vec(),
            TlsFeatureProfile::Restricted => MODERN.iter().take(RESTRICTED).copied().collect(),
            TlsFeatureProfile::Custom => custom(policy)?,
        };
        Ok(Self { minimum: policy.min_tls_version, cipher_suites, roots })
    }

    /// `envoy.extensions.transport_sockets.tls.v3.TlsParameters`
    pub fn parameters(&self) -> Value {
        let mut parameters = json!({
            "tls_minimum_protocol_version": match self.minimum {
                TlsVersion::Tls10 => "TLSv1_0",
                TlsVersion::Tls11 => "TLSv1_1",
                TlsVersion::Tls12 => "TLSv1_2",
                TlsVersion::Tls13 => "TLSv1_3",
            },
            "tls_maximum_protocol_version": "TLSv1_3",
        });
        if let (Value::Object(members), false) = (&mut parameters, self.cipher_suites.is_empty()) {
            members.insert("cipher_suites".to_owned(), json!(self.cipher_suites));
        }
        parameters
    }

    /// The transport socket towards origins.
    pub fn transport_socket(&self) -> Value {
        json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": self.parameters(),
                "validation_context": {"trusted_ca": {"filename": self.roots}},
            },
        }})
    }
}

fn custom(policy: &TlsInspectionPolicy) -> Result<Vec<&'static str>, UpstreamTlsError> {
    let mut suites = Vec::new();
    for suite in &policy.custom_tls_features {
        let (_, name) = CUSTOM
            .iter()
            .find(|(iana, _)| iana == suite)
            .ok_or_else(|| UpstreamTlsError::Suite { policy: policy.name.clone(), suite: suite.clone() })?;
        suites.extend(name);
    }
    Ok(suites)
}
