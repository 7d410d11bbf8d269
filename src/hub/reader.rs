//! What a subscriber gets next: the rules of the stream, without any waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lag::Place;
use super::matching::{FilterId, InternedFilter};
use super::passing::Passing;
use super::segment::{Encoding, Format, Progress, Room, Segment, Selected};
use super::{Filter, Hub, Loaded, Projection};
use crate::log::LogError;
use crate::model::{Cursor, Seq};

/// Most bytes per step, unless a single event is longer.
const CHUNK_BYTES: usize = 256 * 1024;
/// The same for compressed bytes: about as much text, whose compression does not delay others for long.
const COMPRESSED_BYTES: usize = 32 * 1024;
/// Segments searched in a row before other readers get their turn.
const SEGMENTS_AT_ONCE: usize = 64;
/// The same in events for a filter with an expression, which takes some 8 µs for each.
const EVALUATED_AT_ONCE: u64 = 512;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The position before the first event.
    pub after: Seq,
    /// The gap to report first: where the subscriber was, and why events are missing.
    pub gap: Option<(Cursor, GapReason)>,
}

impl Start {
    /// Resumes after `cursor`. With a cursor of another log, or from beyond this one's tail (after a restore from a
    /// backup), it begins at the oldest kept event, with a gap.
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

    /// Begins at the tail: new events only.
    #[must_use]
    pub fn live(hub: &Hub) -> Self {
        Self { after: hub.tail(), gap: None }
    }
}

/// Events that are no longer available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before the gap, as the subscriber knew it; possibly of another log.
    pub from: Cursor,
    /// The last event in the gap.
    pub to: Cursor,
    /// The cause.
    pub reason: GapReason,
}

/// Why events are no longer available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention dropped them.
    Retention,
    /// The cursor belongs to another log.
    Epoch,
    /// They are damaged on disk.
    Damage,
}

/// Why a subscription ended.
#[derive(Clone, Debug)]
pub enum ClosingReason {
    /// Its `limit` or `until` was reached.
    Complete,
    /// The server is stopping.
    Shutdown,
    /// Its credential was revoked or has expired.
    Unauthorized,
    /// The log can't be read.
    Failed(LogError),
}

/// A message to a subscriber other than events.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Everything up to here was sent; what follows is live. Sent once, and again instead of a heartbeat if the filter
    /// skipped events since.
    CaughtUp(Cursor),
    /// Events are missing.
    Gap(Gap),
    /// Nothing was sent for the heartbeat interval.
    Heartbeat,
    /// The last notice, with the position that the subscriber reached.
    Closing(Cursor, ClosingReason),
}

/// The options of a subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionOptions {
    /// Where to begin.
    pub start: Start,
    /// The events to send.
    pub filter: Filter,
    /// The members of each event to send; `None`: all.
    pub projection: Option<Arc<Projection>>,
    /// The output format.
    pub format: Format,
    /// Whether the stream is compressed with gzip.
    pub gzip: bool,
    /// Ends after this many events.
    pub limit: Option<u64>,
    /// Ends when the tail as of this moment is reached.
    pub until: Option<Instant>,
    /// Silence after which a heartbeat is due.
    pub heartbeat: Option<Duration>,
    /// Cancelled when the credential ends: nothing is sent after that.
    pub credential: Option<CancellationToken>,
}

/// What to do next for a subscriber.
#[derive(Debug)]
pub(super) enum Step {
    /// Send these, then report to [`Reader::sent`].
    Events(Selected),
    /// Send this.
    Notice(Notice),
    /// The next segment is not in memory, or not in the subscriber's encoding: call [`Hub::load`], then
    /// [`Reader::loaded`].
    Load,
    /// Many events were searched and none matches: let other tasks run, then call again.
    Again,
    /// Nothing to do until the tail moves, or until this moment.
    Wait(Option<Instant>),
    /// The subscription has ended.
    End,
}

/// Why the search for events stopped.
enum Halt {
    Tail,
    Absent,
    Enough,
}

/// A cursor over the log, with a filter.
#[derive(Debug)]
pub(super) struct Reader {
    filter: InternedFilter,
    encoding: Encoding,
    gap: Option<(Cursor, GapReason)>,
    /// The position up to which events were sent or skipped.
    cursor: Seq,
    /// The last position sent to the subscriber.
    announced: Seq,
    /// The segment with the next events, if it was in use already.
    current: Option<Held>,
    remaining: u64,
    until: Option<Instant>,
    /// The log's tail as of `until`, once that has passed.
    end: Option<Seq>,
    heartbeat: Option<Duration>,
    credential: Option<CancellationToken>,
    last_output: Instant,
    failure: Option<Box<LogError>>,
    /// Its entry among the readers that have been behind.
    place: Option<Place>,
    caught_up: bool,
    closed: bool,
    /// Keeps the hub encoding new events.
    _listener: Arc<()>,
}

