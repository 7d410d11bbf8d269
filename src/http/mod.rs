//! The HTTP interface: the event stream, the inventory, health. `docs/API.md` describes it for its users.
//!
//! One function per resource; this module only gathers them. Parameters are read strictly (`params`), failures are
//! problem details (`error`).

mod access;
mod asset;
mod assets;
mod backup;
mod connection;
#[cfg(test)]
mod connection_tests;
mod cors;
mod description;
mod error;
mod events;
mod handover;
mod health;
mod http2;
mod message;
mod params;
mod places;
mod reports;
#[cfg(test)]
mod router_tests;
mod schema;
mod serve;
mod socket;
mod stats;
mod status;
mod stream;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, debug_span};

use crate::auth::Access;
use crate::history::History;
use crate::hub::Hub;
use crate::inventory::Inventory;
use crate::log::EventLog;
use crate::metrics::Metrics;
use crate::model::Time;
use crate::source::StatusBoard;

pub use health::{Latch, Readiness};
pub use serve::{ServeConfig, serve};

use access::Peer;
use error::ApiError;

/// The path of the stream, whose responses have no end of their own.
const STREAM: &str = "/v1/events";

/// Settings of the HTTP interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Seconds of silence after which a stream gets a heartbeat, if it does not ask for another interval: 1 to 3600.
    pub heartbeat_secs: u64,
    /// Event streams that may be open at once.
    pub max_streams: usize,
    /// Origins of web pages that may read the interface (`https://dash.example.com`); `*` is any.
    pub cors_origins: Vec<String>,
    /// The prefix of event types, such as `io.catchment`.
    pub type_prefix: String,
    /// Whether every connection needs a client certificate.
    pub asks_for_certificates: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            heartbeat_secs: 15,
            max_streams: 20_000,
            cors_origins: Vec::new(),
            type_prefix: "io.catchment".to_owned(),
            asks_for_certificates: false,
        }
    }
}

/// Why an [`HttpConfig`] can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpConfigError {
    /// A heartbeat interval out of bounds.
    #[error("heartbeat_secs: {secs} is not within 1 to 3600")]
    Heartbeat {
        /// The configured value.
        secs: u64,
    },
}

/// What the handlers need, shared with the rest of the program.
#[derive(Clone)]
pub struct AppState {
    /// Serves the streams.
    pub hub: Arc<Hub>,
    /// The log, for everything but the live stream.
    pub log: Arc<dyn EventLog>,
    /// The inventory.
    pub inventory: Arc<Inventory>,
    /// Past states of assets.
    pub history: History,
    /// The state of the sources.
    pub sources: StatusBoard,
    /// The metrics that `/metrics` renders and requests are counted in.
    pub metrics: Arc<Metrics>,
    /// Authentication and scopes.
    pub access: Arc<Access>,
    /// The latches behind `/readyz`.
    pub readiness: Readiness,
    /// When cancelled, streams and [`serve()`] end.
    pub stop: CancellationToken,
    /// The current time.
    pub clock: fn() -> Time,
    /// The settings. They may be replaced at any time, except for the prefix.
    pub config: Arc<ArcSwap<HttpConfig>>,
}

/// The state shared by all handlers.
struct App {
    state: AppState,
    /// One permit per open stream. There are more permits than allowed streams, since the limit can be changed at run
    /// time.
    streams: Arc<Semaphore>,
    /// One permit per concurrent computation of `/v1/stats`.
    stats: Semaphore,
    /// One backup at a time: it reads the whole log.
    backups: Arc<Semaphore>,
}

type Shared = Arc<App>;

/// A path and its methods. `schema/openapi.json` describes each.
type Resource = (&'static str, MethodRouter<Shared>);

/// Routes that need a credential.
fn protected() -> Vec<Resource> {
    vec![
        (STREAM, get(stream::stream)),
        ("/v1/events/{id}", get(events::event)),
        ("/v1/assets", get(assets::list)),
        ("/v1/assets/{*name}", get(asset::one)),
        ("/v1/stats", get(stats::stats)),
        ("/v1/status", get(status::status)),
        ("/v1/sources", get(reports::sources)),
        ("/v1/quarantine", get(reports::quarantine)),
        ("/v1/backup", get(backup::backup)),
        ("/v1/tickets", post(access::ticket)),
        ("/v1/login", post(access::login)),
        ("/metrics", get(health::metrics)),
    ]
}

/// Routes open to everybody.
fn open() -> Vec<Resource> {
    vec![
        ("/", get(description::index)),
        ("/v1/logout", post(access::logout)),
        ("/v1/openapi.json", get(description::openapi)),
        ("/v1/asyncapi.json", get(description::asyncapi)),
        ("/v1/schema", get(schema::list)),
        ("/v1/schema/{name}", get(schema::schema)),
        ("/healthz", get(health::live)),
        ("/readyz", get(health::ready)),
    ]
}

fn gather(resources: Vec<Resource>) -> Router<Shared> {
    resources.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
}

/// The router of all resources.
///
/// # Errors
/// When the configuration can't be used.
pub fn router(state: AppState) -> Result<Router, HttpConfigError> {
    let config = state.config.load_full();
    if !(1..=stream::MAX_HEARTBEAT_SECS).contains(&config.heartbeat_secs) {
        return Err(HttpConfigError::Heartbeat { secs: config.heartbeat_secs });
    }
    let streams = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let (stats, backups) = (Semaphore::new(stats::AT_ONCE), Arc::new(Semaphore::new(1)));
    let app = Arc::new(App { state, streams, stats, backups });
    let protected = gather(protected()).route_layer(middleware::from_fn_with_state(Arc::clone(&app), access::admit));
    let router = gather(open())
        .merge(protected)
        .fallback(async |request: Request| ApiError::RouteNotFound { path: request.uri().path().to_owned() })
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn(message::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), cors::share))
        .with_state(app);
    Ok(router)
}

/// OPTIONS lists the permitted methods (axum adds `allow`); any other method is refused.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    ApiError::MethodNotAllowed.into_response()
}

async fn count(State(app): State<Shared>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    // A stream lasts as long as its client likes: what is told of it is the head.
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let span = debug_span!(
        "request", http.request.method = %request.method(), http.route = route, client.address = peer.map(tracing::field::display),
        otel.kind = "server", http.response.status_code = Empty
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    drop(span);
    let metrics = &app.state.metrics;
    metrics.http_requests.with_label_values(&[route, response.status().as_str()]).inc();
    if route != STREAM {
        metrics.http_request_seconds.with_label_values(&[route]).observe(begun.elapsed().as_secs_f64());
    }
    const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;
    response.headers_mut().insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}
