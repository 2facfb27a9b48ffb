//! What most tests need: a plain and a TLS origin behind every name, and a proxy before them.

use std::net::SocketAddr;

use outgate_tests::certificates::Authority;
use outgate_tests::client::{self, Ask, Reply, Tls};
use outgate_tests::origin::Origin;
use outgate_tests::outgate::{Options, Outgate};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The CA of the origins.
pub const ORIGINS: &str = "Origins CA";

/// Everything is decrypted and let through.
pub const INSPECT_ALL: &str = "
name: inspect-all
tlsInspectionPolicy: default
rules:
- {name: all, enabled: true, priority: 10, basicProfile: ALLOW, sessionMatcher: \"true\", applicationMatcher: \"true\", tlsInspectionEnabled: true}
tlsInspectionPolicies:
- {name: default, caPool: main, minTlsVersion: TLS_1_2}
";

/// A proxy between clients and origins; every name leads to the same two.
pub struct Setting {
    pub outgate: Outgate,
    pub plain: Origin,
    pub secure: Origin,
    pub origins: Authority,
    _folder: tempfile::TempDir,
}

impl Setting {
    pub async fn with(policy: &str) -> Self {
        Self::with_options(policy, Options::default()).await
    }

    pub async fn with_options(policy: &str, options: Options) -> Self {
        let origins = Authority::new(ORIGINS);
        let names = ["*.site.test", "other.example", "example.com", "github.com", "bankofamerica.com"];
        let secure = Origin::tls(&origins.server(&names)).await;
        let plain = Origin::plain().await;
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("origins.pem");
        std::fs::write(&roots, origins.pem()).unwrap();
        let options = options
            .resolve("*", 80, plain.address)
            .resolve("*", 443, secure.address)
            .with(&["--upstream-ca", roots.to_str().unwrap()]);
        Self { outgate: Outgate::start(policy, options), plain, secure, origins, _folder: folder }
    }

    pub fn proxy(&self) -> SocketAddr {
        self.outgate.proxy
    }

    /// Envoy's metrics.
    pub async fn metrics(&self) -> String {
        let ask = Ask::get("/stats/prometheus").at("admin");
        client::in_the_clear(self.outgate.admin, ask).await.body
    }

    /// Over a tunnel and TLS, trusting the proxy's CA and the origins'.
    pub fn trusting(&self, host: &str) -> Tls {
        let mut roots = self.outgate.roots();
        roots.push(self.origins.der());
        Tls::new(host, roots)
    }

    /// `GET` over a tunnel and TLS: the reply, and who issued the certificate that the client saw.
    pub async fn https(&self, host: &str, path: &str) -> (Reply, String) {
        self.ask_https(host, Ask::get(path)).await
    }

    pub async fn ask_https(&self, host: &str, ask: Ask<'_>) -> (Reply, String) {
        let (reply, seen) =
            client::https(self.proxy(), host, &self.trusting(host), ask.at(host)).await.unwrap();
        (reply, issuer(&seen))
    }
}

/// The issuer's common name.
pub fn issuer(certificate: &CertificateDer<'_>) -> String {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let name = certificate.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

/// Whether a certificate is one of ours.
pub fn is_ours(issuer: &str) -> bool {
    issuer.starts_with("Outgate development CA")
}

/// Panics with the reply unless it is a refusal with this status and reason.
pub fn assert_refused(reply: &Reply, status: u16, reason: &str) {
    assert_eq!((reply.status, reply.reason().as_deref()), (status, Some(reason)), "{reply:?}");
    assert_eq!(reply.header("x-outgate-reason"), Some(reason), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    assert_eq!(reply.json()["status"], status, "{reply:?}");
}