/// A segment, in the subscriber's encoding or the base, and the events that match in it.
#[derive(Debug)]
struct Held {
    segment: Arc<Segment>,
    passing: Passing,
}

impl Held {
    fn of(base: Arc<Segment>, filter: &InternedFilter) -> Self {
        let passing = base.passing(filter);
        Self { segment: base, passing }
    }

    fn has_next(&self, after: Seq) -> bool {
        self.segment.first() <= after.next() && after < self.segment.last()
    }
}

impl Reader {
    pub(super) fn new(hub: &Hub, options: SubscriptionOptions) -> Self {
        Self {
            filter: hub.filters.intern(options.filter),
            encoding: Encoding { format: options.format, projection: options.projection, gzip: options.gzip },
            gap: options.start.gap,
            cursor: options.start.after,
            announced: options.start.after,
            current: None,
            remaining: options.limit.unwrap_or(u64::MAX),
            until: options.until,
            end: None,
            heartbeat: options.heartbeat,
            credential: options.credential,
            last_output: Instant::now(),
            failure: None,
            place: None,
            caught_up: false,
            closed: false,
            _listener: Arc::clone(&hub.listener),
        }
    }

    pub(super) fn filter(&self) -> FilterId {
        self.filter.id()
    }

    pub(super) fn cursor(&self) -> Seq {
        self.cursor
    }

    /// Skips events up to a position that are known not to match the filter.
    pub(super) fn skip_to(&mut self, position: Seq) {
        self.cursor = self.cursor.max(position);
    }

    /// Releases the current segment.
    pub(super) fn shed(&mut self) {
        self.current = None;
    }

    pub(super) fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// The next step as of `now`. `stopping` ends the stream.
    pub(super) fn step(&mut self, hub: &Hub, now: Instant, stopping: bool) -> Step {
        let step = self.next(hub, now, stopping);
        match &step {
            Step::Events(_) | Step::Notice(_) => self.last_output = now,
            Step::Wait(_) => self.place.iter().for_each(Place::at_tail),
            Step::Load | Step::Again | Step::End => {}
        }
        step
    }

    /// Records its position for the lag, as it has to wait for its client or the disk.
    pub(super) fn waits(&mut self, hub: &Hub) {
        match &self.place {
            Some(place) => place.at(self.cursor),
            None => self.place = Some(hub.readers.enter(self.cursor)),
        }
    }

