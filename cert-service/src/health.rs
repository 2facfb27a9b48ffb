//! `grpc.health.v1.Health/Check`: what /readyz says, for those who ask over gRPC.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use tonic::codegen::Service as TowerService;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::service::Service;

/// The path of the check.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

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
    /// [`SERVING`] or [`NOT_SERVING`].
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Ready.
pub const SERVING: i32 = 1;
/// Not ready.
pub const NOT_SERVING: i32 = 2;

/// The services that one may ask about.
const KNOWN: [&str; 3] = [
    "",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.secret.v3.SecretDiscoveryService",
];

/// The route.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new().route(CHECK, post(check)).with_state(service)
}

async fn check(State(service): State<Arc<Service>>, request: Request) -> Response {
    let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
    tonic::server::Grpc::new(codec).unary(Check(service), request).await.map(Body::new)
}

struct Check(Arc<Service>);

impl TowerService<tonic::Request<HealthCheckRequest>> for Check {
    type Response = tonic::Response<HealthCheckResponse>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        if !KNOWN.contains(&request.get_ref().service.as_str()) {
            return ready(Err(Status::new(Code::NotFound, "there is no such service here")));
        }
        let status = if self.0.is_ready() { SERVING } else { NOT_SERVING };
        ready(Ok(tonic::Response::new(HealthCheckResponse { status })))
    }
}
