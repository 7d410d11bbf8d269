use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;

use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::client::{LookupError, PAGE_EVENTS, Page};
use super::window::Window;
use super::*;
use crate::source::StatusBoard;
use crate::source::testing::{Pipeline, Running};

/// The time at which the tests begin.
const BEGIN: i64 = 1_700_000_000;

#[derive(Clone, Debug)]
struct Happened {
    id: String,
    time: i64,
    visible_from: i64,
}

/// The service as the documentation has it: newest first, tokens bound to their window, events that appear late.
struct Fake {
    events: Mutex<Vec<Happened>>,
    script: Mutex<VecDeque<LookupError>>,
    requests: Mutex<Vec<(Instant, Window, Option<String>)>>,
    clock: Clock,
}

impl Fake {
    fn new(clock: &Clock) -> Arc<Self> {
        Arc::new(Self {
            events: Mutex::default(),
            script: Mutex::default(),
            requests: Mutex::default(),
            clock: clock.clone(),
        })
    }

    fn add(&self, id: impl Into<String>, time: i64, visible_from: i64) {
        self.events.lock().unwrap().push(Happened { id: id.into(), time, visible_from });
    }

    fn answer_next(&self, errors: impl IntoIterator<Item = LookupError>) {
        self.script.lock().unwrap().extend(errors);
    }

