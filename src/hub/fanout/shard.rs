//! One of the tasks that serve streams.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::PlainStream;
use super::ready::{ReadyList, SlotWaker};
use super::slot::{Slot, State, Turn};
use crate::hub::matching::{EVERYTHING, FilterId};
use crate::hub::segment::Heads;
use crate::hub::{Hub, Loaded};
use crate::log::LogError;
use crate::metrics::Metrics;
use crate::model::{Cursor, Seq};

/// Resolution of timers: heartbeats, ends of streams, stalled clients.
const TICK: Duration = Duration::from_millis(100);
/// Turns taken before yielding to other tasks.
const TURNS_AT_ONCE: usize = 32;
/// How long a socket may be blocked before its slot releases shared memory.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// Buffer for what clients send, which is discarded.
const SCRATCH_BYTES: usize = 1024;
/// No timer.
const NEVER: u32 = u32::MAX;

/// The outcome of a load: slot, slot id, segment.
type Answer = (u32, u64, Result<Option<Loaded>, LogError>);

pub(super) struct Shard {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    stalled_after: Duration,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// The tick at which each slot's next timer is due.
    due: Vec<u32>,
    /// Slots that have caught up with the tail, by filter.
    groups: BTreeMap<FilterId, Vec<u32>>,
    /// Slots whose turn is due.
    queue: VecDeque<u32>,
    /// The position up to which every slot in `groups` has been served.
    tail: Seq,
    ready: Arc<ReadyList>,
    loads: JoinSet<Answer>,
    started: Instant,
    next_id: u64,
}

impl Shard {
    pub(super) fn new(hub: Arc<Hub>, stalled_after: Duration, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self {
            tail: hub.tail(),
            hub,
            metrics,
            stop,
            stalled_after,
            slots: Vec::new(),
            free: Vec::new(),
            due: Vec::new(),
            groups: BTreeMap::new(),
            queue: VecDeque::new(),
            ready: Arc::default(),
            loads: JoinSet::new(),
            started: Instant::now(),
            next_id: 0,
        }
    }

