//! One subscriber: a cursor over the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::segment::{Format, Room, Segment, Selected};
use super::{Filter, Hub, Projection};
use crate::log::LogError;
use crate::model::{Cursor, Seq};

/// Bytes handed out at once, unless a single event is longer.
const CHUNK_BYTES: usize = 256 * 1024;
/// Segments looked at in a row before the runtime gets its turn.
const SEGMENTS_AT_ONCE: usize = 64;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The position before the first event looked at.
    pub after: Seq,
    /// What the subscriber missed before it, to be told first.
    pub gap: Option<(Cursor, GapReason)>,
}

impl Start {
    /// Where a subscriber goes on that has got everything up to `cursor`. A cursor of another log, or from beyond this
    /// one's tail (a log restored from a backup), begins at the oldest kept event, with a gap.
    #[must_use]
    pub fn resume(hub: &Hub, cursor: Cursor) -> Self {
        let oldest = Seq(hub.floor().0.saturating_sub(1));
        // The log's own tail: what is read back from it may be ahead of the hub for a moment.
        if cursor.epoch != hub.epoch() || cursor.seq > *hub.log.tail().borrow() {
            return Self { after: oldest, gap: Some((cursor, GapReason::Epoch)) };
        }
        if cursor.seq < oldest {
            return Self { after: oldest, gap: Some((cursor, GapReason::Retention)) };
        }
        Self { after: cursor.seq, gap: None }
    }

    /// Only what comes from now on.
    #[must_use]
    pub fn live(hub: &Hub) -> Self {
        Self { after: hub.tail(), gap: None }
    }
}

/// Events that a subscriber can't get any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last event before the gap, in the log that the subscriber knew.
    pub from: Cursor,
    /// The last event in the gap.
    pub to: Cursor,
    /// How it came about.
    pub reason: GapReason,
}

/// Why events can't be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention dropped them.
    Retention,
    /// The cursor belongs to another log.
    Epoch,
}

/// Why a subscription ends.
#[derive(Clone, Debug)]
pub enum ClosingReason {
    /// It got all it asked for.
    Complete,
    /// The server stops.
    Shutdown,
    /// The log can't be read.
    Failed(LogError),
}

/// What a subscriber gets next.
#[derive(Clone, Debug)]
pub enum Output {
    /// Whole events, in the subscription's format.
    Events {
        /// Their text.
        bytes: Bytes,
        /// How many there are.
        events: u64,
    },
    /// Everything up to here was sent; what follows is live. Comes once, and again in the place of a heartbeat when
    /// the filter let events pass by since.
    CaughtUp(Cursor),
    /// Events are missing.
    Gap(Gap),
    /// Nothing was sent for a while.
    Heartbeat,
    /// The last output. The cursor tells how far the subscriber got.
    Closing(Cursor, ClosingReason),
}

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub struct SubscriptionOptions {
    /// Where to begin.
    pub start: Start,
    /// Which events.
    pub filter: Filter,
    /// Which members of them.
    pub projection: Option<Arc<Projection>>,
    /// In which form.
    pub format: Format,
    /// Ends after so many events.
    pub limit: Option<u64>,
    /// Ends when the tail, as of this moment, is reached.
    pub until: Option<Instant>,
    /// Silence after which a heartbeat is due.
    pub heartbeat: Option<Duration>,
}

/// A cursor over the log, with a filter. Memory: at most one segment.
pub struct Subscription {
    hub: Arc<Hub>,
    tail: watch::Receiver<Seq>,
    stop: CancellationToken,
    filter: Filter,
    projection: Option<Arc<Projection>>,
    format: Format,
    gap: Option<(Cursor, GapReason)>,
    /// Everything up to here was looked at.
    cursor: Seq,
    /// The position that the subscriber last heard of.
    announced: Seq,
    /// The segment that `cursor` lies in, while it is not used up.
    current: Option<Arc<Segment>>,
    remaining: u64,
    until: Option<Instant>,
    /// The tail when `until` passed.
    end: Option<Seq>,
    heartbeat: Option<Duration>,
    last_output: Instant,
    caught_up: bool,
    closed: bool,
}

