use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::json;
use tokio_util::task::TaskTracker;

use super::*;
use crate::log::Pending;
use crate::model::Seq;
use crate::source::{StatusBoard, Submission};

/// Serves one page after the other, and keeps the tokens of the requests.
#[derive(Default)]
struct Scripted {
    pages: Mutex<VecDeque<Result<Page, PageError>>>,
    asked: Mutex<Vec<Option<String>>>,
}

struct Ready(Arc<Scripted>);

#[async_trait]
impl Connect for Ready {
    async fn connect(&self) -> Result<Arc<dyn Listing>, PageError> {
        Ok(Arc::clone(&self.0) as Arc<dyn Listing>)
    }
}

#[async_trait]
impl Listing for Scripted {
    fn place(&self) -> &str {
        "a script"
    }

    fn member(&self) -> &'static str {
        "data"
    }

    fn lag(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn page(&self, token: Option<&str>) -> Result<Page, PageError> {
        self.asked.lock().unwrap().push(token.map(str::to_owned));
        self.pages
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or_else(|| Err(PageError::Refused("no more in the script".into())))
    }
}

fn page(item: &'static str, next: Option<&str>) -> Result<Page, PageError> {
    Ok(Page { items: vec![Bytes::from_static(item.as_bytes())], next: next.map(str::to_owned) })
}

/// A clock that follows the paused one of the runtime.
fn clock() -> Clock {
    let begun = Instant::now();
    Clock::from_fn(move || Time::from_millis(1_000_000_000 + i64::try_from(begun.elapsed().as_millis()).unwrap()))
}

/// Runs a source until it fails; returns its deliveries, each with the time of its items, and the failure.
async fn run(
    listing: &Arc<Scripted>,
    cursor: Option<Bytes>,
    clock: Clock,
) -> (Vec<(String, i64, Option<Bytes>)>, String) {
    let (intake, mut submissions) = Intake::new(4, 1 << 20);
    let schedule = Schedule { every: Duration::from_secs(3_600), requests_per_second: 1.0, events: false };
    let mut source = SeedSource::new("inventory".into(), schedule, Box::new(Ready(Arc::clone(listing))), cursor, clock);
    let status = StatusBoard::default().register("inventory".into(), "test");
    let task = TaskTracker::new().spawn(async move { source.run(intake, status, CancellationToken::new()).await });
    let mut delivered = Vec::new();
    while let Some(Submission { delivery, seed, reply, .. }) = submissions.recv().await {
        let (durable, pending) = Pending::new();
        let seed = seed.unwrap();
        assert_eq!((seed.member.as_str(), seed.events), ("data", false));
        let text = delivery.records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect();
        delivered.push((text, seed.as_of.millis(), delivery.cursor));
        reply.send(Ok(pending)).unwrap();
        durable.send(Ok(Seq(1))).unwrap();
    }
    (delivered, task.await.unwrap().unwrap_err().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_sweep_is_told_page_by_page_and_the_next_is_due_after_a_while() {
    let listing = Arc::new(Scripted::default());
    listing.pages.lock().unwrap().extend([
        page("{\"a\":1}", Some("2")),
        page("{\"b\":1}", None),
        page("{\"c\":1}", None),
    ]);
    let clock = clock();
    let begun = clock.now().millis();
    let (delivered, error) = run(&listing, None, clock.clone()).await;
    assert!(error.contains("list a script: no more in the script"), "{error}");
    let texts: Vec<_> = delivered.iter().map(|(text, ..)| text.as_str()).collect();
    assert_eq!(texts, ["{\"a\":1}", "{\"b\":1}", "{\"c\":1}"]);
    assert_eq!(*listing.asked.lock().unwrap(), [None, Some("2".to_owned()), None, None]);
    let times: Vec<_> = delivered.iter().map(|(_, as_of, _)| as_of - begun).collect();
    assert!((-60_000..-58_000).contains(&times[0]), "so much older as it may lag: {times:?}");
    assert!((1_000..2_000).contains(&(times[1] - times[0])), "a request a second: {times:?}");
    assert!((3_500_000..3_700_000).contains(&(times[2] - times[0])), "an hour later: {times:?}");
    assert_eq!(delivered[0].2, None, "a position is of a complete sweep");

    // With the position of a sweep ten minutes ago, a restart waits for the rest of the hour.
    assert!(delivered[2].2.is_some());
    let restarted = clock.now();
    let swept = Time::from_millis(restarted.millis() - 600_000);
    let position = Bytes::from(json!({ "version": VERSION, "swept": swept }).to_string());
    listing.pages.lock().unwrap().push_back(page("{}", None));
    let (delivered, _) = run(&listing, Some(position), clock).await;
    assert_eq!((delivered[0].1 - restarted.millis()) / 10_000, (3_000_000 - 60_000) / 10_000, "{delivered:?}");
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_for_and_what_does_not_is_told() {
    let listing = Arc::new(Scripted::default());
    let throttled = || Err(PageError::Throttled { cause: "slow down".into(), wait: Some(Duration::from_secs(30)) });
    listing.pages.lock().unwrap().extend([throttled(), Err(PageError::Unavailable("down".into())), page("{}", None)]);
    let clock = clock();
    let begun = clock.now().millis();
    let (delivered, _) = run(&listing, None, clock.clone()).await;
    assert!(delivered[0].1 - begun >= 30_000 - 60_000, "{delivered:?}");

    let listing = Arc::new(Scripted::default());
    listing.pages.lock().unwrap().extend((0..TRIES).map(|_| throttled()));
    let (delivered, error) = run(&listing, None, clock).await;
    assert_eq!((delivered.len(), listing.asked.lock().unwrap().len()), (0, TRIES as usize));
    assert_eq!(error, "list a script: throttled: slow down");
}

#[test]
fn a_position_of_another_version_is_no_position() {
    let position =
        |version| Some(Bytes::from(json!({ "version": version, "swept": "2026-02-03T04:05:06.000Z" }).to_string()));
    let clock = Clock::from_fn(|| "2026-02-03T04:35:06Z".parse().unwrap());
    let due = |cursor| {
        let schedule = Schedule { every: Duration::from_secs(3_600), requests_per_second: 1.0, events: false };
        SeedSource::new("a".into(), schedule, Box::new(Ready(Arc::default())), cursor, clock.clone()).due_in()
    };
    assert_eq!(due(position(VERSION)), Duration::from_secs(1_800));
    assert_eq!((due(position(VERSION + 1)), due(None)), (Duration::ZERO, Duration::ZERO));
}
