//! The HTTP routes: grants on the Unix socket, and what operators read on the other address.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{Event, excerpt};
use crate::ca::timestamp;
use crate::grants::{self, PoolName};
use crate::metrics::GrantResult;
use crate::pools::Member;
use crate::reload::Cause;
use crate::service::{GrantError, Service};
use outgate_policy::{Engine, HostName};

/// More than a grant's two names take.
const BODY_LIMIT: usize = 4096;

/// More than the largest policy takes.
const POLICY_LIMIT: usize = 64 << 20;

/// What the filter posts to get a grant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    pool: String,
    host: String,
}

/// The answer to it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GrantResponse<'a> {
    pool: &'a str,
    host: &'a str,
    resource: &'a str,
    expires_in_seconds: u64,
    instance: &'a str,
}

/// What an operator posts to take certificates back: a host, or `"all": true`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WithdrawalRequest {
    host: Option<String>,
    #[serde(default)]
    all: bool,
}

/// What an operator posts to stop all minting, or to let it go on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopRequest {
    stopped: bool,
}

/// A problem document.
struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: String,
}

/// What the filters of an Envoy may ask, on the Unix socket or from afar.
pub fn filter_routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/grants", post(grant))
        .route("/v1/names/{name}", get(name))
        .route("/v1/instance", get(instance))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(service)
}

/// What operators may order, on the Unix socket alone.
pub fn operator_routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/withdrawals", post(withdraw))
        .route("/v1/stop", post(stop))
        .route("/v1/reload", post(reload))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .route("/v1/policy", post(follow_policy).layer(DefaultBodyLimit::max(POLICY_LIMIT)))
        .with_state(service)
}

/// What anyone may read.
pub fn public_routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(install))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/ca.pem", get(ca_pem))
        .route("/ca.crt", get(ca_der))
        .with_state(service)
}

async fn grant(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Problem> {
    let refuse = |name: &str, pool: Option<&str>, status, result: GrantResult, detail: String| {
        service.metrics().grant(result);
        service.audit().log(&Event::Denial {
            name: excerpt(name),
            pool: pool.map(excerpt),
            reason: result.as_str(),
            node: None,
        });
        Problem { status, reason: result.as_str(), detail }
    };
    let bad = StatusCode::BAD_REQUEST;
    let request: GrantRequest = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not `{{\"pool\": …, \"host\": …}}`: {error}");
        refuse("", None, bad, GrantResult::BadRequest, detail)
    })?;
    let (name, pool_name) = (request.host.as_str(), Some(request.pool.as_str()));
    let pool = PoolName::parse(&request.pool)
        .map_err(|error| refuse(name, pool_name, bad, GrantResult::BadRequest, error.to_string()))?;
    let host = HostName::parse_for_certificate(name)
        .map_err(|error| refuse(name, pool_name, bad, GrantResult::BadRequest, error.to_string()))?;
    service.grant(&pool, &host).map_err(|error| {
        let status = match error {
            GrantError::UnknownPool(_) => StatusCode::BAD_REQUEST,
            GrantError::CannotSign(_) | GrantError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            GrantError::NotAllowed(_) => StatusCode::FORBIDDEN,
        };
        refuse(name, pool_name, status, error.result(), error.to_string())
    })?;
    service.metrics().grant(GrantResult::Granted);
    let granted = GrantResponse {
        pool: pool.as_str(),
        host: host.as_str(),
        resource: host.as_str(),
        expires_in_seconds: grants::LIFETIME.as_secs(),
        instance: &service.admission().instance(),
    };
    Ok(axum::Json(granted).into_response())
}