impl Subscription {
    /// A subscription that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(hub: Arc<Hub>, options: SubscriptionOptions, stop: CancellationToken) -> Self {
        Self {
            tail: hub.tail.subscribe(),
            hub,
            stop,
            filter: options.filter,
            projection: options.projection,
            format: options.format,
            gap: options.start.gap,
            cursor: options.start.after,
            announced: options.start.after,
            current: None,
            remaining: options.limit.unwrap_or(u64::MAX),
            until: options.until,
            end: None,
            heartbeat: options.heartbeat,
            last_output: Instant::now(),
            caught_up: false,
            closed: false,
        }
    }

    /// Waits for what comes next; `None` after [`Output::Closing`].
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Output> {
        if self.closed {
            return None;
        }
        let output = match self.advance().await {
            Ok(output) => output,
            Err(error) => self.close(ClosingReason::Failed(error)),
        };
        self.last_output = Instant::now();
        Some(output)
    }

    async fn advance(&mut self) -> Result<Output, LogError> {
        if let Some((from, reason)) = self.gap.take() {
            return Ok(Output::Gap(Gap { from, to: self.position(), reason }));
        }
        let stop = self.stop.clone();
        loop {
            if stop.is_cancelled() {
                return Ok(self.close(ClosingReason::Shutdown));
            }
            if self.is_complete() {
                return Ok(self.close(ClosingReason::Complete));
            }
            // Cached segments are always ready; without this a long scan would hold its thread.
            tokio::task::coop::consume_budget().await;
            let output = match stop.run_until_cancelled(self.segment()).await {
                None => None,
                Some(Ok(Some(segment))) => self.take(segment),
                Some(Ok(None)) => self.at_tail().await,
                Some(Err(LogError::BelowFloor { floor, .. })) if floor > self.cursor.next() => {
                    Some(self.skip_to(floor))
                }
                Some(Err(error)) => return Err(error),
            };
            if let Some(output) = output.or_else(|| self.heartbeat_if_due()) {
                return Ok(output);
            }
        }
    }

    /// What follows the cursor, in the form that the subscriber gets; `None` at the tail.
    async fn segment(&mut self) -> Result<Option<Arc<Segment>>, LogError> {
        if let Some(segment) = self.current.take() {
            return Ok(Some(segment));
        }
        let segment = self.hub.after(self.cursor).await?;
        match (&self.projection, segment) {
            (Some(projection), Some(segment)) if segment.any_after(self.cursor, &self.filter) => {
                self.hub.project(&segment, projection).await.map(Some)
            }
            (_, segment) => Ok(segment),
        }
    }

    /// Collects matching events, from this segment and from those that follow it in memory.
    fn take(&mut self, mut segment: Arc<Segment>) -> Option<Output> {
        let mut selected = Selected::default();
        let room = Room { events: self.remaining, bytes: CHUNK_BYTES };
        for _ in 0..SEGMENTS_AT_ONCE {
            self.cursor = segment.select(self.cursor, &self.filter, self.format, room, &mut selected);
            if self.cursor < segment.last() {
                self.current = Some(segment);
                break;
            }
            // Projections are made by `segment`, which may wait.
            match self.hub.in_ring(self.cursor) {
                Some(next) if self.projection.is_none() && selected.bytes < CHUNK_BYTES => segment = next,
                _ => break,
            }
        }
        self.remaining -= selected.events.min(self.remaining);
        self.announced = selected.last.unwrap_or(self.announced);
        (selected.events > 0).then(|| Output::Events { events: selected.events, bytes: join(selected) })
    }

    async fn at_tail(&mut self) -> Option<Output> {
        if !self.caught_up {
            self.caught_up = true;
            self.announced = self.cursor;
            return Some(Output::CaughtUp(self.position()));
        }
        let cursor = self.cursor;
        let heartbeat = self.heartbeat.and_then(|after| self.last_output.checked_add(after));
        let until = self.until.filter(|_| self.end.is_none());
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            _ = self.tail.wait_for(|tail| *tail > cursor) => {}
            () = sleep_until(until), if until.is_some() => {}
            () = sleep_until(heartbeat), if heartbeat.is_some() => {}
        }
        None
    }

    fn heartbeat_if_due(&mut self) -> Option<Output> {
        if self.heartbeat.is_none_or(|after| self.last_output.elapsed() < after) || self.stop.is_cancelled() {
            return None;
        }
        // Lines of NDJSON carry no position, so there is none to bring up to date.
        let stale = self.format == Format::Sse && self.announced < self.cursor;
        if self.caught_up && stale && self.cursor >= self.hub.tail() {
            self.announced = self.cursor;
            return Some(Output::CaughtUp(self.position()));
        }
        Some(Output::Heartbeat)
    }

    fn skip_to(&mut self, floor: Seq) -> Output {
        let from = self.position();
        self.cursor = Seq(floor.0.saturating_sub(1));
        self.announced = self.cursor;
        Output::Gap(Gap { from, to: self.position(), reason: GapReason::Retention })
    }

    fn is_complete(&mut self) -> bool {
        if self.end.is_none() && self.until.is_some_and(|until| Instant::now() >= until) {
            // The log's own tail: what was durable by then belongs to the answer, though the hub may not have it yet.
            self.end = Some(*self.hub.log.tail().borrow());
        }
        self.remaining == 0 || self.end.is_some_and(|end| self.cursor >= end)
    }

    fn position(&self) -> Cursor {
        Cursor { epoch: self.hub.epoch(), seq: self.cursor }
    }

    fn close(&mut self, reason: ClosingReason) -> Output {
        self.closed = true;
        Output::Closing(self.position(), reason)
    }
}

/// One run goes out as it is; several are copied together, since a send costs more than the copy.
fn join(selected: Selected) -> Bytes {
    let mut runs = selected.runs;
    if runs.len() == 1
        && let Some(run) = runs.pop()
    {
        return run;
    }
    let mut joined = BytesMut::with_capacity(selected.bytes);
    for run in runs {
        joined.extend_from_slice(&run);
    }
    joined.freeze()
}

async fn sleep_until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment).await;
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