    fn ids(&self) -> HashSet<String> {
        self.events.lock().unwrap().iter().map(|event| event.id.clone()).collect()
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

#[async_trait]
impl LookupEvents for Fake {
    async fn page(&self, window: Window, token: Option<&str>) -> Result<Page, LookupError> {
        self.requests.lock().unwrap().push((Instant::now(), window, token.map(str::to_owned)));
        if let Some(error) = self.script.lock().unwrap().pop_front() {
            return Err(error);
        }
        let Window { start, end } = window;
        let mut asked_at = self.clock.now().millis() / 1_000;
        let mut offset = 0;
        if let Some(token) = token {
            let parts: Vec<i64> = token.split(':').map(|part| part.parse().unwrap()).collect();
            assert_eq!((parts[0], parts[1]), (start, end), "a token is only good for its window");
            (asked_at, offset) = (parts[2], parts[3] as usize);
        }
        let mut found: Vec<_> = self.events.lock().unwrap().clone();
        found.retain(|event| (start..=end).contains(&event.time) && event.visible_from <= asked_at);
        found.sort_by_key(|event| std::cmp::Reverse(event.time));
        let to = found.len().min(offset + PAGE_EVENTS as usize);
        let next = (to < found.len()).then(|| format!("{start}:{end}:{asked_at}:{to}"));
        let events = found[offset..to].iter().map(|event| LookedUp {
            id: Some(event.id.clone()),
            time: Some(event.time),
            record: Some(format!("{{\"eventID\":\"{}\"}}", event.id).into()),
        });
        Ok(Page { events: events.collect(), next })
    }
}

/// A clock that follows the runtime's, which the tests pause.
fn clock() -> Clock {
    let begun = Instant::now();
    Clock::from_fn(move || {
        Time::from_millis(BEGIN * 1_000 + i64::try_from((Instant::now() - begun).as_millis()).unwrap())
    })
}

fn begin(config: &LookupEventsConfig, clients: &[(&str, &Arc<Fake>)], pipeline: &Pipeline) -> Running {
    let clock = clients[0].1.clock.clone();
    let mut source = LookupEventsSource::new("trail".into(), config.clone(), pipeline.cursor(), clock);
    let client = |(region, fake): &(&str, &Arc<Fake>)| {
        let client: Arc<dyn LookupEvents> = Arc::<Fake>::clone(fake);
        ((*region).to_owned(), client)
    };
    source.clients = Some(clients.iter().map(client).collect());
    Running::start("trail", KIND, pipeline, async move |intake, status, stop| source.run(intake, status, stop).await)
}

fn config() -> LookupEventsConfig {
    LookupEventsConfig::new(vec!["eu-west-1".to_owned()])
}

/// Ids that became durable, in order.
fn ids(pipeline: &Pipeline) -> Vec<String> {
    let kept = pipeline.kept.lock().unwrap();
    let id =
        |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["eventID"].as_str().unwrap().into();
    kept.texts().into_iter().map(id).collect()
}

async fn minutes(count: u64) {
    sleep(Duration::from_secs(60 * count)).await;
}

#[tokio::test(start_paused = true)]
async fn events_come_once_and_oldest_first() {
    let fake = Fake::new(&clock());
    for n in 0..200 {
        fake.add(format!("{n:03}"), BEGIN - 800 + n * 3, 0);
    }
    let pipeline = Pipeline::new();
    let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
    minutes(1).await;
    let expected: Vec<_> = (0..200).map(|n| format!("{n:03}")).collect();
    assert_eq!(ids(&pipeline), expected);
    for n in 200..300 {
        fake.add(format!("{n:03}"), BEGIN + 60 + (n - 200) * 5, BEGIN + 90 + (n - 200) * 5);
    }
    minutes(15).await;
    let status = running.status();
    assert_eq!(ids(&pipeline), (0..300).map(|n| format!("{n:03}")).collect::<Vec<_>>(), "the overlap repeats nothing");
    assert_eq!((status.state, status.records), (SourceState::Running, 300));
    assert_eq!(status.newest_record, Some(from_secs(BEGIN + 60 + 99 * 5)));
    assert!(status.lag_secs.unwrap() < 61.0, "{status:?}");
    assert!(status.position.unwrap().starts_with("eu-west-1 up to 2023-11-14T22:"));
    running.end_at_once().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_and_a_half_events_in_one_second_are_found() {
    let fake = Fake::new(&clock());
    for n in 0..1_500 {
        fake.add(format!("burst-{n}"), BEGIN - 100, 0);
    }
    // More than is held in memory, in one second.
    for n in 0..5_000 {
        fake.add(format!("flood-{n}"), BEGIN - 50, 0);
    }
    fake.add("before", BEGIN - 101, 0);
    fake.add("after", BEGIN - 49, 0);
    let pipeline = Pipeline::new();
    let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
    minutes(10).await;
    running.end_at_once().await.unwrap();
    let found = ids(&pipeline);
    assert_eq!(found.len(), 6_502);
    assert_eq!(found.iter().cloned().collect::<HashSet<_>>(), fake.ids());
    assert_eq!((found.first().unwrap().as_str(), found.last().unwrap().as_str()), ("before", "after"));
}

#[tokio::test(start_paused = true)]
async fn late_events_are_found() {
    let fake = Fake::new(&clock());
    fake.add("first", BEGIN - 10, 0);
    fake.add("two minutes late", BEGIN - 20, BEGIN + 100);
    fake.add("a quarter of an hour late", BEGIN - 30, BEGIN + 870);
    let pipeline = Pipeline::new();
    let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
    minutes(1).await;
    assert_eq!(ids(&pipeline), ["first"]);
    minutes(20).await;
    running.end_at_once().await.unwrap();
    assert_eq!(ids(&pipeline), ["first", "two minutes late", "a quarter of an hour late"]);
}

#[tokio::test(start_paused = true)]
async fn accounts_are_asked_each_with_a_budget_and_a_position_of_its_own() {
    let clock = clock();
    let (own, other) = (Fake::new(&clock), Fake::new(&clock));
    for n in 0..120 {
        other.add(format!("other {n:03}"), BEGIN - 500 + n, 0);
    }
    own.add("own", BEGIN - 10, 0);
    let account = |role_arn: Option<&str>| AccountConfig {
        role_arn: role_arn.map(str::to_owned),
        external_id: None,
        regions: role_arn.map(|_| vec!["us-east-1".to_owned()]),
    };
    let accounts = vec![account(Some("arn:aws:iam::111122223333:role/catchment")), account(None)];
    let config = LookupEventsConfig { accounts, ..config() };
    let clients = [("111122223333/us-east-1", &other), ("eu-west-1", &own)];
    let pipeline = Pipeline::new();
    let running = begin(&config, &clients, &pipeline);
    minutes(2).await;
    assert_eq!(pipeline.kept.lock().unwrap().records.len(), 121);
    let location = pipeline.kept.lock().unwrap().records[0].origin.location.to_string();
    assert_eq!(location, "lookup-events:111122223333/us-east-1");
    running.end_at_once().await.unwrap();
    let cursor = String::from_utf8(pipeline.cursor().unwrap().to_vec()).unwrap();
    assert!(cursor.contains(r#""111122223333/us-east-1""#) && cursor.contains(r#""eu-west-1""#), "{cursor}");

    other.add("later", BEGIN + 200, 0);
    let asked = own.requests();
    let running = begin(&config, &clients, &pipeline);
    minutes(5).await;
    running.end_at_once().await.unwrap();
    assert!(ids(&pipeline).contains(&"later".to_owned()));
    assert!(own.requests() > asked, "the other account does not take its turns");
}

#[tokio::test(start_paused = true)]
async fn failures_keep_the_page() {
    let fake = Fake::new(&clock());
    for n in 0..180 {
        fake.add(format!("{n:03}"), BEGIN - 200 + n, 0);
    }
    let pipeline = Pipeline::new();
    let throttled = || LookupError::Throttled("ThrottlingException".to_owned());
    let unavailable = || LookupError::Unavailable("status 500".to_owned());
    let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(fake.requests(), 2, "two requests a second");
    fake.answer_next([throttled(), unavailable(), throttled(), throttled(), unavailable()]);
    // The third failure is reported; the fifth is over after 15 seconds at the earliest.
    sleep(Duration::from_secs(10)).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Retrying);
    assert!(status.last_error.unwrap().starts_with("look up events in eu-west-1: "));
    minutes(2).await;
    assert_eq!(running.status().state, SourceState::Running);
    assert_eq!(ids(&pipeline), (0..180).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    running.end_at_once().await.unwrap();
    let requests = fake.requests.lock().unwrap();
    assert!(requests[2..8].iter().all(|(_, _, token)| *token == requests[2].2 && token.is_some()), "{requests:?}");
    let apart: Vec<_> = requests.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(apart.iter().all(|apart| *apart >= Duration::from_millis(500)), "{apart:?}");
    assert!(apart[6] > Duration::from_secs(4), "the wait grows: {apart:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_begins_the_window_anew() {
    let fake = Fake::new(&clock());
    for n in 0..180 {
        fake.add(format!("{n:03}"), BEGIN - 200 + n, 0);
    }
    let pipeline = Pipeline::new();
    let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
    sleep(Duration::from_millis(600)).await;
    fake.answer_next([LookupError::TokenExpired]);
    minutes(1).await;
    running.end_at_once().await.unwrap();
    assert_eq!(ids(&pipeline), (0..180).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    let tokens: Vec<_> = fake.requests.lock().unwrap().iter().map(|(_, _, token)| token.is_some()).collect();
    assert_eq!(tokens[..7], [false, true, true, false, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_does_not_hold_up_other_regions() {
    let clock = clock();
    let (refusing, other) = (Fake::new(&clock), Fake::new(&clock));
    let refused = || LookupError::Refused {
        code: "AccessDeniedException".to_owned(),
        message: "no".to_owned(),
        advice: "grant cloudtrail:LookupEvents to these credentials".to_owned(),
    };
    refusing.answer_next(std::iter::repeat_with(refused).take(3));
    refusing.add("held up", BEGIN - 1, 0);
    other.add("not held up", BEGIN - 1, 0);
    let pipeline = Pipeline::new();
    let config = LookupEventsConfig::new(vec!["eu-west-1".to_owned(), "us-east-1".to_owned()]);
    let running = begin(&config, &[("eu-west-1", &refusing), ("us-east-1", &other)], &pipeline);
    minutes(4).await;
    let status = running.status();
    assert_eq!(status.state, SourceState::Retrying);
    assert!(
        status
            .last_error
            .unwrap()
            .contains("in eu-west-1: refused (AccessDeniedException): no; grant cloudtrail:LookupEvents")
    );
    assert!(status.position.unwrap().starts_with("eu-west-1 not yet, us-east-1 up to "));
    assert_eq!(refusing.requests(), 1, "asked again soon, it would refuse again");
    assert!(other.requests() >= 4);
    minutes(16).await;
    assert_eq!(running.status().state, SourceState::Running);
    running.end_at_once().await.unwrap();
    assert_eq!(ids(&pipeline), ["not held up", "held up"]);
    let position: Position = serde_json::from_slice(&pipeline.cursor().unwrap()).unwrap();
    assert_eq!(position.done.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn progress_through_a_long_history_is_kept() {
    let fake = Fake::new(&clock());
    for n in 0..6_000 {
        // Thirty days, most of it in the first two.
        let time = if n < 4_500 { n * 38 } else { 172_800 + (n - 4_500) * 1_600 };
        fake.add(format!("{n:04}"), BEGIN - 2_592_000 + time, 0);
    }
    let config = LookupEventsConfig { lookback_secs: 2_592_000, ..config() };
    let kept = Arc::default();
    let mut before = 0;
    for _ in 0..40 {
        let pipeline = Pipeline::failing_after(usize::MAX, Arc::clone(&kept));
        let running = begin(&config, &[("eu-west-1", &fake)], &pipeline);
        // Cut off long before it could be through.
        sleep(Duration::from_secs(45)).await;
        running.end_at_once().await.unwrap();
        let found = ids(&pipeline);
        if found.len() > before && found.iter().collect::<HashSet<_>>().len() == 6_000 {
            break;
        }
        assert!(found.len() > before, "stuck at {before}");
        before = found.len();
    }
    let pipeline = Pipeline::failing_after(0, kept);
    let mut times = HashMap::new();
    for id in ids(&pipeline) {
        *times.entry(id).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 6_000);
    assert!(times.values().filter(|times| **times > 1).count() < 3_000, "only overlaps repeat");
}

#[tokio::test(start_paused = true)]
async fn breaking_off_at_any_delivery_loses_nothing() {
    for deliveries in [0, 1, 2, 3] {
        let fake = Fake::new(&clock());
        for n in 0..1_800 {
            fake.add(format!("{n}"), BEGIN - 800 + n / 3, 0);
        }
        let kept = Arc::default();
        let failing = Pipeline::failing_after(deliveries, Arc::clone(&kept));
        let running = begin(&config(), &[("eu-west-1", &fake)], &failing);
        minutes(2).await;
        assert!(matches!(running.task.await.unwrap(), Err(SourceError::Log(_))));
        let pipeline = Pipeline::failing_after(usize::MAX, kept);
        let running = begin(&config(), &[("eu-west-1", &fake)], &pipeline);
        minutes(2).await;
        running.end_at_once().await.unwrap();
        let found = ids(&pipeline);
        assert_eq!(found.iter().cloned().collect::<HashSet<_>>(), fake.ids(), "{deliveries}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_without_a_record_are_rejected() {
    struct Odd;
    #[async_trait]
    impl LookupEvents for Odd {
        async fn page(&self, _: Window, _: Option<&str>) -> Result<Page, LookupError> {
            let event =
                |id: &str, record: Option<Bytes>| LookedUp { id: Some(id.to_owned()), time: Some(BEGIN), record };
            let events = vec![
                event("1", None),
                event("2", Some(vec![b'x'; MAX_RECORD_BYTES + 1].into())),
                LookedUp { id: None, time: None, record: Some(Bytes::from_static(b"{}")) },
            ];
            Ok(Page { events, next: None })
        }
    }
    let pipeline = Pipeline::new();
    let mut source = LookupEventsSource::new("trail".into(), config(), None, clock());
    source.clients = Some(BTreeMap::from([("eu-west-1".to_owned(), Arc::new(Odd) as Arc<dyn LookupEvents>)]));
    let status = StatusBoard::default().register("trail".into(), KIND);
    let stop = CancellationToken::new();
    let (intake, token) = (pipeline.intake.clone(), stop.clone());
    let task = TaskTracker::new().spawn(async move { source.run(intake, status, token).await });
    sleep(Duration::from_secs(1)).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    let kept = pipeline.kept.lock().unwrap();
    assert_eq!(kept.codes(), ["too_large", "not_a_record"]);
    assert_eq!(kept.texts(), ["{}"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_cannot_be_read_is_told() {
    for cursor in ["?", r#"{"version":2,"done":{}}"#] {
        let cursor = Bytes::from(cursor);
        let mut source = LookupEventsSource::new("trail".into(), config(), Some(cursor), Clock::system());
        let status = StatusBoard::default().register("trail".into(), KIND);
        let error = source.run(Pipeline::new().intake, status, CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains("resume looking up events: the saved position"), "{error}");
    }
}