    /// Serves arriving streams until the channel is closed and every stream has ended.
    pub(super) async fn run(mut self, mut arrivals: mpsc::Receiver<(TcpStream, PlainStream)>) {
        let (stop, ready, mut tail) = (self.stop.clone(), Arc::clone(&self.ready), self.hub.tail.subscribe());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut open, mut stopping) = (true, false);
        let mut woken = Vec::new();
        while open || self.is_serving() {
            if self.queue.is_empty() {
                tokio::select! {
                    () = stop.cancelled(), if !stopping => {}
                    () = ready.notified() => {}
                    // The hub lives as long as the shard.
                    _ = tail.changed() => {}
                    Some(loaded) = self.loads.join_next() => self.loaded(loaded.ok()),
                    arrived = arrivals.recv(), if open => match arrived {
                        Some((socket, stream)) => self.add(socket, stream),
                        None => open = false,
                    },
                    _ = ticks.tick(), if self.is_serving() => self.tick(),
                }
            } else {
                tokio::task::yield_now().await;
                if ticks_elapsed(&mut ticks) {
                    self.tick();
                }
            }
            if stop.is_cancelled() && !stopping {
                stopping = true;
                self.queue_all();
            }
            for _ in 0..TURNS_AT_ONCE {
                let Ok((socket, stream)) = arrivals.try_recv() else { break };
                self.add(socket, stream);
            }
            while let Some(loaded) = self.loads.try_join_next() {
                self.loaded(loaded.ok());
            }
            ready.take(&mut woken);
            woken.iter().for_each(|index| self.woken(*index));
            self.find_new();
            for _ in 0..TURNS_AT_ONCE {
                let Some(index) = self.queue.pop_front() else { break };
                self.turn(index, stopping);
            }
        }
    }

    fn is_serving(&self) -> bool {
        self.free.len() < self.slots.len()
    }

    fn slot(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    fn add(&mut self, socket: TcpStream, stream: PlainStream) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.due.push(NEVER);
            u32::try_from(self.slots.len() - 1).unwrap_or(NEVER)
        });
        let waker = SlotWaker::new(index, Arc::clone(&self.ready));
        self.next_id += 1;
        let slot = Slot::new(self.next_id, socket, stream, waker);
        let connected = slot.is_connected(&mut [0; SCRATCH_BYTES]);
        if let Some(place) = self.slots.get_mut(index as usize) {
            *place = Some(slot);
        }
        if connected {
            self.queue.push_back(index);
        } else {
            self.remove(index, false);
        }
    }

    fn remove(&mut self, index: u32, reset: bool) {
        let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::take) else { return };
        match slot.state {
            State::AtTail(place) => self.leave_group(slot.filter(), place),
            _ => self.drop_if_empty(slot.filter()),
        }
        self.set_due(index, None);
        self.free.push(index);
        slot.close(reset);
    }

    /// Queues the slots whose filter matches some of the new events.
    fn find_new(&mut self) {
        let target = self.hub.tail();
        while self.tail < target {
            let seen = self.tail;
            match self.hub.in_ring(seen) {
                Some(segment) => {
                    self.queue_interested(segment.heads(), seen);
                    self.tail = segment.last();
                }
                None => {
                    // It fell so far behind, or retention dropped what follows: each slot finds out for itself.
                    self.groups
                        .keys()
                        .copied()
                        .collect::<Vec<_>>()
                        .into_iter()
                        .for_each(|id| self.queue_group(id, seen));
                    self.tail = target;
                }
            }
        }
    }

    fn queue_interested(&mut self, heads: &Heads, seen: Seq) {
        self.queue_group(EVERYTHING, seen);
        let Some(matches) = heads.matches() else { return };
        let late: Vec<FilterId> = self.groups.range(matches.asked_before()..).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.queue_group(id, seen));
        if matches.filters().len() < self.groups.len() {
            matches.filters().for_each(|id| self.queue_group(id, seen));
        } else {
            let hit: Vec<FilterId> = self.groups.keys().copied().filter(|id| matches.hit(*id)).collect();
            hit.into_iter().for_each(|id| self.queue_group(id, seen));
        }
    }

    /// Queues the slots of one filter. No event up to `seen` matches it.
    fn queue_group(&mut self, filter: FilterId, seen: Seq) {
        let Some(group) = self.groups.get_mut(&filter) else { return };
        for index in group.drain(..) {
            if let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut) {
                slot.reader().skip_to(seen);
                slot.state = State::Queued;
                self.queue.push_back(index);
            }
        }
    }

    /// Queues every slot that has caught up.
    fn queue_all(&mut self) {
        let (filters, seen) = (self.groups.keys().copied().collect::<Vec<_>>(), self.tail);
        filters.into_iter().for_each(|id| self.queue_group(id, seen));
    }

    fn join_group(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        let group = self.groups.entry(slot.filter()).or_default();
        slot.state = State::AtTail(u32::try_from(group.len()).unwrap_or(NEVER));
        group.push(index);
    }

    fn leave_group(&mut self, filter: FilterId, place: u32) {
        let Some(group) = self.groups.get_mut(&filter) else { return };
        group.swap_remove(place as usize);
        match group.get(place as usize).copied() {
            Some(moved) => {
                if let Some(slot) = self.slot(moved) {
                    slot.state = State::AtTail(place);
                }
            }
            None => self.drop_if_empty(filter),
        }
    }

    /// Drops a filter's group if it is empty. Queued slots leave an empty group behind, which is reused until the last
    /// of its streams ends.
    fn drop_if_empty(&mut self, filter: FilterId) {
        if self.groups.get(&filter).is_some_and(Vec::is_empty) {
            self.groups.remove(&filter);
        }
    }

    fn turn(&mut self, index: u32, stopping: bool) {
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        if slot.state != State::Queued {
            return;
        }
        match slot.turn(&self.hub, now, stopping) {
            Turn::Again => self.queue.push_back(index),
            Turn::AtTail(until) => {
                self.join_group(index);
                self.set_due(index, until);
            }
            Turn::Blocked if slot.is_writable() => self.queue.push_back(index),
            Turn::Blocked => {
                slot.state = State::Blocked;
                slot.reader().waits(&self.hub);
                self.set_due(index, now.checked_add(SHED_AFTER.min(self.stalled_after)));
            }
            Turn::Load => {
                slot.state = State::Loading;
                slot.reader().waits(&self.hub);
                let (id, hub, (after, encoding)) = (slot.id, Arc::clone(&self.hub), slot.wanted());
                self.loads.spawn(async move { (index, id, hub.load(after, &encoding).await) });
            }
            Turn::Over => self.remove(index, false),
        }
    }

    fn loaded(&mut self, loaded: Option<Answer>) {
        // `None`: the runtime ends.
        let Some((index, id, loaded)) = loaded else { return };
        let hub = Arc::clone(&self.hub);
        let Some(slot) = self.slot(index).filter(|slot| slot.id == id) else { return };
        slot.reader().loaded(&hub, loaded);
        slot.state = State::Queued;
        self.queue.push_back(index);
    }

    /// Handles a socket that became readable, which usually means that the client disconnects, or writable.
    fn woken(&mut self, index: u32) {
        let Some(slot) = self.slot(index) else { return };
        slot.woken();
        if !slot.is_connected(&mut [0; SCRATCH_BYTES]) {
            self.remove(index, false);
        } else if slot.state == State::Blocked && slot.is_writable() {
            slot.state = State::Queued;
            self.queue.push_back(index);
        }
    }

    fn set_due(&mut self, index: u32, moment: Option<Instant>) {
        let tick = moment.map_or(NEVER, |moment| ticks_until(moment.saturating_duration_since(self.started)));
        if let Some(due) = self.due.get_mut(index as usize) {
            *due = tick;
        }
    }

    /// Handles the slots whose timers are due.
    fn tick(&mut self) {
        let now = Instant::now();
        // Rounded down: what is due within this tick comes with the next.
        let tick = u32::try_from(now.saturating_duration_since(self.started).as_millis() / TICK.as_millis());
        let tick = tick.unwrap_or(NEVER - 1);
        let due: Vec<u32> = (0..).zip(&self.due).filter(|(_, due)| **due <= tick).map(|(index, _)| index).collect();
        for index in due {
            self.set_due(index, None);
            let (seen, stalled_after) = (self.tail, self.stalled_after);
            let Some(slot) = self.slot(index) else { continue };
            match slot.state {
                State::AtTail(place) => {
                    slot.reader().skip_to(seen);
                    slot.state = State::Queued;
                    let filter = slot.filter();
                    self.leave_group(filter, place);
                    self.queue.push_back(index);
                }
                State::Blocked => match slot.stalled_at(stalled_after) {
                    Some(moment) if moment <= now => self.let_go(index),
                    moment => {
                        slot.shed();
                        self.set_due(index, moment);
                    }
                },
                State::Queued | State::Loading => {}
            }
        }
    }

    /// Resets a stream whose client has stalled.
    fn let_go(&mut self, index: u32) {
        let epoch = self.hub.epoch();
        let Some(slot) = self.slot(index) else { return };
        let position = Cursor { epoch, seq: slot.reader().cursor() };
        tracing::info!(%position, after = ?self.stalled_after, "stream reset: the client read nothing; it can resume");
        self.metrics.stream_stalled.inc();
        self.remove(index, true);
    }
}

