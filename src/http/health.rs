//! Liveness, readiness and metrics.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::access::Caller;
use super::error::ApiError;
use super::{App, AppState, Shared};
use crate::hub::blocking;

/// The server is ready when every [`Latch`] has been released. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

/// One part of the program that is not ready yet.
#[derive(Debug)]
#[must_use = "readiness waits until the latch is released"]
pub struct Latch {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Makes readiness wait for a part: `log`, `sources`, … Dropping the latch does not release it: a part that
    /// failed is not ready.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Latch { readiness: self.clone(), name }
    }

    /// The parts that are not ready yet.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Latch {
    /// Marks the part as ready.
    pub fn release(self) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.name);
    }
}

/// `GET /healthz`: always 200.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200, or 503 with what is missing. A log that waits for its disk can still be read, so it is ready.
pub(super) async fn ready(State(app): State<Shared>) -> Response {
    let missing = missing(&app);
    let stopping = app.state.stop.is_cancelled();
    let ready = missing.is_empty() && !stopping;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let log_waits_for = app.state.log.waits_for();
    let body = json!({ "ready": ready, "stopping": stopping, "missing": missing, "log_waits_for": log_waits_for });
    (status, Json(body)).into_response()
}

/// The parts that are not ready, the hub included.
pub(super) fn missing(app: &App) -> Vec<&'static str> {
    let mut missing = app.state.readiness.missing();
    if !app.state.hub.is_following() {
        missing.push("hub");
    }
    missing
}

/// `GET /metrics`: the Prometheus text format. Gauges of the log are updated at each scrape.
pub(super) async fn metrics(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    caller.sees_everything()?;
    let text =
        blocking(move || Ok(render(&app))).await?.map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, FORMAT)], text).into_response())
}

fn render(app: &App) -> Result<String, prometheus::Error> {
    let AppState { metrics, log, hub, access, .. } = &app.state;
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.log_tail.set(gauge(log.tail().borrow().0));
    metrics.log_floor.set(gauge(log.floor().0));
    metrics.log_size_bytes.set(gauge(log.size_bytes()));
    // Where it can't be measured now, the figure before stays.
    if let Ok(bytes) = log.disk_bytes() {
        metrics.log_disk_bytes.set(gauge(bytes));
    }
    let lag = hub.lag();
    metrics.stream_clients_behind.set(gauge(lag.behind as u64));
    metrics.stream_clients_replaying.set(gauge(lag.replaying as u64));
    metrics.stream_lag_events.set(gauge(lag.events));
    metrics.tokens.set(gauge(access.tokens() as u64));
    metrics.log_free_bytes.set(gauge(log.free_bytes().unwrap_or(0)));
    metrics.log_writable.set(i64::from(log.waits_for().is_none()));
    metrics.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_latch_stays_missing() {
        let readiness = Readiness::default();
        let (log, inventory) = (readiness.latch("log"), readiness.latch("inventory"));
        assert_eq!(readiness.missing(), ["inventory", "log"]);
        drop(inventory);
        log.release();
        assert_eq!(readiness.missing(), ["inventory"]);
    }
}
