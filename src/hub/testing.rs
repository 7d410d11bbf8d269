//! A small log for tests: everything in memory, blocks of a chosen length, retention by hand.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

pub(crate) use super::gzip::testing::decode as gunzip;
use super::{Filter, Format, Start, SubscriptionOptions};
use crate::log::{Batch, Block, EventLog, LogError, NewEvent, Pending, QuarantineSize, Quarantined, Retention};
use crate::model::{Action, AssetName, Epoch, EventHead, Seq, SourceId, Time};

/// The test event with a number: create, update and delete in turn, on one of ten assets, a minute after the one
/// before.
pub(crate) fn event(number: u64) -> NewEvent {
    let action = match number % 3 {
        0 => Action::Create,
        1 => Action::Update,
        _ => Action::Delete,
    };
    let name = format!("asset://aws/123837392027/us-east-1/ec2/security-group/sg-{}", number % 10);
    let time = moment(number);
    let json = format!(
        r#"{{"specversion":"1.0","id":"e-{number}:0","source":"//aws/123837392027/us-east-1","type":"io.catchment.asset.{action}","subject":"{name}","time":"{time}","data":{{"action":"{action}","asset":{{"name":"{name}","type":"network.security_group","provider":"aws","account":"123837392027","region":"us-east-1"}},"attribution":{{"method":"cli","principal":{{"name":"jane"}}}},"observed":"{time}","raw":{{"n":{number}}}}}}}"#,
        action = action.as_str(),
    );
    NewEvent { head: EventHead::parse(json.as_bytes()).unwrap(), json: Bytes::from(json) }
}

/// A subscription to every event from `start` on, as SSE without heartbeats and without an end.
pub(crate) fn everything(start: Start) -> SubscriptionOptions {
    SubscriptionOptions {
        start,
        filter: Filter::default(),
        projection: None,
        format: Format::Sse,
        gzip: false,
        limit: None,
        until: None,
        heartbeat: None,
        credential: None,
    }
}

/// The time of a test event.
pub(crate) fn moment(number: u64) -> Time {
    Time::from_millis(1_688_990_000_000 + i64::try_from(number).unwrap() * 60_000)
}

/// Consecutive test events as one block.
pub(crate) fn block(first: u64, count: u64) -> Block {
    to_block(Seq(first), (first..first + count).map(event))
}

fn to_block(first: Seq, events: impl Iterator<Item = NewEvent>) -> Block {
    let (mut heads, mut lines) = (Vec::new(), Vec::new());
    for event in events {
        heads.push(event.head);
        lines.extend_from_slice(&event.json);
        lines.push(b'\n');
    }
    Block { first, heads, lines: lines.into() }
}

pub(crate) struct TestLog {
    epoch: Epoch,
    state: Mutex<State>,
    tail: watch::Sender<Seq>,
    block: usize,
}

#[derive(Default)]
struct State {
    events: Vec<NewEvent>,
    floor: usize,
    quarantined: Vec<Quarantined>,
    reads: usize,
    failing: bool,
}

impl TestLog {
    /// An empty log with blocks of at most `block` events.
    pub(crate) fn new(block: usize) -> Arc<Self> {
        Arc::new(Self { epoch: Epoch(0xabc), state: Mutex::default(), tail: watch::Sender::new(Seq(0)), block })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Appends the next `count` events and returns the tail.
    pub(crate) fn push(&self, count: u64) -> Seq {
        let mut state = self.state();
        let from = state.events.len() as u64 + 1;
        state.events.extend((from..from + count).map(event));
        let tail = Seq(state.events.len() as u64);
        drop(state);
        self.tail.send_replace(tail);
        tail
    }

    /// Drops the events before a position.
    pub(crate) fn drop_before(&self, floor: Seq) {
        self.state().floor = usize::try_from(floor.0 - 1).unwrap();
    }

    pub(crate) fn set_quarantine(&self, records: Vec<Quarantined>) {
        self.state().quarantined = records;
    }

    /// Makes reads fail, or work again.
    pub(crate) fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// How often the log was read.
    pub(crate) fn reads(&self) -> usize {
        self.state().reads
    }
}

impl EventLog for TestLog {
    fn append(&self, _: Batch) -> Result<Pending, LogError> {
        Err(LogError::Closed)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn floor(&self) -> Seq {
        Seq(self.state().floor as u64 + 1)
    }

    fn tail(&self) -> watch::Receiver<Seq> {
        self.tail.subscribe()
    }

    fn read(&self, after: Seq, max_bytes: usize) -> Result<Vec<Block>, LogError> {
        let mut state = self.state();
        state.reads += 1;
        if state.failing {
            return Err(LogError::Storage { action: "read", path: "/data".to_owned(), cause: "disk".to_owned() });
        }
        let start = usize::try_from(after.0).unwrap();
        if start < state.floor {
            return Err(LogError::BelowFloor { after, floor: Seq(state.floor as u64 + 1) });
        }
        let (mut blocks, mut bytes, mut first) = (Vec::new(), 0, start / self.block * self.block);
        while first < state.events.len() && (blocks.is_empty() || bytes < max_bytes) {
            let end = (first + self.block).min(state.events.len());
            let begin = first.max(state.floor);
            let block = to_block(Seq(begin as u64 + 1), state.events[begin..end].iter().cloned());
            bytes += block.lines.len();
            blocks.push(block);
            first = end;
        }
        Ok(blocks)
    }

    fn find(&self, id: &str) -> Result<Option<Seq>, LogError> {
        let state = self.state();
        let found = state.events.iter().position(|event| event.head.id == id).filter(|index| *index >= state.floor);
        Ok(found.map(|index| Seq(index as u64 + 1)))
    }

    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError> {
        let state = self.state();
        let index = state.events.partition_point(|event| event.head.observed < observed).max(state.floor);
        Ok(Seq(index as u64 + 1))
    }

    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError> {
        let state = self.state();
        let kept = state.events.iter().enumerate().skip(state.floor).filter(|(_, event)| event.head.asset == *asset);
        let mut found: Vec<Seq> = kept.map(|(index, _)| Seq(index as u64 + 1)).collect();
        found.retain(|seq| before.is_none_or(|before| *seq < before));
        found.reverse();
        found.truncate(limit);
        Ok(found)
    }

    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError> {
        let history = self.history(asset, None, limit)?;
        let state = self.state();
        let time = |seq: &Seq| state.events[usize::try_from(seq.0 - 1).unwrap()].head.time;
        Ok(history.iter().map(|seq| (*seq, time(seq))).collect())
    }

    fn for_each_asset(&self, _: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError> {
        Ok(())
    }

    fn for_each_correlation(&self, _: &str, _: &mut dyn FnMut(Bytes)) -> Result<(), LogError> {
        Ok(())
    }

    fn cursor(&self, _: &SourceId) -> Result<Option<Bytes>, LogError> {
        Ok(None)
    }

    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError> {
        let state = self.state();
        Ok(state.quarantined.iter().filter(|one| one.number > after).take(limit).cloned().collect())
    }

    fn quarantine_size(&self) -> QuarantineSize {
        let state = self.state();
        let (records, last) = (state.quarantined.len() as u64, state.quarantined.iter().map(|one| one.number).max());
        QuarantineSize { records, bytes: 0, last: last.unwrap_or(0) }
    }

    fn set_retention(&self, _: Retention) {}

    fn retain(&self, _: Time) -> Result<(), LogError> {
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.state().events.iter().map(|event| event.json.len() as u64).sum()
    }

    fn disk_bytes(&self) -> Result<u64, LogError> {
        Ok(self.size_bytes())
    }

    fn close(&self) {}
}
