//! Where no client gets: private addresses, this host, the proxy itself; by literal, by name, on every path.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use outgate_tests::certificates::Authority;
use outgate_tests::client::{self, Ask, Tls};
use outgate_tests::name_server::NameServer;
use outgate_tests::origin::Origin;
use outgate_tests::outgate::{Options, Outgate};

use crate::setting::assert_refused;

/// Names that lead, or could lead, to this host; nobody answers on the documentation's addresses.
const ZONE: &str = "
public-first.test. 60 A 203.0.113.7
public-first.test. 60 A 127.0.0.1
private-first.test. 60 A 127.0.0.1
private-first.test. 60 A 203.0.113.7
sibling.test. 60 A 203.0.113.7
sibling.test. 60 AAAA ::1
alias.test. 60 CNAME inner.test.
inner.test. 60 A 127.0.0.1
mapped.test. 60 AAAA ::ffff:127.0.0.1
metadata.test. 60 A 169.254.169.254
";

const NAMES: [&str; 6] =
    ["public-first.test", "private-first.test", "sibling.test", "alias.test", "mapped.test", "metadata.test"];

/// One way through the proxy for each origin: the policy tells them apart by the port.
struct Paths {
    outgate: Outgate,
    unread: Origin,
    sniffed: Origin,
    inspected: Origin,
    clear: Origin,
    dns: NameServer,
}

