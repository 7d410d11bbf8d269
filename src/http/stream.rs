//! `GET /v1/events`: the stream. Parses the request, and chooses who writes the response: hyper or the fan-out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::access::{Caller, Peer};
use super::error::ApiError;
use super::handover::{Door, HandoverBody};
use super::params::{Moment, Params, parse_cursor};
use super::{App, AppState, Shared};
use crate::hub::{
    ClosingReason, Filter, Format, GapReason, Notice, OpenStream, Output, PlainStream, Projection, Start, Subscription,
    SubscriptionOptions, Wire, blocking,
};
use crate::model::{Cursor, Seq, Time};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const MAX_HEARTBEAT_SECS: u64 = 3_600;

/// How far a provider's clock may be ahead of ours. The log is ordered by our clock, so `since` starts reading this
/// much earlier and then filters by the events' own time.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// Where a stream begins.
#[derive(Debug, PartialEq, Eq)]
enum Position {
    Live,
    Oldest,
    /// After a position.
    Cursor(Cursor),
    /// After the event with this id.
    Event(String),
    Since(Time),
}

/// The parsed request for a stream, before its position is looked up in the log.
#[derive(Debug)]
struct StreamRequest {
    format: Format,
    /// Whether the client accepts gzip.
    gzip: bool,
    position: Position,
    filter: Filter,
    projection: Option<Arc<Projection>>,
    limit: Option<u64>,
    until: Option<Instant>,
    /// Whether `until` was in the past when the request arrived.
    until_passed: bool,
    heartbeat: Option<Duration>,
    /// Whether this is an SSE client that reconnects.
    reconnects: bool,
}

impl StreamRequest {
    fn parse(state: &AppState, uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut params = Params::parse(uri)?;
        let now = (state.clock)();
        let format = parse_format(&mut params, headers)?;
        let mut filter = parse_filter(&mut params, &state.config.load().type_prefix)?;
        let projection = parse_projection(&mut params)?;
        let header = last_event_id(headers)?;
        let query = params.cursor("last_event_id")?;
        let after = params.text("after")?;
        let since = params.moment("since")?;
        let until = params.moment("until")?.map(|until| until.resolve(now));
        let limit = params.number("limit", 1, u64::MAX)?;
        let heartbeat = params.number("heartbeat", 1, MAX_HEARTBEAT_SECS)?;
        params.finish()?;

        let until_passed = until.is_some_and(|until| until <= now);
        filter.until = until;
        filter.since = match since {
            Some(Moment::At(time)) => Some(time),
            // Counted from the first connection, "two hours ago" was earlier than it is now: a stream that goes on
            // from a position must not lose what lies between.
            Some(ago) if header.or(query).is_none() && after.is_none() => Some(ago.resolve(now)),
            _ => None,
        };
        let position = match (header.or(query), after, since) {
            (Some(cursor), ..) => Position::Cursor(cursor),
            (None, Some(after), _) => after.parse().map_or(Position::Event(after), Position::Cursor),
            (None, None, Some(since)) => Position::Since(since.resolve(now)),
            // Live events can't be older than a moment that has passed.
            (None, None, None) if until_passed => Position::Oldest,
            (None, None, None) => Position::Live,
        };
        let default_heartbeat = (format == Format::Sse).then_some(state.config.load().heartbeat_secs);
        Ok(Self {
            format,
            gzip: accepts_gzip(headers),
            position,
            filter,
            projection,
            limit,
            until: until.and_then(|until| deadline(until, now)),
            until_passed,
            heartbeat: heartbeat.or(default_heartbeat).map(Duration::from_secs),
            reconnects: header.is_some() && format == Format::Sse,
        })
    }

    /// Whether the stream ends by itself.
    fn is_bounded(&self) -> bool {
        self.limit.is_some() || self.until.is_some()
    }
}

/// `None` if it is too far ahead to be represented.
fn deadline(until: Time, now: Time) -> Option<Instant> {
    let millis = u64::try_from(until.millis().saturating_sub(now.millis())).unwrap_or(0);
    Instant::now().checked_add(Duration::from_millis(millis))
}