/// The first tick at or after a moment.
fn ticks_until(moment: Duration) -> u32 {
    u32::try_from(moment.as_millis().div_ceil(TICK.as_millis())).unwrap_or(NEVER - 1)
}

/// Whether a tick has elapsed, without waiting.
fn ticks_elapsed(ticks: &mut tokio::time::Interval) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    ticks.poll_tick(&mut context).is_ready()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PATIENCE, World, only};
    use super::*;

    impl Shard {
        fn turn_all(&mut self) {
            while let Some(index) = self.queue.pop_front() {
                self.turn(index, false);
            }
        }
    }

    /// With many distinct filters, the group of each is dropped with its last stream, in whatever state that was.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_left_of_a_filter_whose_stream_goes() {
        let world = World::new(64 << 20, PATIENCE).await;
        let mut shard =
            Shard::new(Arc::clone(&world.hub), PATIENCE, Arc::clone(&world.metrics), CancellationToken::new());
        for in_the_middle in [false, true] {
            let (_client, socket, stream) =
                world.open(0, false, |options| options.filter = only("type", "create")).await;
            shard.add(socket, stream);
            // What is in the log, and that it is caught up.
            shard.turn_all();
            assert_eq!(shard.groups.len(), 1);
            if in_the_middle {
                world.push(3).await;
                shard.find_new();
                assert_eq!(shard.queue.len(), 1, "there is something for it");
            }
            shard.remove(0, false);
            assert!(shard.groups.is_empty() && !shard.is_serving(), "in the middle: {in_the_middle}");
            shard.turn_all();
        }
    }
}
