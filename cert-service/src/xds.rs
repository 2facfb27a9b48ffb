//! Delta ADS and delta SDS over gRPC.

pub mod messages;
pub mod session;

use std::future::{Ready, ready};
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
use messages::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use session::Session;

/// The path of delta ADS.
pub const DELTA_ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The path of delta SDS.
pub const DELTA_SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";

/// The largest request: an Envoy that is back names all that it holds, with versions.
const REQUEST_LIMIT: usize = 64 << 20;

/// Responses that wait for a slow Envoy; what comes later waits in the book of leases.
const BACKLOG: usize = 4;

/// The routes; every stream ends when `stopping` becomes true.
pub fn routes(service: Arc<Service>, stopping: watch::Receiver<bool>) -> Router {
    let method = DeltaMethod { service, stopping };
    Router::new().route(DELTA_ADS, post(serve)).route(DELTA_SDS, post(serve)).with_state(method)
}

async fn serve(State(method): State<DeltaMethod>, request: Request) -> Response {
    let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
    let mut server = tonic::server::Grpc::new(codec).max_decoding_message_size(REQUEST_LIMIT);
    server.streaming(method, request).await.map(Body::new)
}

#[derive(Clone)]
struct DeltaMethod {
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
}

impl TowerService<tonic::Request<Streaming<DeltaDiscoveryRequest>>> for DeltaMethod {
    type Response = tonic::Response<ReceiverStream<Result<DeltaDiscoveryResponse, Status>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(BACKLOG);
        let session = Session::new(self.service.clone());
        tokio::spawn(converse(session, request.into_inner(), responses, self.stopping.clone()));
        ready(Ok(tonic::Response::new(ReceiverStream::new(outgoing))))
    }
}

/// Speaks with one Envoy until either side ends it.
async fn converse(
    mut session: Session,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    mut stopping: watch::Receiver<bool>,
) {
    let wake = session.wake();
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => session.receive(request),
                // The end, or a connection that broke.
                Ok(None) | Err(_) => return,
            },
            () = wake.notified() => {}
            () = until(session.turn()) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        while let Some(response) = session.next_response(OffsetDateTime::now_utc()) {
            tokio::select! {
                sent = responses.send(Ok(response)) => if sent.is_err() { return },
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
