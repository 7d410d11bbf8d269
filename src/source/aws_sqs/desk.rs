//! Brings messages, objects and deliveries together, in a single loop, so that the ledger and the log have the same
//! order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::SqsSource;
use super::hand::{Hand, Number};
use super::lanes::{Job, Lanes};
use super::ledger::{Key, Ledger};
use super::notice::{self, Notice};
use super::queue::{Message, Redrive};
use crate::metrics::Metrics;
use crate::model::{Origin, RawRecord, Rejected, SourceId, Time};
use crate::source::aws::AwsError;
use crate::source::aws::reader::{Chunk, ObjectReader, Step};
use crate::source::aws::trail_key::{TrailObject, classify};
use crate::source::{Clock, Delivery, Enqueued, Intake, SourceError, SourceState, StatusHandle};

/// Records that arrive within messages are handed over together, up to this many.
const DELIVERY_RECORDS: usize = 500;

/// Chunks buffered between readings and the desk.
const STEPS: usize = 4;

/// How long a message with an unreadable object stays invisible before the next try: at first, and at most.
const FIRST_DELAY: Duration = Duration::from_secs(30);
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// A message with objects that are not handed over yet.
struct Open {
    message: Message,
    /// Number of such objects.
    left: usize,
    /// An object that can't be read, with the error.
    failed: Option<(String, AwsError)>,
}

/// The loop that turns messages into deliveries; see the module.
pub(super) struct Desk {
    source: SourceId,
    queue: String,
    clock: Clock,
    metrics: Arc<Metrics>,
    reader: ObjectReader,
    intake: Intake,
    hand: Hand,
    ledger: Arc<Mutex<Ledger>>,
    redrive: Option<Redrive>,
    max_receives: u32,
    parallel: usize,
    troubles: Troubles,
    handed_over: mpsc::Sender<HandedOver>,
    open: HashMap<Number, Open>,
    lanes: Lanes,
    /// Objects being read, by number of the reading.
    readings: HashMap<u64, Job>,
    tasks: JoinSet<()>,
    last_reading: u64,
}

/// A delivery handed over to the pipeline.
pub(super) struct HandedOver {
    /// `None` if there was nothing to store.
    pending: Option<Enqueued>,
    cursor: Option<Bytes>,
    records: u64,
    newest: Option<Time>,
    /// Messages that are complete with it and can be deleted once it is durable.
    done: Vec<Number>,
}

/// A delivery under construction.
#[derive(Default)]
struct Draft {
    records: Vec<RawRecord>,
    rejected: Vec<Rejected>,
    done: Vec<Number>,
}

impl Desk {
    #[expect(clippy::too_many_arguments, reason = "called once, by the source that makes all of them")]
    pub(super) fn new(
        source: &SqsSource,
        reader: ObjectReader,
        intake: Intake,
        hand: Hand,
        ledger: Arc<Mutex<Ledger>>,
        redrive: Option<Redrive>,
        troubles: Troubles,
        handed_over: mpsc::Sender<HandedOver>,
    ) -> Self {
        let queue = source.config.queue_url.rsplit('/').next().unwrap_or_default();
        Self {
            source: source.id.clone(),
            queue: format!("sqs:{queue}"),
            clock: source.clock.clone(),
            metrics: Arc::clone(&source.metrics),
            reader,
            intake,
            hand,
            ledger,
            redrive,
            max_receives: source.config.max_receives,
            parallel: source.config.parallel_objects,
            troubles,
            handed_over,
            open: HashMap::new(),
            lanes: Lanes::default(),
            readings: HashMap::new(),
            tasks: JoinSet::new(),
            last_reading: 0,
        }
    }