fn parse_format(params: &mut Params, headers: &HeaderMap) -> Result<Format, ApiError> {
    match params.text("format")?.as_deref() {
        Some("sse") => Ok(Format::Sse),
        Some("ndjson") => Ok(Format::Ndjson),
        Some(other) => Err(ApiError::bad_parameter("format", format!("{other:?} is neither sse nor ndjson"))),
        None => Ok(accepted_format(headers)),
    }
}

/// The first supported media type in `Accept`; SSE if there is none.
fn accepted_format(headers: &HeaderMap) -> Format {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        ranges.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or(range).trim());
    types
        .find_map(|media| match media {
            media if media.eq_ignore_ascii_case("application/x-ndjson") => Some(Format::Ndjson),
            media if media.eq_ignore_ascii_case("text/event-stream") => Some(Format::Sse),
            _ => None,
        })
        .unwrap_or(Format::Sse)
}

/// Whether the client prefers gzip to no compression, or likes both equally
/// (<https://www.rfc-editor.org/rfc/rfc9110#field.accept-encoding>).
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    let fields = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for coding in fields.flat_map(|value| value.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
        // A weight that is none asks for nothing.
        let weight = weight.and_then(|weight| weight.trim().parse::<f32>().ok()).unwrap_or(0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

pub(super) fn parse_filter(params: &mut Params, type_prefix: &str) -> Result<Filter, ApiError> {
    Ok(Filter::parse(type_prefix, |name| params.take(name))?)
}

pub(super) fn parse_projection(params: &mut Params) -> Result<Option<Arc<Projection>>, ApiError> {
    let (omit, fields) = (params.take("omit"), params.take("fields"));
    Ok(Projection::parse(omit.as_deref(), fields.as_deref())?.map(Arc::new))
}

/// An empty header counts as absent: EventSource sends that before its first event.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    // Not text is not a position either.
    parse_cursor("Last-Event-ID", value.to_str().unwrap_or("?")).map(Some)
}

/// Looks up the position in the log.
async fn resolve(app: &App, request: &StreamRequest) -> Result<Start, ApiError> {
    let (hub, log) = (&app.state.hub, Arc::clone(&app.state.log));
    let at = |seq| Start { after: seq, gap: None };
    let start = match &request.position {
        Position::Live => Start::live(hub),
        Position::Oldest => at(Seq(hub.floor().0.saturating_sub(1))),
        Position::Cursor(cursor) => Start::resume(hub, *cursor),
        Position::Event(id) => {
            let wanted = id.clone();
            let found = blocking(move || log.find(&wanted)).await?;
            at(found.ok_or_else(|| ApiError::UnknownPosition { id: id.clone() })?)
        }
        Position::Since(since) => {
            let since = *since;
            let epoch = hub.epoch();
            return Ok(blocking(move || start_since(log.as_ref(), since)).await.map(|(after, dropped)| {
                // A wish for time is met as far as there are events; where lines have no room to say so, that is all.
                let told = dropped && request.format == Format::Sse;
                Start { after, gap: told.then_some((Cursor { epoch, seq: Seq(0) }, GapReason::Retention)) }
            })?);
        }
    };
    match start.gap {
        Some((cursor, _)) if request.format == Format::Ndjson => {
            let resume = Cursor { epoch: hub.epoch(), seq: start.after };
            Err(ApiError::PositionGone { cursor, resume })
        }
        _ => Ok(start),
    }
}

/// The position before the events since a time, and whether retention may have dropped some of them.
fn start_since(log: &dyn crate::log::EventLog, since: Time) -> Result<(Seq, bool), crate::log::LogError> {
    let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX);
    let first = log.first_observed_since(Time::from_millis(since.millis().saturating_sub(skew)))?;
    let floor = log.floor();
    let dropped = floor > Seq(1) && log.first_observed_since(since)? <= floor;
    Ok((Seq(first.0.saturating_sub(1)), dropped))
}

