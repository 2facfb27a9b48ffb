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
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::admission::{Admission, AdmissionError};
use crate::audit::{Audit, Event};
use crate::ca::{TRUST_FILE, timestamp};
use crate::options::Options;
use crate::pools::{Member, PoolsError};
use crate::reload::{self, Reloader};
use crate::service::{Service, Settings};
use crate::{http, xds};

/// How long connections have to end after the signal.
const DRAIN: Duration = Duration::from_secs(3);

/// Connections to the operators' address, so that they leave file descriptors for Envoy.
const PUBLIC_CONNECTIONS: usize = 256;

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
        SocketFile::check(&options.socket).await?;
        let now = OffsetDateTime::now_utc();
        let source = options.source();
        let reloader = Reloader::new(source.clone());
        let pools = source.load(now)?;
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
        let server = Server { service, http, socket, stopping: watch::Sender::new(false) };
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

    /// Serves until `stop` says what made it end, then lets connections finish.
    pub async fn serve(self, stop: impl Future<Output = &'static str>) {
        let Server { service, http, socket, stopping } = self;
        let graceful = GracefulShutdown::new();
        let private =
            http::private_routes(service.clone()).merge(xds::routes(service.clone(), stopping.subscribe()));
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
                        Ok((stream, _)) => serve_connection(stream, private.clone(), &graceful, None),
                        Err(_) => pause_after_failure().await,
                    },
                    accepted = http.accept() => match (accepted, places.clone().try_acquire_owned()) {
                        (Ok((stream, _)), Ok(place)) => {
                            serve_connection(stream, public.clone(), &graceful, Some(place));
                        }
                        // Closed at once: this address is for a few readers.
                        (Ok(_), Err(_)) => {}
                        (Err(_), _) => pause_after_failure().await,
                    },
                    _ = ticks.tick() => service.tick(OffsetDateTime::now_utc()),
                    cause = &mut stop => break cause,
                }
            }
        };
        service.set_socket_serves(false);
        drop((socket, http));
        stopping.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_ok();
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
        let http = self.http_address().map(|address| address.to_string()).unwrap_or_default();
        audit.log(&Event::Started {
            socket: &options.socket.to_string_lossy(),
            http: &http,
            ca: pools.first().map_or("", |pool| pool.active().id()),
            version: env!("CARGO_PKG_VERSION"),
        });
    }
}

/// Serves HTTP/1.1 or HTTP/2, whichever the client speaks; HTTP/1.1 alone where places are limited,
/// because there a connection that says nothing is closed after a while.
fn serve_connection<S>(
    stream: S,
    routes: Router,
    graceful: &GracefulShutdown,
    place: Option<OwnedSemaphorePermit>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
    // Delta SDS takes a stream for each name; the default of 200 would leave the others waiting.
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100_000);
    let builder = if place.is_some() { builder.http1_only() } else { builder };
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // The peer is gone, or does not speak HTTP.
        let _ = connection.await;
        drop(place);
    });
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
