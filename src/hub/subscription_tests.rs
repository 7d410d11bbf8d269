use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use quick_cache::sync::GuardResult;
use tokio_util::task::TaskTracker;

use super::*;
use crate::hub::EncodedKey;
use crate::hub::reader::*;
use crate::hub::segment::Encoding;
use crate::hub::testing::{TestLog, event, everything, moment};
use crate::hub::{Filter, Format, HubConfig, OneOf, Projection};
use crate::log::EventLog;
use crate::model::{Cursor, Epoch};

const HEARTBEAT: Duration = Duration::from_secs(15);

struct World {
    log: Arc<TestLog>,
    hub: Arc<Hub>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl World {
    fn new(block: usize, ring_bytes: usize) -> Self {
        Self::over(TestLog::new(block), ring_bytes)
    }

    fn over(log: Arc<TestLog>, ring_bytes: usize) -> Self {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let config = HubConfig { ring_bytes, cache_bytes: 1 << 20 };
        let hub = Hub::start(Arc::clone(&log) as Arc<dyn EventLog>, &config, &tracker, stop.clone());
        Self { log, hub, stop, tracker }
    }

    /// Appends events and waits until subscribers can get them.
    async fn push(&self, count: u64) {
        let target = self.log.push(count);
        self.hub.tail.subscribe().wait_for(|tail| *tail >= target).await.unwrap();
    }

    fn at(&self, seq: u64) -> Cursor {
        Cursor { epoch: self.hub.epoch(), seq: Seq(seq) }
    }

    fn subscribe(&self, start: Start, change: impl FnOnce(&mut SubscriptionOptions)) -> Subscription {
        let mut options = SubscriptionOptions { heartbeat: Some(HEARTBEAT), ..everything(start) };
        change(&mut options);
        Subscription::new(Arc::clone(&self.hub), options, self.stop.clone())
    }

    fn from(&self, seq: u64) -> Subscription {
        self.subscribe(Start::resume(&self.hub, self.at(seq)), |_| {})
    }
}

/// The positions in the `id:` lines of SSE text.
fn ids(bytes: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(bytes).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    ids.map(|id| id.parse::<Cursor>().unwrap().seq.0).collect()
}

fn describe(output: &Output) -> String {
    match output {
        Output::Events { bytes, events, .. } => {
            let ids = ids(bytes);
            assert_eq!(ids.len() as u64, *events);
            format!("{}..={}", ids.first().unwrap(), ids.last().unwrap())
        }
        Output::Notice(Notice::CaughtUp(cursor)) => format!("caught up {}", cursor.seq),
        Output::Notice(Notice::Gap(gap)) => format!("gap {} to {} {:?}", gap.from, gap.to, gap.reason),
        Output::Notice(Notice::Heartbeat) => "heartbeat".to_owned(),
        Output::Notice(Notice::Closing(cursor, reason)) => format!("closing {} {reason:?}", cursor.seq),
    }
}

async fn next(subscription: &mut Subscription) -> String {
    match subscription.next().await {
        Some(output) => describe(&output),
        None => "end".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn replay_then_follow() {
    let world = World::new(8, 64 << 20);
    world.push(20).await;
    let mut subscription = world.from(3);
    assert_eq!(next(&mut subscription).await, "4..=20");
    assert_eq!(next(&mut subscription).await, "caught up 20");
    world.push(2).await;
    assert_eq!(next(&mut subscription).await, "21..=22");
    assert_eq!(next(&mut subscription).await, "heartbeat");
    let mut live = world.subscribe(Start::live(&world.hub), |_| {});
    assert_eq!(next(&mut live).await, "caught up 22");
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_starts_on_a_full_log_reads_it_from_there() {
    let log = TestLog::new(8);
    log.push(100);
    let world = World::over(Arc::clone(&log), 64 << 20);
    assert_eq!(next(&mut world.from(0)).await, "1..=100");
    let reads = log.reads();
    for start in [0, 0, 0] {
        assert_eq!(next(&mut world.from(start)).await, "1..=100");
    }
    assert_eq!(log.reads(), reads, "readers share what was read");
}

#[tokio::test(start_paused = true)]
async fn readers_at_the_same_place_wait_for_one_read() {
    let log = TestLog::new(8);
    log.push(1000);
    let world = World::over(Arc::clone(&log), 1);
    let readers = TaskTracker::new();
    for _ in 0..50 {
        let mut subscription = world.from(0);
        readers.spawn(async move { while !next(&mut subscription).await.starts_with("caught") {} });
    }
    readers.close();
    readers.wait().await;
    assert_eq!(log.reads(), 8, "1,000 events are eight pages");
}

#[tokio::test(start_paused = true)]
async fn readers_that_began_apart_share_reads_after_a_page() {
    let log = TestLog::new(8);
    log.push(1000);
    let world = World::over(Arc::clone(&log), 64 << 20);
    let read_all = async |from: u64| {
        let mut subscription = world.from(from);
        while !next(&mut subscription).await.starts_with("caught") {}
    };
    read_all(0).await;
    let before = log.reads();
    for from in [1, 50, 99, 120] {
        read_all(from).await;
    }
    assert_eq!(log.reads() - before, 4, "one read each, up to where the pages meet");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_in_silence_only_and_carry_the_position_past_what_was_filtered_out() {
    let world = World::new(8, 64 << 20);
    let filter = Filter::parse("p", |name| (name == "type").then(|| "create".to_owned())).unwrap();
    let mut subscription = world.subscribe(Start::live(&world.hub), |options| options.filter = filter);
    assert_eq!(next(&mut subscription).await, "caught up 0");
    let began = Instant::now();
    assert_eq!(next(&mut subscription).await, "heartbeat");
    assert_eq!(began.elapsed().as_secs(), HEARTBEAT.as_secs());
    world.push(2).await;
    assert_eq!(next(&mut subscription).await, "caught up 2", "updates and deletes only: the position moves");
    assert_eq!(next(&mut subscription).await, "heartbeat");
    world.push(1).await;
    assert_eq!(next(&mut subscription).await, "3..=3");
    assert_eq!(next(&mut subscription).await, "heartbeat");
}

#[tokio::test(start_paused = true)]
async fn a_lost_position_is_told_and_the_stream_goes_on_from_the_floor() {
    let world = World::new(8, 1);
    world.push(30).await;
    world.log.drop_before(Seq(11));
    let mut subscription = world.from(4);
    assert_eq!(next(&mut subscription).await, "gap abc.4 to abc.10 Retention");
    assert_eq!(next(&mut subscription).await, "11..=30");
    let other = Cursor { epoch: Epoch(7), seq: Seq(99) };
    let mut subscription = world.subscribe(Start::resume(&world.hub, other), |_| {});
    assert_eq!(next(&mut subscription).await, "gap 7.99 to abc.10 Epoch");
    assert_eq!(next(&mut subscription).await, "11..=30");
    let mut subscription = world.from(31);
    assert_eq!(next(&mut subscription).await, "gap abc.31 to abc.10 Epoch", "beyond the tail");
    assert_eq!(Start::resume(&world.hub, world.at(10)).gap, None);
    assert_eq!(Start::resume(&world.hub, world.at(30)).gap, None);
}

#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_a_reader_is_told() {
    let world = World::new(1, 1);
    world.push(400).await;
    let mut subscription = world.subscribe(Start::resume(&world.hub, world.at(0)), |options| options.limit = Some(400));
    assert_eq!(next(&mut subscription).await, "1..=127", "up to the end of the page");
    world.log.drop_before(Seq(201));
    assert_eq!(next(&mut subscription).await, "gap abc.127 to abc.200 Retention");
    assert!(next(&mut subscription).await.starts_with("201..="));
}

#[tokio::test(start_paused = true)]
async fn retention_that_overtakes_the_hub_is_told_to_live_readers() {
    let world = World::new(1, 1 << 20);
    world.push(5).await;
    let mut live = world.subscribe(Start::live(&world.hub), |_| {});
    assert_eq!(next(&mut live).await, "caught up 5");
    world.log.push(10);
    world.log.drop_before(Seq(12));
    assert_eq!(next(&mut live).await, "gap abc.5 to abc.11 Retention");
    assert_eq!(next(&mut live).await, "12..=15");
}

#[tokio::test(start_paused = true)]
async fn limit_and_until_end_a_read() {
    let world = World::new(8, 64 << 20);
    world.push(20).await;
    let start = Start::resume(&world.hub, world.at(0));
    let mut limited = world.subscribe(start, |options| options.limit = Some(5));
    assert_eq!(next(&mut limited).await, "1..=5");
    assert_eq!(next(&mut limited).await, "closing 5 Complete");
    assert_eq!(next(&mut limited).await, "end");

    let mut past = world.subscribe(start, |options| {
        options.until = Some(Instant::now());
        options.filter.until = Some(moment(11));
    });
    assert_eq!(next(&mut past).await, "1..=10");
    assert_eq!(next(&mut past).await, "closing 20 Complete");

    let began = Instant::now();
    let mut future = world.subscribe(Start::live(&world.hub), |options| {
        options.until = Some(began + Duration::from_secs(10));
    });
    assert_eq!(next(&mut future).await, "caught up 20");
    assert_eq!(next(&mut future).await, "closing 20 Complete");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_bounded_read_waits_for_what_is_durable_and_not_yet_framed() {
    let world = World::new(4, 1 << 20);
    world.push(5).await;
    world.log.push(2);
    assert_eq!(world.hub.tail(), Seq(5), "the hub has not looked yet");
    let mut read = world.subscribe(Start::resume(&world.hub, world.at(0)), |options| {
        options.until = Some(Instant::now());
    });
    let mut outputs = Vec::new();
    while let Some(output) = read.next().await {
        outputs.push(describe(&output));
    }
    assert_eq!(outputs.last().unwrap(), "closing 7 Complete", "{outputs:?}");
    assert!(outputs.iter().any(|output| output.ends_with("..=7")), "{outputs:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_stream_in_replay_and_at_the_tail() {
    let world = World::new(8, 64 << 20);
    world.push(20).await;
    let (mut replaying, mut waiting) = (world.from(0), world.from(20));
    assert_eq!(next(&mut waiting).await, "caught up 20");
    let began = Instant::now();
    let stop = world.stop.clone();
    let ((), last) = tokio::join!(async { stop.cancel() }, next(&mut waiting));
    assert_eq!(last, "closing 20 Shutdown");
    assert_eq!(next(&mut replaying).await, "closing 0 Shutdown");
    assert_eq!(began.elapsed(), Duration::ZERO);
    world.tracker.close();
    world.tracker.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_disk_closes_readers_and_the_hub_recovers() {
    let world = World::new(8, 1);
    world.push(19).await;
    world.push(1).await;
    let _listening = world.from(20);
    world.log.fail(true);
    assert!(next(&mut world.from(0)).await.starts_with("closing 0 Failed"));
    world.log.push(1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!world.hub.is_following());
    world.log.fail(false);
    world.push(1).await;
    tokio::task::yield_now().await;
    assert!(world.hub.is_following());
    assert_eq!(next(&mut world.from(0)).await, "1..=22");
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_nobody_listens_is_not_encoded_and_is_had_from_the_log() {
    let world = World::new(64, 64 << 20);
    world.push(5).await;
    assert_eq!((world.hub.tail(), world.hub.in_ring(Seq(0)).is_some()), (Seq(5), false));
    let mut early = world.from(2);
    world.push(3).await;
    assert!(world.hub.in_ring(Seq(5)).is_some(), "somebody listens");
    assert_eq!(next(&mut early).await, "3..=8");
    drop(early);
    world.push(1).await;
    assert!(world.hub.in_ring(Seq(8)).is_none());
    let mut late = world.from(7);
    assert_eq!((next(&mut late).await, next(&mut late).await), ("8..=8".to_owned(), "9..=9".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn projections_are_made_once_for_all() {
    let world = World::new(64, 64 << 20);
    world.push(50).await;
    let projection = Arc::new(Projection::parse(Some("raw"), None).unwrap().unwrap());
    let mut texts = Vec::new();
    for _ in 0..2 {
        let mut subscription = world.subscribe(Start::resume(&world.hub, world.at(0)), |options| {
            options.projection = Some(Arc::clone(&projection));
            // Several are copied together; one goes out as it lies in the shared segment.
            options.limit = Some(1);
        });
        let Some(Output::Events { bytes, events: 1, .. }) = subscription.next().await else { panic!("no events") };
        assert!(!String::from_utf8_lossy(&bytes).contains("\"raw\""));
        texts.push(bytes);
    }
    assert_eq!(texts[0].as_ptr(), texts[1].as_ptr(), "both readers got the same bytes");
}

/// Whoever is at it may need the thread that asks to get on.
#[tokio::test]
async fn what_another_encodes_is_not_waited_for_on_the_spot() {
    let world = World::new(8, 64 << 20);
    let _listener = world.from(0);
    world.push(1).await;
    let base = world.hub.in_ring(Seq(0)).unwrap();
    let encoding = Encoding { format: Format::Ndjson, projection: None, gzip: false };
    let key = EncodedKey { first: base.first(), last: base.last(), encoding: encoding.clone() };
    let GuardResult::Guard(another) = world.hub.encoded.get_value_or_guard(&key, None) else { panic!("it is there") };
    let hub = Arc::clone(&world.hub);
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || answer.send(hub.encoded(&base, &encoding).is_none()));
    assert_eq!(answered.recv_timeout(Duration::from_secs(20)), Ok(true), "the thread waits");

    let start = Start::resume(&world.hub, world.at(0));
    let mut subscription = world.subscribe(start, |options| options.format = Format::Ndjson);
    let mut output = std::pin::pin!(subscription.next());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut output).await.is_err(), "it waits");
    drop(another);
    assert!(matches!(output.await, Some(Output::Events { events: 1, .. })));
}

/// A thousand readers that come back at once have a queue at the disk; who is at the tail is not in it.
#[tokio::test(start_paused = true)]
async fn what_is_new_does_not_wait_for_those_that_replay() {
    let world = World::new(8, 64 << 20);
    let mut live = world.subscribe(Start::live(&world.hub), |_| {});
    assert_eq!(next(&mut live).await, "caught up 0");
    let replaying = world.hub.reads.acquire_many(u32::try_from(crate::hub::CONCURRENT_READS).unwrap()).await.unwrap();
    world.log.push(3);
    let got = tokio::time::timeout(HEARTBEAT / 2, next(&mut live)).await;
    assert_eq!(got.as_deref(), Ok("1..=3"));
    drop(replaying);
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_matches_nothing_gives_others_their_turn() {
    let world = World::new(64, 64 << 20);
    let _who_listens = world.subscribe(Start::live(&world.hub), |_| {});
    world.push(2_000).await;
    let nothing = |name| (name == "where").then(|| "asset.type == 'none'".to_owned());
    let steps = |filter| {
        let options = SubscriptionOptions { filter, ..everything(Start::resume(&world.hub, world.at(0))) };
        let mut reader = crate::hub::reader::Reader::new(&world.hub, options);
        let again = || matches!(reader.step(&world.hub, Instant::now(), false), Step::Again);
        std::iter::repeat_with(again).take_while(|again| *again).count()
    };
    assert_eq!(steps(Filter::parse("io.catchment", nothing).unwrap()), 3);
    let by_head = |name| (name == "account").then(|| "none".to_owned());
    assert_eq!(steps(Filter::parse("io.catchment", by_head).unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn one_event_is_read_by_position() {
    let world = World::new(8, 1);
    world.push(20).await;
    world.log.drop_before(Seq(11));
    let events = world.hub.events(vec![Seq(20), Seq(3), Seq(11), Seq(21)]).await.unwrap();
    assert_eq!(events, vec![(Seq(20), event(20).json), (Seq(11), event(11).json)]);
}

#[test]
fn one_of_is_exact() {
    let list = OneOf::parse("x", "b,a").unwrap();
    assert!(list.contains("a") && list.contains("b") && !list.contains("ab") && !list.contains(""));
}

/// A reader's plan: when it joins, how slow it is, how often it drops its connection and resumes.
#[derive(Clone, Debug)]
struct Reader {
    joins_ms: u64,
    pause_ms: u64,
    drops_every: usize,
    filtered: bool,
}

fn readers() -> impl Strategy<Value = Vec<Reader>> {
    // No pause of 0 ms: a reader that reconnects without any would keep the paused clock from ever moving.
    let reader = (0..300_u64, 1..40_u64, 1..6_usize, any::<bool>());
    let reader = reader.prop_map(|(joins_ms, pause_ms, drops_every, filtered)| Reader {
        joins_ms,
        pause_ms,
        drops_every,
        filtered,
    });
    prop::collection::vec(reader, 1..8)
}

/// Reads until everything is there, resuming as an SSE client does: from the last `id:` it saw. Panics on a double, on
/// disorder, and on an event that is missing although no gap was told.
async fn read_all(world: &World, reader: &Reader, total: u64) {
    tokio::time::sleep(Duration::from_millis(reader.joins_ms)).await;
    let wanted = |seq: u64| !reader.filtered || seq.is_multiple_of(3);
    let mut missing: BTreeSet<u64> = (1..=total).filter(|seq| wanted(*seq)).collect();
    let mut last = 0;
    while !missing.is_empty() {
        let mut subscription = world.subscribe(Start::resume(&world.hub, world.at(last)), |options| {
            if reader.filtered {
                options.filter = Filter::parse("p", |name| (name == "type").then(|| "create".to_owned())).unwrap();
            }
        });
        for _ in 0..reader.drops_every {
            tokio::time::sleep(Duration::from_millis(reader.pause_ms)).await;
            match subscription.next().await.unwrap() {
                Output::Events { bytes, .. } => {
                    for id in ids(&bytes) {
                        assert!(id > last, "{id} after {last}");
                        assert!(missing.remove(&id), "{id} twice, or not wanted");
                        last = id;
                    }
                }
                Output::Notice(Notice::Gap(gap)) => {
                    // Further on than the last event it got only by what the filter let pass.
                    assert!(gap.from.seq.0 == last || reader.filtered && gap.from.seq.0 > last, "{gap:?} after {last}");
                    missing.retain(|seq| *seq <= gap.from.seq.0 || *seq > gap.to.seq.0);
                    last = gap.to.seq.0;
                }
                Output::Notice(Notice::CaughtUp(cursor)) => last = cursor.seq.0,
                Output::Notice(Notice::Heartbeat) => {}
                Output::Notice(Notice::Closing(_, reason)) => panic!("{reason:?}"),
            }
            assert!(missing.first().is_none_or(|first| *first > last), "{missing:?} skipped in silence by {last}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_silent_gap_and_no_double(
        readers in readers(),
        block in 1..40_usize,
        ring_bytes in prop_oneof![Just(1_usize), Just(20_000), Just(1 << 26)],
        steps in prop::collection::vec((1..60_u64, 0..30_u64, prop::option::of(1..80_u64)), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new(block, ring_bytes);
            let total = steps.iter().map(|(count, ..)| count).sum();
            let produce = async {
                for (count, pause_ms, keep) in &steps {
                    world.push(*count).await;
                    if let Some(keep) = keep {
                        let floor = world.hub.tail().0.saturating_sub(*keep) + 1;
                        world.log.drop_before(Seq(floor.max(world.log.floor().0)));
                    }
                    tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
                }
            };
            let reading = readers.iter().map(|reader| read_all(&world, reader, total));
            let reading = async {
                let mut pending: Vec<_> = reading.map(Box::pin).collect();
                std::future::poll_fn(|context| {
                    pending.retain_mut(|reader| reader.as_mut().poll(context).is_pending());
                    if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
            };
            tokio::join!(produce, reading);
        });
    }
}