/// `GET /v1/events`.
pub(super) async fn stream(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    peer: Option<Extension<Peer>>,
    door: Door,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if app.state.stop.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    let request = StreamRequest::parse(&app.state, &uri, &headers)?;
    let permit = open_stream(&app)?;
    let of_caller = caller.open_stream()?;
    let start = resolve(&app, &request).await?;
    let (format, bounded, gzip) = (request.format, request.is_bounded(), request.gzip);
    let ends = request.reconnects && request.until_passed;
    let options = SubscriptionOptions {
        start,
        filter: caller.confine(request.filter)?,
        projection: caller.project(request.projection),
        format,
        gzip,
        limit: request.limit,
        until: request.until,
        heartbeat: request.heartbeat,
        credential: caller.until_ended(),
    };
    let mut subscription = Subscription::new(Arc::clone(&app.state.hub), options, app.state.stop.clone());
    let (wire, metrics) = (Wire::new(format, bounded, gzip), Arc::clone(&app.state.metrics));
    if ends {
        let Some(first) = first_output(&mut subscription).await else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let body = body(subscription, Some(first), wire, OpenStream::new(metrics, [permit, of_caller]));
        return Ok((stream_headers(format, gzip), Body::from_stream(body)).into_response());
    }
    caller.log_stream(peer.map(|peer| peer.0));
    let open = OpenStream::new(metrics, [permit, of_caller]);
    Ok(match door {
        Door::Hyper => {
            (stream_headers(format, gzip), Body::from_stream(body(subscription, None, wire, open))).into_response()
        }
        Door::FanOut(handover) => {
            let body = HandoverBody::new(handover, PlainStream::new(subscription, wire, open));
            (stream_headers(format, gzip), [(header::CONNECTION, "close")], Body::new(body)).into_response()
        }
    })
}

/// Takes one of the `http.max_streams` slots.
fn open_stream(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    let limit = app.state.config.load().max_streams;
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| ApiError::TooManyStreams { limit })?;
    let open = Semaphore::MAX_PERMITS - app.streams.available_permits();
    if open > limit { Err(ApiError::TooManyStreams { limit }) } else { Ok(permit) }
}

/// The first output for a client that reconnects to a stream whose `until` has passed; `None` if nothing is left. The
/// response is then 204, which stops an EventSource
/// (<https://html.spec.whatwg.org/multipage/server-sent-events.html#server-sent-events-intro>); after any other it
/// would reconnect for ever.
async fn first_output(subscription: &mut Subscription) -> Option<Output> {
    loop {
        match subscription.next().await? {
            Output::Notice(Notice::Closing(_, ClosingReason::Complete)) => return None,
            Output::Notice(Notice::CaughtUp(_) | Notice::Heartbeat) => {}
            output => return Some(output),
        }
    }
}

fn stream_headers(format: Format, gzip: bool) -> HeaderMap {
    let content_type = match format {
        Format::Sse => "text/event-stream",
        Format::Ndjson => "application/x-ndjson",
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // No proxy may hold the stream back, store it or compress it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers
}

fn body(
    mut subscription: Subscription,
    mut first: Option<Output>,
    mut wire: Wire,
    open: OpenStream,
) -> impl tokio_stream::Stream<Item = io::Result<Bytes>> + Send {
    async_stream::stream! {
        if let Some(opening) = wire.opening() {
            yield Ok(opening);
        }
        loop {
            let output = match first.take() {
                Some(output) => Some(output),
                None => subscription.next().await,
            };
            let told = match output {
                None => break,
                Some(Output::Events { bytes, events, sum }) => {
                    open.count(events, bytes.len());
                    wire.sent(sum);
                    Ok(Some(bytes))
                }
                Some(Output::Notice(notice)) => {
                    open.told(&notice);
                    wire.notice(&notice)
                }
            };
            match told {
                Ok(None) => {}
                Ok(Some(bytes)) => yield Ok(bytes),
                Err(cut_off) => {
                    yield Err(io::Error::other(cut_off));
                    break;
                }
            }
        }
    }
}