async fn withdraw(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Problem> {
    let request: WithdrawalRequest =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let leases = match (&request.host, request.all) {
        (Some(name), false) => {
            let host = HostName::parse_for_certificate(name)
                .map_err(|error| Problem::bad_request(error.to_string()))?;
            service.withdraw(Some(&host))
        }
        (None, true) => service.withdraw(None),
        _ => return Err(Problem::bad_request("give either `host` or `\"all\": true`".to_owned())),
    };
    Ok(axum::Json(json!({ "withdrawn": leases })).into_response())
}

/// Whether the resolver refuses a name; for whoever saw only that it has no address.
async fn name(State(service): State<Arc<Service>>, Path(name): Path<String>) -> Result<Response, Problem> {
    let problem = |status, detail| Problem { status, reason: GrantResult::BadRequest.as_str(), detail };
    let host = HostName::parse_for_certificate(&name)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, error.to_string()))?;
    match service.refuses(&host).await {
        Some(refused) => Ok(axum::Json(json!({ "host": host.as_str(), "refused": refused })).into_response()),
        None => Err(problem(
            StatusCode::NOT_FOUND,
            "no resolver runs here: start it with `--dns-listen`".to_owned(),
        )),
    }
}

/// The switch that takes everything back at once.
async fn stop(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Problem> {
    let request: StopRequest =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let (withdrawn, kept) = service.set_stopped(request.stopped);
    let warning = kept.err().map(|error| error.to_string());
    Ok(axum::Json(json!({ "stopped": request.stopped, "withdrawn": withdrawn, "warning": warning }))
        .into_response())
}

/// Reads the CA pools again; those before go on if the new ones are not right.
async fn reload(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    let refused =
        |detail| Problem { status: StatusCode::UNPROCESSABLE_ENTITY, reason: "not_reloaded", detail };
    let done = tokio::task::spawn_blocking(move || service.reload(Cause::Order))
        .await
        .map_err(|error| refused(error.to_string()))?
        .map_err(|error| refused(error.to_string()))?;
    let withdrawn = done.withdrawn + done.replaced.withdrawn;
    Ok(axum::Json(json!({ "replaced": done.replaced.replaced, "withdrawn": withdrawn })).into_response())
}

/// The policy that is in force now: what it does not inspect any more is taken back.
async fn follow_policy(State(service): State<Arc<Service>>, body: Bytes) -> Result<Response, Problem> {
    let value: serde_json::Value =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let policy = Engine::from_value(&value).map_err(|errors| Problem::bad_request(errors.to_string()))?;
    Ok(axum::Json(json!({ "withdrawn": service.follow_policy(&policy) })).into_response())
}

async fn instance(State(service): State<Arc<Service>>) -> Response {
    axum::Json(json!({ "instance": service.admission().instance() })).into_response()
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    let latches = service.latches();
    let ready = service.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let latches: serde_json::Map<String, serde_json::Value> =
        latches.iter().map(|(name, open)| ((*name).to_owned(), (*open).into())).collect();
    (status, axum::Json(json!({ "ready": ready, "latches": latches }))).into_response()
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    typed("text/plain; version=0.0.4; charset=utf-8", service.render_metrics())
}

/// How to trust the CAs, for whoever has to.
async fn install(State(service): State<Arc<Service>>) -> Response {
    let mut rows = String::new();
    for (pool, members) in service.pools().all() {
        for Member { ca, state } in members.members() {
            let pool = if pool == "*" { "any" } else { pool };
            rows.push_str(&format!(
                "<tr><td>{pool}<td>{state}<td>{}<td><code>{}</code><td>{}\n",
                escape(ca.subject_text()),
                ca.fingerprint(),
                timestamp(ca.not_after()),
            ));
        }
    }
    typed("text/html; charset=utf-8", include_str!("install.html").replace("{{rows}}", &rows))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

async fn ca_pem(State(service): State<Arc<Service>>) -> Response {
    typed("application/x-pem-file", service.pools().trust_pem())
}

async fn ca_der(State(service): State<Arc<Service>>) -> Response {
    let ca = service.ca().map(|ca| ca.trust_der().to_owned());
    typed("application/x-x509-ca-cert", ca.unwrap_or_default())
}

fn typed(content_type: &'static str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

impl Problem {
    fn bad_request(detail: String) -> Problem {
        Problem { status: StatusCode::BAD_REQUEST, reason: GrantResult::BadRequest.as_str(), detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("urn:outgate:cert-service:{}", self.reason),
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        let reason = HeaderName::from_static("x-outgate-reason");
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (reason, HeaderValue::from_static(self.reason)),
        ];
        (self.status, headers, body.to_string()).into_response()
    }
}
