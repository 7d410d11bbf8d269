use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::{Instant, sleep};

use super::client::{Connection, Event, Events};
use super::place::Place;
use super::*;
use crate::model::Time;
use crate::source::SourceState;
use crate::source::testing::{Pipeline, Running};

/// A hub in memory, whose links fail as a test scripts.
#[derive(Clone)]
struct Fake(Arc<Mutex<Hub>>);

struct Hub {
    created: i64,
    /// Events by partition; the number of the first that is still available.
    partitions: BTreeMap<String, (Vec<String>, i64)>,
    /// After how many events the next links fail; then they don't.
    links: VecDeque<usize>,
    /// Connections that fail.
    refusals: usize,
    /// Links stay open and deliver nothing.
    mute: bool,
    connections: Vec<Instant>,
}

impl Fake {
    fn new(partitions: usize) -> Self {
        let partitions = (0..partitions).map(|id| (id.to_string(), (Vec::new(), 0))).collect();
        let (links, refusals, mute, connections) = (VecDeque::new(), 0, false, Vec::new());
        Self(Arc::new(Mutex::new(Hub { created: 1, partitions, links, refusals, mute, connections })))
    }

    fn hub(&self) -> std::sync::MutexGuard<'_, Hub> {
        self.0.lock().unwrap()
    }

    /// Appends an event whose record contains the partition and the event's number.
    fn append(&self, partition: &str) {
        let mut hub = self.hub();
        let events = &mut hub.partitions.get_mut(partition).unwrap().0;
        events.push(format!("{{\"time\":\"2026-02-03T04:05:06Z\",\"p\":{partition},\"n\":{}}}", events.len()));
    }

    fn expected(&self, partition: &str) -> Vec<String> {
        self.hub().partitions[partition].0.clone()
    }
}

