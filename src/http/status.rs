//! `GET /v1/status`: the health of the server at a glance, as printed by `catchment status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::access::Caller;
use super::error::ApiError;
use super::health::missing;
use super::params::NoParams;
use super::reports::{Source, source_list};
use super::{App, Shared};
use crate::hub::blocking;
use crate::log::{EventLog, LogError, Quarantined};
use crate::metrics::resident_memory;
use crate::model::{Seq, SourceId, Time};

/// Number of quarantined records listed.
const LATEST: u64 = 5;

#[derive(Serialize)]
struct Status {
    version: &'static str,
    commit: &'static str,
    started: Time,
    uptime_secs: i64,
    ready: bool,
    stopping: bool,
    missing: Vec<&'static str>,
    /// Records since the start, by outcome.
    records: BTreeMap<String, u64>,
    log: Log,
    assets: usize,
    streams: Streams,
    quarantine: Quarantine,
    tokens: usize,
    /// Resident memory of the process, if the system reports it.
    memory_bytes: Option<i64>,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Log {
    epoch: String,
    floor: Seq,
    tail: Seq,
    events: u64,
    events_last_minute: u64,
    events_last_hour: u64,
    bytes: u64,
    disk_bytes: u64,
    /// Why the log accepts nothing at present.
    waits_for: Option<String>,
    /// When the oldest and the newest event kept were observed.
    oldest: Option<Time>,
    newest: Option<Time>,
}

#[derive(Serialize)]
struct Streams {
    open: i64,
    behind: usize,
    replaying: usize,
    lag_events: u64,
}

#[derive(Serialize)]
struct Quarantine {
    records: u64,
    bytes: u64,
    /// Newest first.
    latest: Vec<Reject>,
}

#[derive(Serialize)]
struct Reject {
    number: u64,
    source: SourceId,
    code: &'static str,
    reason: String,
    observed: Time,
}

impl From<Quarantined> for Reject {
    fn from(Quarantined { number, rejected }: Quarantined) -> Self {
        let (source, code, reason) = (rejected.origin.source, rejected.code, rejected.reason);
        Self { number, source, code, reason, observed: rejected.observed }
    }
}

/// `GET /v1/status`.
pub(super) async fn status(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Result<Response, ApiError> {
    caller.sees_everything()?;
    let status = blocking(move || tell(&app)).await?;
    Ok(Json(status).into_response())
}

fn tell(app: &App) -> Result<Status, LogError> {
    let state = &app.state;
    let (now, lag, missing) = ((state.clock)(), state.hub.lag(), missing(app));
    let started = state.metrics.started();
    let stopping = state.stop.is_cancelled();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("CATCHMENT_COMMIT").unwrap_or("unknown"),
        started,
        uptime_secs: now.millis().saturating_sub(started.millis()) / 1_000,
        ready: missing.is_empty() && !stopping,
        stopping,
        missing,
        records: state.metrics.outcomes(),
        log: log(&*state.log, now)?,
        assets: state.inventory.len(),
        streams: Streams {
            open: state.metrics.stream_clients.get(),
            behind: lag.behind,
            replaying: lag.replaying,
            lag_events: lag.events,
        },
        quarantine: quarantine(&state.log)?,
        tokens: state.access.tokens(),
        memory_bytes: resident_memory(),
        sources: source_list(&state.sources),
    })
}

fn log(log: &dyn EventLog, now: Time) -> Result<Log, LogError> {
    let (floor, tail) = (log.floor(), *log.tail().borrow());
    let since = |millis: i64| {
        let first = log.first_observed_since(Time::from_millis(now.millis().saturating_sub(millis)))?;
        Ok::<_, LogError>((tail.0 + 1).saturating_sub(first.0))
    };
    let observed = |seq: Seq| {
        // Retention may have dropped it meanwhile.
        let blocks = match log.read(Seq(seq.0.saturating_sub(1)), 1) {
            Err(LogError::BelowFloor { .. }) => Vec::new(),
            read => read?,
        };
        let head = blocks.first().and_then(|block| block.heads.get(usize::try_from(seq.0 - block.first.0).ok()?));
        Ok::<_, LogError>(head.map(|head| head.observed))
    };
    let (oldest, newest) = if floor > tail { (None, None) } else { (observed(floor)?, observed(tail)?) };
    Ok(Log {
        epoch: log.epoch().to_string(),
        floor,
        tail,
        events: (tail.0 + 1).saturating_sub(floor.0),
        events_last_minute: since(60_000)?,
        events_last_hour: since(3_600_000)?,
        bytes: log.size_bytes(),
        disk_bytes: log.disk_bytes()?,
        waits_for: log.waits_for(),
        oldest,
        newest,
    })
}

fn quarantine(log: &Arc<dyn EventLog>) -> Result<Quarantine, LogError> {
    let size = log.quarantine_size();
    let newest = log.quarantine(size.last.saturating_sub(LATEST), usize::try_from(LATEST).unwrap_or(usize::MAX))?;
    let latest = newest.into_iter().rev().map(Reject::from).collect();
    Ok(Quarantine { records: size.records, bytes: size.bytes, latest })
}