    /// Runs until the pipeline ends.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Vec<(Number, Message)>>) -> Result<(), SourceError> {
        let (sender, mut steps) = mpsc::channel::<(u64, Step)>(STEPS);
        loop {
            self.begin_readings(&sender).await?;
            tokio::select! {
                Some((reading, step)) = steps.recv() => self.step(reading, step).await?,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended {
                        let cause = format!("a reading failed: {error}");
                        return Err(SourceError::Upstream { action: "read an object".to_owned(), cause });
                    }
                }
                Some(received) = messages.recv() => self.take(received, &mut messages).await?,
            }
            self.tell_position();
        }
    }

    fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn begin_readings(&mut self, steps: &mpsc::Sender<(u64, Step)>) -> Result<(), SourceError> {
        while self.readings.len() < self.parallel
            && let Some(job) = self.lanes.next()
        {
            let key = Key::of_object(&job.object);
            let (done, progress) = self.ledger(|ledger| (ledger.is_done(key), ledger.progress(key)));
            if done {
                // Another message named it too.
                let mut draft = Draft::default();
                self.lanes.free(&job.lane);
                self.close_object(&job, &mut draft).await;
                self.hand_over(draft).await?;
                continue;
            }
            self.last_reading += 1;
            let reading = self.reader.clone().read(self.last_reading, job.object.clone(), progress, steps.clone());
            self.tasks.spawn(reading);
            self.readings.insert(self.last_reading, job);
        }
        Ok(())
    }

    /// Processes received messages, and further ones that are waiting.
    async fn take(
        &mut self,
        received: Vec<(Number, Message)>,
        more: &mut mpsc::Receiver<Vec<(Number, Message)>>,
    ) -> Result<(), SourceError> {
        let mut draft = Draft::default();
        let mut next = Some(received);
        while let Some(received) = next {
            for (number, message) in received {
                self.troubles.waited(message.sent);
                self.read_message(number, message, &mut draft);
            }
            next = (draft.records.len() < DELIVERY_RECORDS).then(|| more.try_recv().ok()).flatten();
        }
        // A queue keeps no order; records that arrived together are sorted by time.
        draft.records.sort_by_cached_key(|record| event_time(&record.bytes));
        self.hand_over(draft).await
    }

    fn read_message(&mut self, number: Number, message: Message, draft: &mut Draft) {
        let notices = self.metrics.source_notices.clone();
        let count = |outcome: &str| notices.with_label_values(&[&*self.source.0, outcome]).inc();
        match notice::read(&message.body) {
            Ok(Notice { objects, record, ignored }) => {
                ignored.iter().for_each(|reason| count(reason));
                if let Some(bytes) = record {
                    count("record");
                    draft.records.push(RawRecord { bytes, origin: self.origin(&message) });
                }
                let mut jobs = Vec::new();
                for object in objects {
                    match classify(&object.key) {
                        TrailObject::Log { lane } => {
                            count("log file");
                            let lane = format!("{}/{lane}", object.bucket);
                            jobs.push(Job { message: number, lane, object });
                        }
                        TrailObject::Skipped(reason) => count(reason),
                    }
                }
                self.open_message(number, message, jobs, draft);
            }
            Err(error) => {
                count("not a notice");
                let key = Key::of_message(&message.id);
                if !self.ledger(|ledger| ledger.is_done(key)) {
                    let now = self.clock.now();
                    self.ledger(|ledger| ledger.advance(key, Default::default(), true, true, now.millis()));
                    let (origin, bytes) = (self.origin(&message), message.body);
                    let (code, reason) = ("not_a_notice", error.to_string());
                    draft.rejected.push(Rejected { origin, code, reason, bytes, observed: now });
                }
                self.hand.belongs(number, vec![key]);
                draft.done.push(number);
            }
        }
    }

    fn open_message(&mut self, number: Number, message: Message, jobs: Vec<Job>, draft: &mut Draft) {
        self.hand.belongs(number, jobs.iter().map(|job| Key::of_object(&job.object)).collect());
        let to_read: Vec<Job> =
            self.ledger(|ledger| jobs.into_iter().filter(|job| !ledger.is_done(Key::of_object(&job.object))).collect());
        if to_read.is_empty() {
            draft.done.push(number);
            return;
        }
        self.open.insert(number, Open { message, left: to_read.len(), failed: None });
        to_read.into_iter().for_each(|job| self.lanes.add(job));
    }

    fn origin(&self, message: &Message) -> Origin {
        Origin { source: self.source.clone(), location: format!("{}/{}", self.queue, message.id).into(), index: 0 }
    }

    /// Processes a result of a reading.
    async fn step(&mut self, reading: u64, step: Step) -> Result<(), SourceError> {
        match step {
            Ok(chunk) => self.take_chunk(reading, chunk).await,
            Err(error) => {
                let Some(job) = self.readings.remove(&reading) else { return Ok(()) };
                self.lanes.free(&job.lane);
                self.troubles.tell(&format!("read {}", job.object.location()), &error);
                if let Some(open) = self.open.get_mut(&job.message) {
                    open.failed = Some((job.object.location(), error));
                }
                let mut draft = Draft::default();
                self.close_object(&job, &mut draft).await;
                self.hand_over(draft).await
            }
        }
    }

    async fn take_chunk(&mut self, reading: u64, chunk: Chunk) -> Result<(), SourceError> {
        let Chunk { records, rejected, progress, last } = chunk;
        let mut draft = Draft { records, rejected, done: Vec::new() };
        let Some(job) = self.readings.get(&reading).cloned() else { return Ok(()) };
        let (key, rejects, now) = (Key::of_object(&job.object), !draft.rejected.is_empty(), self.clock.now());
        self.ledger(|ledger| ledger.advance(key, progress, last, rejects, now.millis()));
        if last {
            self.readings.remove(&reading);
            self.lanes.free(&job.lane);
            self.troubles.over(&format!("read {}", job.object.location()));
            self.close_object(&job, &mut draft).await;
        }
        self.hand_over(draft).await
    }

    /// Finishes one object of a message. After the last one, the message is complete, returned to the queue, or given
    /// up.
    async fn close_object(&mut self, job: &Job, draft: &mut Draft) {
        let Some(open) = self.open.get_mut(&job.message) else { return };
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        let Some(Open { message, failed, .. }) = self.open.remove(&job.message) else { return };
        let Some((location, error)) = failed else {
            draft.done.push(job.message);
            return;
        };
        match self.last_try(&message, &error) {
            None => self.hand.give_back(job.message, delay(message.receives)).await,
            Some(fate) => {
                self.metrics.source_notices.with_label_values(&[&*self.source.0, "given up"]).inc();
                let tries = message.receives;
                let reason = format!("{location} can't be read after {tries} tries: {error}; {fate}");
                let (origin, bytes, observed) = (self.origin(&message), message.body, self.clock.now());
                draft.rejected.push(Rejected { origin, code: "unreadable_object", reason, bytes, observed });
                if self.redrive.is_some() {
                    // Received once more, it is moved as the redrive policy says.
                    self.hand.give_back(job.message, Duration::ZERO).await;
                } else {
                    draft.done.push(job.message);
                }
            }
        }
    }

    /// The reason to record if this was the last try of a message; `None` if it will be received again.
    fn last_try(&self, message: &Message, error: &AwsError) -> Option<String> {
        match &self.redrive {
            Some(redrive) if message.receives >= redrive.max_receive_count => {
                Some(format!("its message goes to {}: redrive it from there", redrive.dead_letter_target_arn))
            }
            // A refusal is a mistake in the setup, the same for every object: the message waits until that is fixed.
            None if message.receives >= self.max_receives && !matches!(error, AwsError::Refused { .. }) => {
                Some("its message is deleted: read it with catchment backfill when it can be read".to_owned())
            }
            _ => None,
        }
    }

    async fn hand_over(&mut self, draft: Draft) -> Result<(), SourceError> {
        let Draft { records, rejected, done } = draft;
        let newest = records.last().and_then(|record| event_time(&record.bytes));
        let mut handed_over = HandedOver { pending: None, cursor: None, records: records.len() as u64, newest, done };
        if !records.is_empty() || !rejected.is_empty() {
            let cursor = self.ledger(|ledger| ledger.encode());
            let delivery = Delivery { source: self.source.clone(), records, rejected, cursor: Some(cursor.clone()) };
            handed_over.pending = Some(self.intake.enqueue(delivery).await?);
            handed_over.cursor = Some(cursor);
        } else if handed_over.done.is_empty() {
            return Ok(());
        }
        let ended = |_| SourceError::Log(crate::log::LogError::Closed);
        self.handed_over.send(handed_over).await.map_err(ended)
    }

    fn tell_position(&self) {
        let (in_hand, read, wait) = (self.hand.len(), self.readings.len(), self.lanes.waiting());
        self.troubles.status.update(|status| {
            status.position = Some(format!("{in_hand} messages in hand; {read} objects being read, {wait} waiting"));
        });
    }
}

