//! `grpc.health.v1.Health`: what /readyz says, for those who ask or watch over gRPC.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service as TowerService;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::service::Service;

/// The path of the check.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path of the watch: the status now, then each change.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// How soon a change is told to those who watch: a CA's end gives no notice.
const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// What is asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckRequest {
    /// A service, or nothing for the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// What is answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    /// [`SERVING`], [`NOT_SERVING`] or [`SERVICE_UNKNOWN`].
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Ready.
pub const SERVING: i32 = 1;
/// Not ready.
pub const NOT_SERVING: i32 = 2;

/// There is no such service: said by the watch alone, which goes on; the check ends with `NOT_FOUND`.
pub const SERVICE_UNKNOWN: i32 = 3;

/// The services that one may ask about.
const KNOWN: [&str; 3] = [
    "",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.secret.v3.SecretDiscoveryService",
];

/// The routes; every watch ends when `stopping` becomes true.
pub fn routes(service: Arc<Service>, stopping: watch::Receiver<bool>) -> Router {
    let health = Health { service, stopping };
    Router::new().route(CHECK, post(check)).route(WATCH, post(watch)).with_state(health)
}

async fn check(State(health): State<Health>, request: Request) -> Response {
    let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
    tonic::server::Grpc::new(codec).unary(Check(health), request).await.map(Body::new)
}

async fn watch(State(health): State<Health>, request: Request) -> Response {
    let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
    tonic::server::Grpc::new(codec).server_streaming(Watch(health), request).await.map(Body::new)
}

#[derive(Clone)]
struct Health {
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
}

impl Health {
    fn status(&self, service: &str) -> i32 {
        match (KNOWN.contains(&service), self.service.is_ready()) {
            (false, _) => SERVICE_UNKNOWN,
            (true, true) => SERVING,
            (true, false) => NOT_SERVING,
        }
    }

    /// Says the status of a service, then each change, until either side ends it.
    async fn tell(self, service: String, responses: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
        let mut stopping = self.stopping.clone();
        let changes = async {
            let mut told = None;
            loop {
                let status = self.status(&service);
                if told.replace(status) != Some(status)
                    && responses.send(Ok(HealthCheckResponse { status })).await.is_err()
                {
                    return;
                }
                tokio::time::sleep(WATCH_PERIOD).await;
            }
        };
        tokio::select! {
            () = changes => {}
            () = responses.closed() => {}
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
    }
}

struct Check(Health);

impl TowerService<tonic::Request<HealthCheckRequest>> for Check {
    type Response = tonic::Response<HealthCheckResponse>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        ready(match self.0.status(&request.get_ref().service) {
            SERVICE_UNKNOWN => Err(Status::new(Code::NotFound, "there is no such service here")),
            status => Ok(tonic::Response::new(HealthCheckResponse { status })),
        })
    }
}

struct Watch(Health);

impl TowerService<tonic::Request<HealthCheckRequest>> for Watch {
    type Response = tonic::Response<ReceiverStream<Result<HealthCheckResponse, Status>>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(1);
        tokio::spawn(self.0.clone().tell(request.into_inner().service, responses));
        ready(Ok(tonic::Response::new(ReceiverStream::new(outgoing))))
    }
}