impl Paths {
    async fn with(zone: &str, extension: &str) -> Self {
        let certificates = Authority::new("Origins CA");
        let tls = || async { Origin::tls(&certificates.server(&["localhost"])).await };
        let (unread, sniffed, inspected, clear) =
            (Origin::plain().await, tls().await, tls().await, Origin::plain().await);
        let dns = NameServer::start(zone).await;
        let [unread_port, sniffed_port, inspected_port] =
            [&unread, &sniffed, &inspected].map(|origin| origin.address.port());
        let policy = format!(
            "
name: paths
tlsInspectionPolicy: default
rules:
- {{name: unread, priority: 1, basicProfile: ALLOW, sessionMatcher: \"destination.port == {unread_port}\"}}
- {{name: inspected, priority: 2, basicProfile: ALLOW, sessionMatcher: \"destination.port == {inspected_port}\", applicationMatcher: \"true\", tlsInspectionEnabled: true}}
- {{name: read, priority: 3, basicProfile: ALLOW, sessionMatcher: \"destination.port != {sniffed_port} || true\", applicationMatcher: \"true\"}}
- {{name: sniffed, priority: 4, basicProfile: ALLOW, sessionMatcher: \"true\"}}
tlsInspectionPolicies:
- {{name: default, caPool: main}}
outgate: {extension}
"
        );
        let options = Options::default().with(&["--dns", &dns.address.to_string()]);
        Self { outgate: Outgate::start(&policy, options), unread, sniffed, inspected, clear, dns }
    }

    fn proxy(&self) -> SocketAddr {
        self.outgate.proxy
    }

    /// Every path is refused, each with the reason where it can be told.
    async fn assert_all_refused(&self, host: &str) {
        let at = |origin: &Origin| format!("{host}:{}", origin.address.port());
        let reply = client::get(self.proxy(), &format!("http://{}/", at(&self.clear))).await;
        assert_refused(&reply, 403, "destination_refused");

        let reply = client::connect(self.proxy(), &at(&self.unread)).await.unwrap_err();
        assert_refused(&reply, 403, "destination_refused");

        // Literals are refused at the CONNECT; names when their bytes were looked at.
        match client::connect(self.proxy(), &at(&self.inspected)).await {
            Err(reply) => assert_refused(&reply, 403, "destination_refused"),
            Ok(stream) => {
                let stream = Tls::new(host, self.outgate.roots()).handshake(stream).await.unwrap();
                let ask = at(&self.inspected);
                let reply = client::over_tls(stream, Ask::get("/").at(&ask)).await.unwrap();
                assert_refused(&reply, 403, "destination_refused");
            }
        }
        match client::connect(self.proxy(), &at(&self.clear)).await {
            Err(reply) => assert_refused(&reply, 403, "destination_refused"),
            Ok(stream) => {
                let ask = at(&self.clear);
                let reply = client::http1(stream, Ask::get("/").at(&ask)).await.unwrap();
                assert_refused(&reply, 403, "destination_refused");
            }
        }
        match client::connect(self.proxy(), &at(&self.sniffed)).await {
            Err(reply) => assert_refused(&reply, 403, "destination_refused"),
            Ok(stream) => {
                assert!(Tls::new(host, Vec::new()).handshake(stream).await.is_err(), "{host}");
                let port = self.sniffed.address.port();
                let line = self
                    .outgate
                    .line(|line| {
                        line["destination"]["domain"] == host
                            && line["destination"]["port"] == port
                            && line["event"]["reason"] == "destination_refused"
                    })
                    .await;
                assert_eq!(line["outgate"]["verdict"], "fail", "{line}");
            }
        }
    }

    fn connections(&self) -> usize {
        [&self.unread, &self.sniffed, &self.inspected, &self.clear].map(Origin::connections).iter().sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_lead_to_a_private_address_are_refused_on_every_path() {
    let paths = Paths::with(ZONE, "{}").await;
    for name in NAMES {
        paths.assert_all_refused(name).await;
    }
    assert_eq!(paths.connections(), 0, "nothing connected");
    assert!(paths.dns.asked("alias.test.", RecordType::A) > 0, "our name server was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_this_host_and_network_are_refused_on_every_path() {
    let paths = Paths::with("", "{}").await;
    for host in ["127.0.0.1", "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"]
    {
        paths.assert_all_refused(host).await;
    }
    assert_eq!(paths.connections(), 0, "nothing connected");
}

/// Even an operator who allows every private address does not let clients at the proxy itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_itself_is_refused_whatever_is_allowed() {
    let zone = "self.test. 60 A 127.0.0.1\nself.test. 60 AAAA ::1\nzero.test. 60 A 0.0.0.0\n";
    let paths = Paths::with(zone, "{destinations: {allowPrivate: [0.0.0.0/0, '::/0']}}").await;
    let reached =
        client::get(paths.proxy(), &format!("http://self.test:{}/", paths.clear.address.port())).await;
    assert_eq!(reached.status, 200, "{reached:?}");
    for own in [paths.outgate.proxy, paths.outgate.admin, paths.outgate.cert_http] {
        let port = own.port();
        for host in ["127.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "self.test", "zero.test"] {
            let reply = client::get(paths.proxy(), &format!("http://{host}:{port}/ready")).await;
            assert_refused(&reply, 403, "destination_refused");
        }
    }
}

/// A name whose addresses are fine at first; when its time is over it leads to another one of this host.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebinding_name_does_not_lead_astray() {
    let allowed = Origin::at("127.0.0.2:0").await;
    let port = allowed.address.port();
    let other = Origin::at(&format!("127.0.0.1:{port}")).await;
    let paths =
        Paths::with("moving.test. 1 A 127.0.0.2\n", "{destinations: {allowPrivate: [127.0.0.2/32]}}").await;
    let url = format!("http://moving.test:{port}/");
    assert_eq!(client::get(paths.proxy(), &url).await.status, 200);
    paths.dns.set("moving.test. 1 A 127.0.0.1\nmoving.test. 1 A 127.0.0.2\n");
    let asked = paths.dns.asked("moving.test.", RecordType::A);
    for _ in 0..80 {
        let reply = client::get(paths.proxy(), &url).await;
        assert!(matches!(reply.status, 200 | 403), "{reply:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(paths.dns.asked("moving.test.", RecordType::A) > asked, "the name was asked for again");
    assert_eq!(other.connections(), 0);
}
