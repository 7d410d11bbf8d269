//! Over real sockets: what clients get of a log that grows, whatever they and the log do meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

use super::*;
use crate::hub::testing::{TestLog, everything};
use crate::hub::{Filter, HubConfig, Start, SubscriptionOptions};
use crate::log::EventLog;
use crate::model::{Cursor, Seq};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct World {
    log: Arc<TestLog>,
    pub(super) hub: Arc<Hub>,
    pub(super) metrics: Arc<Metrics>,
    fan_out: FanOut,
    streams: Arc<Semaphore>,
    connecting: tokio::sync::Mutex<()>,
    listener: TcpListener,
    address: SocketAddr,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl World {
    pub(super) async fn new(ring_bytes: usize, stalled_after: Duration) -> Self {
        let (log, stop, tracker) = (TestLog::new(8), CancellationToken::new(), TaskTracker::new());
        let events = Arc::clone(&log) as Arc<dyn EventLog>;
        let config = HubConfig { ring_bytes, cache_bytes: 1 << 20 };
        let hub = Hub::start(events, &config, &tracker, stop.clone());
        let metrics = Arc::new(Metrics::new().unwrap());
        let config = FanOutConfig { stalled_after, shards: NonZeroUsize::new(2).unwrap() };
        let fan_out = FanOut::start(&hub, &config, &metrics, &tracker, &stop);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let streams = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self {
            log,
            hub,
            metrics,
            fan_out,
            streams,
            connecting: tokio::sync::Mutex::default(),
            listener,
            address,
            stop,
            tracker,
        }
    }

    pub(super) async fn push(&self, count: u64) {
        let target = self.log.push(count);
        self.hub.tail.subscribe().wait_for(|tail| *tail >= target).await.unwrap();
    }

    /// A client that reads from a position on; the server's side is in the hands of the shards. With small buffers it
    /// is often cut off in the middle of an event.
    async fn connect(&self, after: u64, small: bool, change: impl FnOnce(&mut SubscriptionOptions)) -> Client {
        let (client, served, stream) = self.open(after, small, change).await;
        self.fan_out.serve(served, stream).await.unwrap();
        client
    }

    /// The two ends of a connection, and the stream that is to be served on it.
    pub(super) async fn open(
        &self,
        after: u64,
        small: bool,
        change: impl FnOnce(&mut SubscriptionOptions),
    ) -> (Client, TcpStream, PlainStream) {
        let cursor = Cursor { epoch: self.hub.epoch(), seq: Seq(after) };
        let mut options = everything(Start::resume(&self.hub, cursor));
        change(&mut options);
        let wire = Wire::new(options.format, options.limit.is_some(), options.gzip);
        let socket = TcpSocket::new_v4().unwrap();
        if small {
            socket.set_recv_buffer_size(2_048).unwrap();
        }
        // One at a time, so that what is accepted is what was connected.
        let turn = self.connecting.lock().await;
        let socket = socket.connect(self.address).await.unwrap();
        let (served, _) = self.listener.accept().await.unwrap();
        drop(turn);
        if small {
            SockRef::from(&served).set_send_buffer_size(4_096).unwrap();
        }
        let permit = || Arc::clone(&self.streams).try_acquire_owned().unwrap();
        let open = OpenStream::new(Arc::clone(&self.metrics), [permit(), permit()]);
        let subscription = Subscription::new(Arc::clone(&self.hub), options, self.stop.clone());
        let client = Client { socket, got: Vec::new(), last: after, gaps: Vec::new(), ended: false };
        (client, served, PlainStream::new(subscription, wire, open))
    }

    async fn eventually(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < PATIENCE, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(super) fn only(name: &'static str, value: &'static str) -> Filter {
    Filter::parse("p", |parameter| (parameter == name).then(|| value.to_owned())).unwrap()
}

/// Undoes the chunks, and the frames within; panics on anything that is not as it must be.
pub(super) struct Client {
    socket: TcpStream,
    got: Vec<u8>,
    /// The position that it would resume from.
    last: u64,
    gaps: Vec<(u64, u64)>,
    ended: bool,
}

impl Client {
    /// Reads once. Gives the events that have come whole; `None` when the connection has ended.
    async fn read(&mut self, at_most: usize) -> Option<Vec<u64>> {
        let mut buffer = vec![0; at_most];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("something comes");
        let read = read.unwrap_or(0);
        self.got.extend_from_slice(&buffer[..read]);
        let mut events = Vec::new();
        while let Some(text) = self.chunk() {
            if text.starts_with("retry:") || text.starts_with(": ") {
                continue;
            }
            let id = text.lines().find_map(|line| line.strip_prefix("id: abc.")).expect("an id").parse().unwrap();
            if text.contains("\nevent: gap\n") {
                let (_, from) = text.split_once(r#""from":"abc."#).unwrap();
                self.gaps.push((from.split('"').next().unwrap().parse().unwrap(), id));
            } else if text.contains("\nevent: ") {
                assert!(id >= self.last, "{text}");
            } else {
                assert!(text.contains(&format!(r#""id":"e-{id}:0""#)), "{text}");
                assert!(id > self.last, "{id} after {}", self.last);
                events.push(id);
            }
            self.last = id;
        }
        (read > 0).then_some(events)
    }

    fn chunk(&mut self) -> Option<String> {
        let head = self.got.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&self.got[..head]).unwrap(), 16).unwrap();
        let end = head + 2 + length + 2;
        if self.got.len() < end {
            return None;
        }
        assert!(!self.ended, "something follows the last chunk");
        let bytes: Vec<u8> = self.got.drain(..end).collect();
        assert_eq!(&bytes[end - 2..], b"\r\n");
        self.ended = length == 0;
        (length > 0).then(|| String::from_utf8(bytes[head + 2..end - 2].to_vec()).unwrap())
    }

    /// Reads on until everything up to a position has come.
    async fn read_to(&mut self, position: u64) -> Vec<u64> {
        let mut events = Vec::new();
        while self.last < position {
            events.extend(self.read(64 * 1024).await.expect("the stream goes on"));
        }
        events
    }
}

/// Reads all events up to `total`, with pauses, in pieces, over connections that it drops and resumes. Panics on a double,
/// on disorder, and on an event that is missing though no gap was told.
async fn read_all(world: &World, seed: u64, total: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    // One of how many events it wants.
    let one_of = [1, 1, 3, 10][random.usize(..4)];
    let wanted = |seq: u64| seq.is_multiple_of(one_of);
    let mut missing: BTreeSet<u64> = (1..=total).filter(|seq| wanted(*seq)).collect();
    let mut last = 0;
    while !missing.is_empty() {
        let small = random.bool();
        let mut client = world
            .connect(last, small, |options| {
                options.filter = match one_of {
                    3 => only("type", "create"),
                    10 => only("asset", "asset://aws/123837392027/us-east-1/ec2/security-group/sg-0"),
                    _ => Filter::default(),
                }
            })
            .await;
        for _ in 0..random.usize(1..60) {
            let Some(events) = client.read(random.usize(1..20_000)).await else { panic!("the stream ended") };
            for (from, to) in client.gaps.drain(..) {
                missing.retain(|seq| *seq <= from || *seq > to);
            }
            for event in events {
                assert!(missing.remove(&event), "{event} twice, or not wanted");
            }
            last = client.last;
            assert!(missing.first().is_none_or(|first| *first > last), "{:?} skipped by {last}", missing.first());
            if missing.is_empty() {
                break;
            }
            if random.u8(..) < 32 {
                tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_silent_gap_and_no_double_while_clients_come_and_go() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    // From one that holds next to nothing, so that most is read back from the log, to one that holds all.
    for ring_bytes in [1, 60_000, 64 << 20] {
        let world = Arc::new(World::new(ring_bytes, PATIENCE).await);
        let (total, readers) = (4_000, TaskTracker::new());
        let reading: Vec<_> = (0..24)
            .map(|_| {
                let (world, seed) = (Arc::clone(&world), random.u64(..));
                readers.spawn(async move { read_all(&world, seed, total).await })
            })
            .collect();
        let mut pushed = 0;
        while pushed < total {
            let most = [3, 40][random.usize(..2)];
            let count = random.u64(1..most).min(total - pushed);
            world.push(count).await;
            pushed += count;
            if random.u8(..) < 16 {
                let keep = random.u64(50..600);
                world.log.drop_before(Seq(pushed.saturating_sub(keep).max(world.log.floor().0)));
            }
            tokio::time::sleep(Duration::from_millis(random.u64(0..4))).await;
        }
        for reader in reading {
            reader.await.unwrap_or_else(|error| panic!("seed {seed}, ring of {ring_bytes} bytes: {error}"));
        }
        world.eventually("clients that have gone are missed", |world| world.metrics.stream_clients.get() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_filter_gets_its_own_and_places_in_a_group_are_kept_when_others_go() {
    let world = World::new(64 << 20, PATIENCE).await;
    let filters = || [Filter::default(), only("type", "create"), only("type", "update"), only("account", "1")];
    let mut clients = Vec::new();
    for number in 0..40 {
        let filter = filters()[number % 4].clone();
        clients.push(world.connect(0, false, |options| options.filter = filter).await);
    }
    world.eventually("all are there", |world| world.metrics.stream_clients.get() == 40).await;
    world.push(3).await;
    // Every other one of each filter goes.
    let mut number = 0;
    clients.retain(|_| {
        number += 1;
        (number - 1) / 4 % 2 == 0
    });
    world.eventually("they are missed", |world| world.metrics.stream_clients.get() == 20).await;
    world.push(7).await;
    for (number, client) in clients.iter_mut().enumerate() {
        let expected: Vec<u64> = match number % 4 {
            0 => (1..=10).collect(),
            1 => vec![3, 6, 9],
            2 => vec![1, 4, 7, 10],
            _ => Vec::new(),
        };
        let got = client.read_to(expected.last().copied().unwrap_or(0)).await;
        assert_eq!(got, expected, "client {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_runs_come_whole_out_of_files() {
    let world = Arc::new(World::new(64 << 20, PATIENCE).await);
    let total = 3_000;
    world.push(total).await;
    let read = |number: u64| {
        let world = Arc::clone(&world);
        async move {
            // Some take little at a time, and some want every third event only.
            let (small, filtered) = (number % 3 == 1, number % 3 == 2);
            let change = |options: &mut SubscriptionOptions| {
                if filtered {
                    options.filter = only("type", "create");
                }
            };
            let mut client = world.connect(number, small, change).await;
            let expected: Vec<u64> = (number + 1..=total).filter(|seq| !filtered || seq % 3 == 0).collect();
            assert_eq!(client.read_to(total).await, expected, "client {number}");
        }
    };
    let clients = TaskTracker::new();
    let reading: Vec<_> = (0..12).map(|number| clients.spawn(read(number))).collect();
    for reading in reading {
        reading.await.unwrap();
    }
    assert!(cfg!(not(target_os = "linux")) || world.hub.files.count() > 0, "nothing was sent from a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_let_go_and_others_do_not_notice() {
    let stalled_after = Duration::from_secs(3);
    let world = World::new(1 << 20, stalled_after).await;
    let mut healthy = world.connect(0, false, |_| {}).await;
    let mut stuck = world.connect(0, true, |_| {}).await;
    // It takes a little now and then: that is slow, and not stuck.
    let (mut slow, done) = (world.connect(0, true, |_| {}).await, CancellationToken::new());
    let reading = world.tracker.spawn({
        let done = done.clone();
        async move {
            while !done.is_cancelled() {
                slow.read(2_000).await.expect("a slow client is not let go");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            slow
        }
    });
    let began = Instant::now();
    // Far more than the ring and the buffers hold.
    let total = 6_000;
    for _ in 0..total / 100 {
        world.push(100).await;
        healthy.read_to(world.hub.tail().0).await;
    }
    world.eventually("a stuck client is let go", |world| world.metrics.stream_stalled.get() == 1).await;
    assert!(began.elapsed() >= stalled_after);
    world.eventually("its place is free", |world| world.metrics.stream_clients.get() == 2).await;
    // What it had got before is a beginning; it resumes from there.
    let mut got = Vec::new();
    while let Some(events) = stuck.read(64 * 1024).await {
        got.extend(events);
    }
    assert!(!stuck.ended, "it does not look complete");
    let mut resumed = world.connect(stuck.last, false, |_| {}).await;
    got.extend(resumed.read_to(total).await);
    assert_eq!(got, (1..=total).collect::<Vec<_>>());
    done.cancel();
    reading.await.unwrap().read_to(total).await;
    assert_eq!(world.metrics.stream_stalled.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_ends_and_stops_come_without_events() {
    let world = World::new(1 << 20, PATIENCE).await;
    world.push(5).await;
    let began = Instant::now();
    let mut quiet = world.connect(5, false, |options| options.heartbeat = Some(Duration::from_millis(300))).await;
    let mut bounded = world
        .connect(5, false, |options| {
            options.until = Some(tokio::time::Instant::now() + Duration::from_millis(400));
        })
        .await;
    while bounded.read(4_096).await.is_some() {}
    assert!(bounded.ended && began.elapsed() >= Duration::from_millis(400));
    let mut text = Vec::new();
    while text.windows(6).filter(|window| window == b": hb\n\r").count() < 2 {
        let mut buffer = [0; 1_024];
        let read = tokio::time::timeout(PATIENCE, quiet.socket.read(&mut buffer)).await.unwrap().unwrap();
        text.extend_from_slice(&buffer[..read]);
    }
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    let mut stopped = world.connect(5, false, |_| {}).await;
    world.stop.cancel();
    while stopped.read(4_096).await.is_some() {}
    assert!(stopped.ended, "it is told");
    drop(world.fan_out);
    world.tracker.close();
    tokio::time::timeout(PATIENCE, world.tracker.wait()).await.expect("the shards end");
}
