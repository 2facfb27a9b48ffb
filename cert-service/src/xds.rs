//! Delta ADS, and SDS with deltas or the state of the world, over gRPC.

pub mod messages;
pub mod protocol;
pub mod session;

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service as TowerService;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::service::Service;
use protocol::{Delta, Protocol, StateOfTheWorld};
use session::Session;

/// The path of delta ADS.
pub const DELTA_ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The path of delta SDS.
pub const DELTA_SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
/// The path of SDS with the state of the world.
pub const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// The largest request: an Envoy that is back names all that it holds, with versions.
const REQUEST_LIMIT: usize = 64 << 20;

/// Responses that wait for a slow Envoy; what comes later waits in the book of leases.
const BACKLOG: usize = 4;

/// The routes; every stream ends when `stopping` becomes true.
pub fn routes(service: Arc<Service>, stopping: watch::Receiver<bool>) -> Router {
    let streams = Streams { service, stopping };
    Router::new()
        .route(DELTA_ADS, post(serve::<Delta>))
        .route(DELTA_SDS, post(serve::<Delta>))
        .route(SDS, post(serve::<StateOfTheWorld>))
        .with_state(streams)
}

async fn serve<P: Protocol>(State(streams): State<Streams>, request: Request) -> Response {
    let codec = ProstCodec::<P::Response, P::Request>::default();
    let mut server = tonic::server::Grpc::new(codec).max_decoding_message_size(REQUEST_LIMIT);
    server.streaming(Method::<P>(streams, PhantomData), request).await.map(Body::new)
}

#[derive(Clone)]
struct Streams {
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
}

struct Method<P>(Streams, PhantomData<P>);

impl<P: Protocol> TowerService<tonic::Request<Streaming<P::Request>>> for Method<P> {
    type Response = tonic::Response<ReceiverStream<Result<P::Response, Status>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<P::Request>>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(BACKLOG);
        let session = Session::new(self.0.service.clone());
        tokio::spawn(converse::<P>(session, request.into_inner(), responses, self.0.stopping.clone()));
        ready(Ok(tonic::Response::new(ReceiverStream::new(outgoing))))
    }
}

/// Speaks with one Envoy until either side ends it. While an answer waits for a slow Envoy nothing is read from it:
/// HTTP/2 holds it up in turn.
async fn converse<P: Protocol>(
    mut session: Session,
    mut requests: Streaming<P::Request>,
    responses: mpsc::Sender<Result<P::Response, Status>>,
    mut stopping: watch::Receiver<bool>,
) {
    let wake = session.wake();
    let mut protocol = P::default();
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    if let Some(request) = protocol.read(request) {
                        session.receive(request);
                    }
                }
                // The end, or a connection that broke.
                Ok(None) | Err(_) => return,
            },
            () = wake.notified() => {}
            () = until(session.turn()) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        while let Some(response) = session.next_response(OffsetDateTime::now_utc()) {
            let response = protocol.write(response);
            let ends = response.is_err();
            tokio::select! {
                sent = responses.send(response) => if sent.is_err() || ends { return },
                _ = stopping.wait_for(|&stopping| stopping) => return,
            }
            // Minting is work: others have their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
