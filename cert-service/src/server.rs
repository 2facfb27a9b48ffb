//! Listens, serves and ends.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admission::{Admission, AdmissionError};
use crate::audit::{Audit, Event};
use crate::ca::{TRUST_FILE, timestamp};
use crate::options::Options;
use crate::pools::{Member, PoolsError};
use crate::reload::{self, Reloader};
use crate::service::{Service, Settings};
use crate::transport::{ListenOptions, Security, TransportError};
use crate::{health, http, xds};

/// Connections to the operators' address, so that they leave file descriptors for Envoy.
const PUBLIC_CONNECTIONS: usize = 256;

/// Connections of Envoys on other machines; an Envoy has a few.
const REMOTE_CONNECTIONS: usize = 4096;

/// How long such an Envoy may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A CA cannot be used.
    #[error(transparent)]
    Pools(#[from] PoolsError),
    /// Admission does not work as it was asked to.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The operators' address is taken or not ours.
    #[error("cannot listen on `{address}`: {source}: {}", remedy_of_bind(source))]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address for Envoys on other machines cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Another process serves the socket.
    #[error(
        "another process serves the socket `{}`: end it, or choose another `--socket`", .0.display()
    )]
    SocketInUse(PathBuf),
    /// The socket's path holds something else.
    #[error("`{}` exists and is no socket: remove it, or choose another `--socket`", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error(
        "cannot create the socket `{}`: {source}: its directory must exist and be ours, and its path shorter than 100 bytes", path.display()
    )]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("cannot start the log: {0}")]
    Log(io::Error),
}

fn remedy_of_bind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "end the program that listens there, or choose another `--http`",
        _ => "choose another `--http`",
    }
}

/// A service whose listeners are open.
pub struct Server {
    service: Arc<Service>,
    http: TcpListener,
    socket: SocketFile,
    remote: Option<Remote>,
    drain: Duration,
    stopping: watch::Sender<bool>,
}

impl Server {
    /// Loads the CA and opens the listeners; the audit log goes to `out`.
    pub async fn start(
        options: &Options,
        out: impl io::Write + Send + 'static,
    ) -> Result<Server, StartError> {
        // What others may hold comes first: a second service must not touch the first one's CA.
        let http = TcpListener::bind(options.http)
            .await
            .map_err(|source| StartError::Http { address: options.http, source })?;
        let remote = Remote::bind(&options.transport).await?;
        SocketFile::check(&options.socket).await?;
        let now = OffsetDateTime::now_utc();
        let source = options.source();
        let (reloader, pools) = Reloader::load(source.clone(), now)?;
        source.publish(&pools).map_err(PoolsError::from)?;
        let socket = SocketFile::bind(&options.socket)?;
        let audit = Audit::new(out).map_err(StartError::Log)?;
        let settings = Settings {
            leaf_ttl: options.leaf_ttl,
            caps: options.admission.caps(),
            served: options.served.iter().cloned().collect(),
        };
        let admission = Admission::open(&options.admission, &options.state)?;
        let service = Arc::new(Service::new(reloader, pools, settings, admission, audit));
        let (drain, stopping) = (options.drain, watch::Sender::new(false));
        let server = Server { service, http, socket, remote, drain, stopping };
        server.introduce(options);
        Ok(server)
    }

    /// The state that is served.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The operators' address.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.local_addr().ok()
    }

    /// The address for Envoys on other machines.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref()?.listener.local_addr().ok()
    }

    /// Serves until `stop` says what made it end, then lets connections finish.
    pub async fn serve(self, stop: impl Future<Output = &'static str>) {
        let Server { service, http, socket, remote, drain, stopping } = self;
        let graceful = GracefulShutdown::new();
        let for_envoys = http::filter_routes(service.clone())
            .merge(xds::routes(service.clone(), stopping.subscribe()))
            .merge(health::routes(service.clone(), stopping.subscribe()));
        let private = for_envoys.clone().merge(http::operator_routes(service.clone()));
        let public = http::public_routes(service.clone());
        let places = Arc::new(Semaphore::new(PUBLIC_CONNECTIONS));
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        reload::watch(&service);
        service.set_socket_serves(true);
        let cause = {
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    accepted = socket.listener.accept() => match accepted {
                        Ok((stream, _)) if is_ours(&stream) => {
                            serve_connection(stream, private.clone(), graceful.watcher(), None);
                        }
                        Ok(_) => service.audit().log(&Event::Warning {
                            message: "another user's connection to the socket was closed",
                        }),
                        Err(_) => pause_after_failure().await,
                    },
                    accepted = http.accept() => match (accepted, places.clone().try_acquire_owned()) {
                        (Ok((stream, _)), Ok(place)) => {
                            serve_connection(stream, public.clone(), graceful.watcher(), Some(place));
                        }
                        // Closed at once: this address is for a few readers.
                        (Ok(_), Err(_)) => {}
                        (Err(_), _) => pause_after_failure().await,
                    },
                    accepted = Remote::accept(remote.as_ref()) => match accepted {
                        Ok(pending) => {
                            let (service, routes) = (service.clone(), for_envoys.clone());
                            tokio::spawn(pending.serve(service, routes, graceful.watcher()));
                        }
                        Err(_) => pause_after_failure().await,
                    },
                    _ = ticks.tick() => service.tick(OffsetDateTime::now_utc()),
                    cause = &mut stop => break cause,
                }
            }
        };
        service.set_socket_serves(false);
        drop((socket, http, remote));
        stopping.send_replace(true);
        let drained = tokio::time::timeout(drain, graceful.shutdown()).await.is_ok();
        service.audit().log(&Event::Stopped { cause, drained });
        // A reader that stalls does not keep us.
        let closing = tokio::task::spawn_blocking(move || service.audit().close());
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }

    fn introduce(&self, options: &Options) {
        let (pools, audit) = (self.service.pools(), self.service.audit());
        for (pool, members) in pools.all() {
            for Member { ca, state } in members.members() {
                audit.log(&Event::CaLoaded {
                    pool,
                    state: state.as_str(),
                    ca: ca.id(),
                    subject: ca.subject_text(),
                    key: &ca.key().kind().to_string(),
                    not_after: &timestamp(ca.not_after()),
                    created: ca.created(),
                    trust: &options.state.join(TRUST_FILE).to_string_lossy(),
                });
            }
        }
        for message in pools.warnings() {
            audit.log(&Event::Warning { message });
        }
        if self.remote.as_ref().is_some_and(|remote| matches!(*remote.security, Security::Plaintext)) {
            audit.log(&Event::Warning {
                message: "`--listen` has no TLS: whoever reaches it can ask for certificates, and whoever reads along has their keys",
            });
        }
        let http = self.http_address().map(|address| address.to_string()).unwrap_or_default();
        audit.log(&Event::Started {
            socket: &options.socket.to_string_lossy(),
            http: &http,
            listen: self.remote_address().map(|address| address.to_string()).as_deref(),
            ca: pools.first().map_or("", |pool| pool.active().id()),
            version: env!("CARGO_PKG_VERSION"),
        });
    }
}

