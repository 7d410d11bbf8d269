//! `GET /v1/stats`: counts of the events in a time window, for dashboards.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::access::Caller;
use super::assets::{internal, page_size};
use super::error::ApiError;
use super::params::{Moment, Params};
use super::stream::parse_filter;
use crate::hub::{Filter, Projection, View, blocking};
use crate::log::{EventLog, LogError};
use crate::model::{EventHead, Seq, Time};

/// The default window.
const WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Most events examined for one response, the newest of the window: about a second of one core.
const MOST_EVENTS: u64 = 100_000;
/// Bytes of events read from the log at once.
const READ_BYTES: usize = 1 << 20;
/// Concurrent computations; further requests wait.
pub(super) const AT_ONCE: usize = 2;

const ROWS: u64 = 10;
const MAX_ROWS: u64 = 1_000;

/// A dimension to count events by: its name, pointers to the members that it reveals, and its values in an event's
/// head.
type Dimension = (&'static str, &'static [&'static str], fn(&EventHead) -> Vec<&str>);

const DIMENSIONS: [Dimension; 8] = [
    ("action", &["/data/action"], |head| vec![head.action.as_str()]),
    ("asset_type", &["/data/asset/type"], |head| vec![head.asset_type.as_str()]),
    ("provider", &["/data/asset/provider"], |head| vec![head.provider.as_str()]),
    ("account", &["/data/asset/account"], |head| vec![head.account.as_str()]),
    ("region", &["/data/asset/region"], |head| vec![head.region.as_str()]),
    ("method", &["/data/attribution/method"], |head| vec![head.method.as_str()]),
    ("principal", &["/data/attribution/principal/id", "/data/attribution/principal/arn"], |head| principal(head)),
    ("novelty", &["/data/novelty"], |head| head.novelty.names().collect()),
];

/// The principal's ARN, otherwise its id, which is the first of its spellings.
fn principal(head: &EventHead) -> Vec<&str> {
    let arn = head.principals.iter().find(|text| text.starts_with("arn:"));
    arn.or(head.principals.first()).map(String::as_str).into_iter().collect()
}

#[derive(Serialize)]
struct Stats {
    since: Time,
    until: Time,
    /// Events that match the filters.
    events: u64,
    /// Whether every event of the window was examined.
    complete: bool,
    by: Map<String, Value>,
}

#[derive(Serialize)]
struct Row<'a> {
    value: &'a str,
    events: u64,
}

/// `GET /v1/stats`.
pub(super) async fn stats(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut params = Params::parse(&uri)?;
    let now = (app.state.clock)();
    let mut filter = parse_filter(&mut params, &app.state.config.load().type_prefix)?;
    let since = params.moment("since")?.unwrap_or(Moment::Ago(WINDOW)).resolve(now);
    let until = params.moment("until")?.map_or(now, |until| until.resolve(now));
    let rows = page_size(&mut params, ROWS, MAX_ROWS)?;
    params.finish()?;
    (filter.since, filter.until) = (Some(since), Some(until));
    let (filter, told) = (caller.confine(filter)?, told(caller.project(None).as_deref())?);
    let _turn = app.stats.acquire().await.map_err(|_| ApiError::Stopping)?;
    let log = Arc::clone(&app.state.log);
    let counted = blocking(move || {
        let mut counts = Counts::new(told);
        let complete = counts.count(&*log, &filter, since)?;
        Ok((counts, complete))
    });
    let (counts, complete) = counted.await?;
    let by = counts.by(rows);
    Ok(Json(Stats { since, until, events: counts.events, complete, by }).into_response())
}

/// The dimensions that reveal no member that the credential hides.
fn told(hidden: Option<&Projection>) -> Result<Vec<Dimension>, ApiError> {
    let Some(hidden) = hidden else { return Ok(DIMENSIONS.to_vec()) };
    let event = json!({
        "id": "", "type": "", "data": {
            "action": "", "asset": { "type": "", "provider": "", "account": "", "region": "" }, "novelty": [],
            "attribution": { "method": "", "principal": { "id": "", "arn": "" } },
        },
    });
    let mut shown = Vec::new();
    hidden.apply(event.to_string().as_bytes(), &mut shown).map_err(internal)?;
    let shown: Value = serde_json::from_slice(&shown).map_err(internal)?;
    let is_told = |(_, members, _): &Dimension| members.iter().all(|member| shown.pointer(member).is_some());
    Ok(DIMENSIONS.into_iter().filter(is_told).collect())
}

struct Counts {
    events: u64,
    dimensions: Vec<(Dimension, HashMap<String, u64>)>,
}

impl Counts {
    fn new(dimensions: Vec<Dimension>) -> Self {
        Self { events: 0, dimensions: dimensions.into_iter().map(|dimension| (dimension, HashMap::new())).collect() }
    }

    /// Counts the events that match, and returns whether all candidates were examined. It reads from the first event
    /// observed since `since`: events are observed after they happen, as long as the provider's clock is not ahead of
    /// ours.
    fn count(&mut self, log: &dyn EventLog, filter: &Filter, since: Time) -> Result<bool, LogError> {
        let tail = *log.tail().borrow();
        let first = log.first_observed_since(since)?;
        // What was observed before the oldest event kept may have been of the window.
        let dropped = log.floor() > Seq(1) && first <= log.floor();
        let cut = Seq((tail.0 + 1).saturating_sub(MOST_EVENTS));
        let mut after = Seq(first.max(cut).0.saturating_sub(1));
        let mut complete = !dropped && first >= cut;
        while after < tail {
            match log.read(after, READ_BYTES) {
                Ok(blocks) if blocks.is_empty() => break,
                Ok(blocks) => {
                    for block in &blocks {
                        let events = (block.first.0..).zip(&block.heads).zip(block.lines.split(|byte| *byte == b'\n'));
                        let wanted = events.filter(|((seq, _), _)| (after.0 + 1..=tail.0).contains(seq));
                        wanted.for_each(|((_, head), json)| self.add(head, json, filter));
                        after = after.max(Seq(block.first.0 + block.heads.len() as u64 - 1));
                    }
                }
                Err(LogError::BelowFloor { floor, .. }) if floor > after.next() => {
                    complete = false;
                    after = Seq(floor.0 - 1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(complete)
    }

    fn add(&mut self, head: &EventHead, json: &[u8], filter: &Filter) {
        if !filter.matches(&View::new(head, json)) {
            return;
        }
        self.events += 1;
        for ((_, _, tell), counts) in &mut self.dimensions {
            for value in tell(head) {
                match counts.get_mut(value) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(value.to_owned(), 1)),
                }
            }
        }
    }

    /// The most frequent values of each dimension, ordered by count, then by value.
    fn by(&self, rows: usize) -> Map<String, Value> {
        let top = |counts: &HashMap<String, u64>| {
            let mut found: Vec<_> = counts.iter().map(|(value, events)| Row { value, events: *events }).collect();
            found.sort_by(|a, b| b.events.cmp(&a.events).then(a.value.cmp(b.value)));
            found.truncate(rows);
            json!(found)
        };
        self.dimensions.iter().map(|((name, ..), counts)| ((*name).to_owned(), top(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_counted() {
        let names = |omit: &str| {
            let hidden = Projection::parse(Some(omit), None).unwrap().unwrap();
            told(Some(&hidden)).unwrap_or_default().into_iter().map(|(name, ..)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("raw").len(), DIMENSIONS.len());
        assert!(!names("attribution.principal").contains(&"principal"));
        assert!(!names("attribution.principal.id").contains(&"principal"));
        assert_eq!(names("attribution,novelty"), ["action", "asset_type", "provider", "account", "region"]);
    }
}