#[async_trait]
impl Connect for Fake {
    async fn connect(&self) -> Result<Box<dyn Connection>, HubError> {
        let mut hub = self.hub();
        hub.connections.push(Instant::now());
        if hub.refusals > 0 {
            hub.refusals -= 1;
            return Err(HubError::Unavailable("connection refused".to_owned()));
        }
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Connection for Fake {
    async fn properties(&self) -> Result<Properties, HubError> {
        let hub = self.hub();
        Ok(Properties { created: Some(hub.created), partitions: hub.partitions.keys().cloned().collect() })
    }

    async fn ends(&self, partition: &str) -> Result<Ends, HubError> {
        let (events, first) = &self.hub().partitions[partition];
        let last = events.len() as i64 - 1;
        Ok(Ends { first: *first, last, last_offset: offset(last), last_enqueued: Some(Time::from_millis(last)) })
    }

    async fn read(&self, partition: &str, from: &Place) -> Result<Events, HubError> {
        let next = match from {
            Place::Earliest => 0,
            Place::Since { millis } => *millis,
            Place::After { sequence, offset: given } => {
                assert_eq!(*given, offset(*sequence), "the offset belongs to the number");
                sequence + 1
            }
        };
        let (fake, partition) = (self.clone(), partition.to_owned());
        let left = fake.hub().links.pop_front().unwrap_or(usize::MAX);
        Ok(Box::pin(async_stream::stream! {
            let mut next = next;
            for _ in 0..left {
                let event = loop {
                    let found = {
                        let hub = fake.hub();
                        let (events, first) = &hub.partitions[&partition];
                        next = next.max(*first);
                        events.get(next as usize).filter(|_| !hub.mute).cloned()
                    };
                    match found {
                        Some(event) => break event,
                        None => sleep(Duration::from_millis(5)).await,
                    }
                };
                let enqueued = Some(Time::from_millis(next));
                yield Ok(Event { sequence: next, offset: offset(next), enqueued, body: Ok(Bytes::from(event)) });
                next += 1;
            }
            yield Err(HubError::Unavailable("detached".to_owned()));
        }))
    }

    async fn close(self: Box<Self>) {}
}

fn offset(sequence: i64) -> String {
    (sequence * 64).to_string()
}

/// The outcome of the source, and its last position.
type Ended = (Result<(), SourceError>, Option<Bytes>);

fn begin(fake: &Fake, pipeline: &Pipeline) -> Running<Ended> {
    let config = EventHubsConfig { check_secs: 1, ..EventHubsConfig::new("acme", "activity") };
    let clock = Clock::from_fn(|| Time::from_millis(10_000));
    let mut source = EventHubsSource::new("azure".into(), config, pipeline.cursor(), clock);
    source.connect = Some(Arc::new(fake.clone()));
    Running::start("azure", KIND, pipeline, async move |intake, status, stop| {
        let outcome = source.run(intake, status, stop).await;
        (outcome, source.cursor)
    })
}

/// The durable events of a partition, in order.
fn kept(pipeline: &Pipeline, partition: &str) -> Vec<String> {
    let mut texts = pipeline.kept.lock().unwrap().texts();
    texts.retain(|text| text.contains(&format!("\"p\":{partition},")));
    texts
}

#[tokio::test(start_paused = true)]
async fn every_event_once_and_in_order_through_failing_links_and_a_failing_log() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fake = Fake::new(2);
        let mut pipeline = Pipeline::new();
        let (mut total, mut running) = (0, None);
        for _ in 0..6 {
            for _ in 0..random.usize(1..40) {
                fake.append(random.choice(["0", "1"]).unwrap());
                total += 1;
            }
            fake.hub().links.extend([random.usize(0..9), random.usize(0..9)]);
            fake.hub().refusals = random.usize(0..3);
            if random.bool() || running.is_none() {
                // As after a kill: deliveries in flight are lost, and the position is the durable one.
                if let Some(Running { task, .. }) = running.take() {
                    task.abort();
                }
                pipeline = Pipeline::failing_after(random.usize(0..9), Arc::clone(&pipeline.kept));
                running = Some(begin(&fake, &pipeline));
            }
            sleep(Duration::from_millis(random.u64(0..3_000))).await;
        }
        running.unwrap().task.abort();
        pipeline = Pipeline::failing_after(usize::MAX, Arc::clone(&pipeline.kept));
        let running = begin(&fake, &pipeline);
        pipeline.until(|kept| kept.records.len() >= total).await;
        for partition in ["0", "1"] {
            assert_eq!(kept(&pipeline, partition), fake.expected(partition), "seed {seed}");
        }
        running.end_at_once().await.0.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_log_fails_the_source_ends_with_the_position_that_is_durable() {
    let fake = Fake::new(1);
    fake.append("0");
    let pipeline = Pipeline::failing_after(2, Arc::default());
    let running = begin(&fake, &pipeline);
    pipeline.until(|kept| kept.records.len() == 1).await;
    fake.append("0");
    let (outcome, cursor) = running.task.await.unwrap();
    assert!(matches!(outcome, Err(SourceError::Log(_))), "{outcome:?}");
    assert_eq!(cursor, pipeline.cursor());
    assert_eq!(Position::decode(&cursor.unwrap()).unwrap().partitions["0"].sequence(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_gives_nothing_though_events_are_there_is_opened_anew() {
    let fake = Fake::new(1);
    fake.append("0");
    let pipeline = Pipeline::new();
    let running = begin(&fake, &pipeline);
    pipeline.until(|kept| kept.records.len() == 1).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(fake.hub().connections.len(), 2, "a quiet partition is left alone");
    fake.hub().mute = true;
    fake.append("0");
    let status = running.until(|status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("there are events up to number 1"), "{error}");
    assert_eq!(status.state, SourceState::Retrying);
    assert_eq!(status.partitions[0].behind, Some(1));
    fake.hub().mute = false;
    let status = running.until(|status| status.state == SourceState::Running && status.records == 2).await;
    assert_eq!(status.partitions[0].error, None);
    running.until(|status| status.lag_secs == Some(0.0)).await;
    running.end_at_once().await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_stays_away_is_asked_less_and_less() {
    let fake = Fake::new(1);
    fake.hub().refusals = 14;
    let pipeline = Pipeline::new();
    let running = begin(&fake, &pipeline);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(running.status().state, SourceState::Running);
    let waits: Vec<Duration> = fake.hub().connections.windows(2).map(|pair| pair[1] - pair[0]).take(13).collect();
    assert!(waits[0] <= Duration::from_millis(250), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)), "{waits:?}");
    assert!(waits[8..].iter().all(|wait| *wait >= Duration::from_secs(15)), "{waits:?}");
    running.end_at_once().await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_position_of_another_version_is_told() {
    let fake = Fake::new(1);
    let pipeline = Pipeline::new();
    pipeline.kept.lock().unwrap().cursor = Some(Bytes::from_static(b"{}"));
    let (outcome, _) = begin(&fake, &pipeline).task.await.unwrap();
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("acme.servicebus.windows.net/activity: the saved position"), "{error}");
}