/// Serves a connection in a task of its own; HTTP/1.1 alone where places are limited, because there a connection that
/// says nothing is closed after a while.
fn serve_connection<S>(stream: S, routes: Router, watcher: Watcher, place: Option<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http1_only = place.is_some();
    tokio::spawn(serve_http(stream, routes, watcher, place, http1_only));
}

/// Serves HTTP/1.1 or HTTP/2, whichever the client speaks.
async fn serve_http<S, P>(stream: S, routes: Router, watcher: Watcher, place: P, http1_only: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // Delta SDS takes a stream for each name; the default of 200 would leave the others waiting.
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100_000);
    let builder = if http1_only { builder.http1_only() } else { builder };
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).into_owned();
    // The peer is gone, or does not speak HTTP.
    let _ = watcher.watch(connection).await;
    drop(place);
}

/// Root could connect whatever the mode, and so could whoever has the directory changed under us.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw() || peer.uid() == 0)
}

/// The TCP listener for Envoys on other machines.
struct Remote {
    listener: TcpListener,
    security: Arc<Security>,
    places: Arc<Semaphore>,
}

/// A connection that has yet to show who it is.
struct Pending {
    stream: TcpStream,
    peer: SocketAddr,
    security: Arc<Security>,
    place: OwnedSemaphorePermit,
}

impl Remote {
    async fn bind(options: &ListenOptions) -> Result<Option<Remote>, TransportError> {
        let Some(address) = options.listen else { return Ok(None) };
        let security = Arc::new(options.security(address)?);
        let listener =
            TcpListener::bind(address).await.map_err(|source| TransportError::Bind { address, source })?;
        Ok(Some(Remote { listener, security, places: Arc::new(Semaphore::new(REMOTE_CONNECTIONS)) }))
    }

    /// The next connection; for ever none without a listener.
    async fn accept(remote: Option<&Remote>) -> io::Result<Pending> {
        let Some(remote) = remote else { return std::future::pending().await };
        let place = remote.places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = remote.listener.accept().await?;
        Ok(Pending { stream, peer, security: remote.security.clone(), place })
    }
}

impl Pending {
    async fn serve(self, service: Arc<Service>, routes: Router, watcher: Watcher) {
        let Pending { stream, peer, security, place } = self;
        // An answer is small and awaited.
        let _ = stream.set_nodelay(true);
        let Security::Tls(tls) = &*security else {
            serve_http(stream, routes, watcher, place, false).await;
            return;
        };
        match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_http(stream, routes, watcher, place, false).await,
            Ok(Err(error)) => service.refuse_peer(&peer.to_string(), &error.to_string()),
            Err(_) => service.refuse_peer(&peer.to_string(), "it did not shake hands in time"),
        }
    }
}

/// Out of file descriptors, most likely: others may close some meanwhile.
async fn pause_after_failure() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// A Unix socket whose file goes when it goes.
struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    /// Refuses a path that something else uses.
    async fn check(path: &Path) -> Result<(), StartError> {
        use std::os::unix::fs::FileTypeExt as _;
        match fs::symlink_metadata(path) {
            Err(_) => Ok(()),
            Ok(found) if !found.file_type().is_socket() => Err(StartError::NotASocket(path.to_owned())),
            Ok(_) => match tokio::net::UnixStream::connect(path).await {
                // Nobody listens: it was left behind.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => Err(StartError::SocketInUse(path.to_owned())),
            },
        }
    }

    /// Binds beside the path and moves it there, so that nobody can connect before its mode is set.
    fn bind(path: &Path) -> Result<SocketFile, StartError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let bound = || -> io::Result<SocketFile> {
            let _ = fs::remove_file(&temporary);
            let listener = UnixListener::bind(&temporary)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
            fs::rename(&temporary, path)?;
            Ok(SocketFile { listener, path: path.to_owned(), inode: inode(path) })
        };
        bound().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            StartError::Socket { path: path.to_owned(), source }
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Not if another process has put its own there.
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