/// How long a message stays invisible after this many receives.
fn delay(receives: u32) -> Duration {
    FIRST_DELAY.saturating_mul(receives).min(LONGEST_DELAY)
}

/// The `eventTime` of a record, used for order and status only.
fn event_time(record: &[u8]) -> Option<Time> {
    const MEMBER: &[u8] = br#""eventTime":"#;
    let rest = record.get(memmem::find(record, MEMBER)? + MEMBER.len()..)?.trim_ascii_start();
    let text = rest.strip_prefix(b"\"")?;
    std::str::from_utf8(text.get(..memchr::memchr(b'"', text)?)?).ok()?.parse().ok()
}

/// Waits, in order, until deliveries are durable, and then has their messages deleted.
pub(super) struct Settling {
    pub(super) cursor: Arc<Mutex<Option<Bytes>>>,
    pub(super) status: StatusHandle,
    pub(super) durable: mpsc::Sender<Number>,
}

impl Settling {
    /// Runs until the channel is closed.
    pub(super) async fn run(self, mut settling: mpsc::Receiver<HandedOver>) -> Result<(), SourceError> {
        while let Some(HandedOver { pending, cursor, records, newest, done }) = settling.recv().await {
            if let Some(pending) = pending {
                pending.await?;
            }
            if cursor.is_some() {
                *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
            }
            self.status.update(|status| {
                status.records += records;
                status.newest_record = status.newest_record.max(newest);
            });
            for number in done {
                // The deleters end only after this.
                let _ = self.durable.send(number).await;
            }
        }
        Ok(())
    }
}