    fn next(&mut self, hub: &Hub, now: Instant, stopping: bool) -> Step {
        if self.closed {
            return Step::End;
        }
        if let Some((from, reason)) = self.gap.take() {
            return Step::Notice(Notice::Gap(Gap { from, to: self.position(hub), reason }));
        }
        if let Some(failure) = self.failure.take() {
            return self.close(hub, ClosingReason::Failed(*failure));
        }
        if self.credential.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return self.close(hub, ClosingReason::Unauthorized);
        }
        if stopping {
            return self.close(hub, ClosingReason::Shutdown);
        }
        if self.is_complete(hub, now) {
            return self.close(hub, ClosingReason::Complete);
        }
        let (selected, halt) = self.search(hub);
        if selected.events > 0 {
            return Step::Events(selected);
        }
        self.cursor = selected.scanned;
        // What was just passed over may have been all.
        if self.is_complete(hub, now) {
            return self.close(hub, ClosingReason::Complete);
        }
        match halt {
            Halt::Tail if !self.caught_up => {
                self.caught_up = true;
                self.announced = self.cursor;
                Step::Notice(Notice::CaughtUp(self.position(hub)))
            }
            halt => self.heartbeat_if_due(hub, now).map_or_else(|| self.halted(&halt), Step::Notice),
        }
    }

    fn halted(&self, halt: &Halt) -> Step {
        match halt {
            Halt::Tail => Step::Wait(self.due()),
            Halt::Absent => Step::Load,
            Halt::Enough => Step::Again,
        }
    }

    /// Collects matching events from segments in memory, up to the limits of one step.
    fn search(&mut self, hub: &Hub) -> (Selected, Halt) {
        let bytes = if self.encoding.gzip { COMPRESSED_BYTES } else { CHUNK_BYTES };
        let room = Room { events: self.remaining, bytes };
        let mut selected = Selected::after(self.cursor);
        for _ in 0..SEGMENTS_AT_ONCE {
            let after = selected.scanned;
            if after >= hub.tail() {
                return (selected, Halt::Tail);
            }
            let held = self.current.take().filter(|held| held.has_next(after));
            let held = held.or_else(|| Some(Held::of(hub.in_memory(after)?, &self.filter)));
            let Some(Held { mut segment, passing }) = held else { return (selected, Halt::Absent) };
            if !segment.any_after(after, &passing) {
                selected.scanned = segment.last();
                if self.has_evaluated_enough(&selected) {
                    break;
                }
                continue;
            }
            if !segment.serves(&self.encoding) {
                match hub.encoded(&segment, &self.encoding) {
                    Some(encoded) => segment = encoded,
                    None => return (selected, Halt::Absent),
                }
            }
            segment.select(&passing, room, &mut selected);
            if selected.scanned < segment.last() {
                self.current = Some(Held { segment, passing });
                break;
            }
            if selected.events >= room.events || selected.bytes >= room.bytes || self.has_evaluated_enough(&selected) {
                break;
            }
        }
        (selected, Halt::Enough)
    }

    fn has_evaluated_enough(&self, selected: &Selected) -> bool {
        self.filter.has_condition() && selected.scanned.0.saturating_sub(self.cursor.0) >= EVALUATED_AT_ONCE
    }

    /// Advances by `bytes` of the [selected](Step::Events) events, which have been sent.
    pub(super) fn sent(&mut self, selected: &Selected, bytes: usize) -> Progress {
        let progress = selected.progress(bytes);
        if bytes >= selected.bytes {
            self.cursor = selected.scanned;
        } else {
            self.cursor = progress.last.unwrap_or(self.cursor);
            let rest = selected.segment_after(self.cursor);
            self.current = rest.map(|(segment, passing)| Held { segment, passing });
        }
        self.announced = progress.last.unwrap_or(self.announced);
        self.remaining = self.remaining.saturating_sub(progress.events);
        progress
    }

    /// Accepts the outcome of [`Hub::load`]. Missing events become a gap.
    pub(super) fn loaded(&mut self, hub: &Hub, loaded: Result<Option<Loaded>, LogError>) {
        match loaded {
            Ok(loaded) => {
                self.current = loaded.map(|Loaded { base, encoded }| {
                    let passing = base.passing(&self.filter);
                    Held { segment: encoded.unwrap_or(base), passing }
                });
            }
            Err(LogError::BelowFloor { floor, .. }) if floor > self.cursor.next() => {
                self.gap = Some((self.position(hub), GapReason::Retention));
                self.cursor = Seq(floor.0.saturating_sub(1));
                self.announced = self.cursor;
            }
            Err(LogError::Damaged { last, .. }) if last > self.cursor => {
                self.gap = Some((self.position(hub), GapReason::Damage));
                self.cursor = last;
                self.announced = self.cursor;
            }
            Err(error) => self.failure = Some(Box::new(error)),
        }
    }

    /// When the next timer is due, whether or not the tail moves.
    fn due(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.and_then(|after| self.last_output.checked_add(after));
        let until = self.until.filter(|_| self.end.is_none());
        [heartbeat, until].into_iter().flatten().min()
    }

    fn heartbeat_if_due(&mut self, hub: &Hub, now: Instant) -> Option<Notice> {
        if self.heartbeat.is_none_or(|after| now.saturating_duration_since(self.last_output) < after) {
            return None;
        }
        // Lines of NDJSON carry no position, so there is none to bring up to date.
        let stale = self.encoding.format == Format::Sse && self.announced < self.cursor;
        if self.caught_up && stale && self.cursor >= hub.tail() {
            self.announced = self.cursor;
            return Some(Notice::CaughtUp(self.position(hub)));
        }
        Some(Notice::Heartbeat)
    }

    fn is_complete(&mut self, hub: &Hub, now: Instant) -> bool {
        if self.end.is_none() && self.until.is_some_and(|until| now >= until) {
            // The log's own tail: what was durable by then belongs to the answer, though the hub may not have it yet.
            self.end = Some(*hub.log.tail().borrow());
        }
        self.remaining == 0 || self.end.is_some_and(|end| self.cursor >= end)
    }

    fn position(&self, hub: &Hub) -> Cursor {
        Cursor { epoch: hub.epoch(), seq: self.cursor }
    }

    fn close(&mut self, hub: &Hub, reason: ClosingReason) -> Step {
        self.closed = true;
        Step::Notice(Notice::Closing(self.position(hub), reason))
    }
}