/// Current failures by action, reported in the source's status. Cheap to clone.
#[derive(Clone)]
pub(super) struct Troubles {
    status: StatusHandle,
    clock: Clock,
    now: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Most failures kept at once; beyond that, another one is dropped.
const MOST_TROUBLES: usize = 64;

impl Troubles {
    pub(super) fn new(status: StatusHandle, clock: Clock) -> Self {
        Self { status, clock, now: Arc::default() }
    }

    pub(super) fn tell(&self, action: &str, error: &AwsError) {
        let error = format!("{action}: {error}");
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.insert(action.to_owned(), error.clone()).as_ref() != Some(&error) {
            tracing::warn!(source = %self.status.source(), error, "retrying");
        }
        if now.len() > MOST_TROUBLES
            && let Some(other) = now.keys().find(|kept| *kept != action).cloned()
        {
            now.remove(&other);
        }
        let at = self.clock.now();
        self.status.update(|status| {
            status.state = SourceState::Retrying;
            status.last_error = Some(error);
            status.last_error_at = Some(at);
        });
    }

    pub(super) fn over(&self, action: &str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.remove(action).is_some() && now.is_empty() {
            self.status.update(|status| status.state = SourceState::Running);
        }
    }

    /// Reports a message's time in the queue as the source's lag.
    fn waited(&self, sent: Option<i64>) {
        let Some(sent) = sent else { return };
        let millis = u32::try_from((self.clock.now().millis() - sent).max(0)).unwrap_or(u32::MAX);
        self.status.update(|status| status.lag_secs = Some(f64::from(millis) / 1_000.0));
    }

    pub(super) fn caught_up(&self) {
        self.status.update(|status| status.lag_secs = Some(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::StatusBoard;

    #[test]
    fn the_newest_failure_is_kept() {
        let status = StatusBoard::default().register("queue".into(), "aws_s3_sqs");
        let troubles = Troubles::new(status, Clock::system());
        let error = AwsError::Unavailable("status 503".to_owned());
        let kept = |action: &str| troubles.now.lock().unwrap().contains_key(action);
        for number in 0..=MOST_TROUBLES {
            let action = format!("read object {:03}", 999 - number);
            troubles.tell(&action, &error);
            assert!(kept(&action), "{action}");
        }
        assert_eq!(troubles.now.lock().unwrap().len(), MOST_TROUBLES);
    }
}
