use std::collections::HashSet;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::testing::{FakeBucket, FakeQueue};
use super::*;
use crate::model::Time;
use crate::source::SourceState;
use crate::source::testing::{Kept, Pipeline, Running};

const VISIBLE_AFTER: Duration = Duration::from_secs(30);

fn key(region: &str, name: &str) -> String {
    format!("AWSLogs/111122223333/CloudTrail/{region}/2026/02/03/111122223333_CloudTrail_{region}_{name}.json.gz")
}

fn notice(keys: &[String]) -> String {
    json!({ "s3Bucket": "trail", "s3ObjectKey": keys }).to_string()
}

fn record(id: &str) -> String {
    format!(r#"{{"eventVersion":"1.11","eventID":"{id}","eventSource":"x"}}"#)
}

struct World {
    queue: Arc<FakeQueue>,
    bucket: Arc<FakeBucket>,
    metrics: Arc<Metrics>,
    config: SqsConfig,
}

impl World {
    fn new() -> Self {
        let config: SqsConfig =
            toml::from_str("queue_url = \"https://sqs.eu-west-1.amazonaws.com/111122223333/q\"").unwrap();
        let config = SqsConfig { visibility_secs: VISIBLE_AFTER.as_secs(), max_receives: 3, ..config };
        Self { queue: Arc::default(), bucket: Arc::default(), metrics: Arc::new(Metrics::new().unwrap()), config }
    }

    /// Puts an object there, without announcing it.
    fn put(&self, key: &str, ids: &[&str]) {
        let records: Vec<String> = ids.iter().map(|id| record(id)).collect();
        let text = format!(r#"{{"Records":[{}]}}"#, records.join(","));
        self.bucket.objects.lock().unwrap().insert(key.to_owned(), text.into());
    }

    fn run(&self, pipeline: &Pipeline) -> Running {
        // Far from 1970, so that no entry of the ledger is expired.
        let clock = Clock::from_fn(|| Time::from_millis(1_700_000_000_000));
        let mut source =
            SqsSource::new("trail".into(), self.config.clone(), pipeline.cursor(), clock, Arc::clone(&self.metrics));
        source.peers = Some((self.queue.clone(), self.bucket.clone()));
        let source = async move |intake, status, stop| source.run(intake, status, stop).await;
        Running::start("trail", S3_KIND, pipeline, source)
    }

    fn notices(&self, outcome: &str) -> u64 {
        self.metrics.source_notices.with_label_values(&["trail", outcome]).get()
    }

    async fn until_empty(&self) {
        for _ in 0..100_000 {
            if self.queue.left() == 0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{} messages are left", self.queue.left());
    }
}

fn ids(kept: &Kept) -> Vec<String> {
    let id = |text: &String| {
        let record: serde_json::Value = serde_json::from_str(text).unwrap();
        record["eventID"].as_str().unwrap().to_owned()
    };
    kept.texts().iter().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_every_shape_is_emptied_and_accounted_for() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    world.put(&log, &["1", "2"]);
    world.queue.send(notice(&[
        log.clone(),
        log.replace("CloudTrail", "CloudTrail-Digest"),
        "AWSLogs/x/Config/y.json.gz".to_owned(),
    ]));
    world.queue.send(json!({ "Service": "Amazon S3", "Event": "s3:TestEvent" }).to_string());
    world.queue.send(format!(r#"{{"detail-type":"AWS API Call via CloudTrail","detail":{}}}"#, record("3")));
    world.queue.send("hello");
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    world.until_empty().await;
    pipeline.until(|kept| kept.records.len() == 3).await;
    running.end().await.unwrap();
    let kept = pipeline.kept.lock().unwrap();
    assert_eq!(ids(&kept).into_iter().collect::<HashSet<_>>(), ["1", "2", "3"].map(str::to_owned).into());
    assert_eq!(kept.codes(), ["not_a_notice"]);
    assert_eq!(&kept.rejected[0].bytes[..], b"hello");
    assert_eq!(&*kept.rejected[0].origin.location, "sqs:q/m4");
    for outcome in ["log file", "record", "test message", "digest file", "not a CloudTrail log file", "not a notice"] {
        assert_eq!(world.notices(outcome), 1, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_before_it_is_durable() {
    let world = World::new();
    let pipeline = Pipeline::new();
    for n in 0..50 {
        let log = key("eu-west-1", &format!("20260203T04{n:02}Z_a"));
        world.put(&log, &[&format!("id-{n:02}")]);
        world.queue.send(notice(&[log]));
        world.queue.send(format!(
            r#"{{"detail-type":"AWS API Call via CloudTrail","detail":{}}}"#,
            record(&format!("ev-{n:02}"))
        ));
    }
    let kept = Arc::clone(&pipeline.kept);
    let early = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&early);
    *world.queue.watch.lock().unwrap() = Some(Box::new(move |body| {
        let body = String::from_utf8_lossy(body).into_owned();
        let id = match body.split_once("T04") {
            Some((_, rest)) => format!("id-{}", &rest[..2]),
            None => format!("ev-{}", &body.split_once("ev-").unwrap().1[..2]),
        };
        if !ids(&kept.lock().unwrap()).contains(&id) {
            found.lock().unwrap().push(id);
        }
    }));
    let running = world.run(&pipeline);
    world.until_empty().await;
    running.end().await.unwrap();
    assert_eq!(*early.lock().unwrap(), Vec::<String>::new(), "deleted before durable");
    assert_eq!((world.queue.deleted.lock().unwrap().len(), pipeline.kept.lock().unwrap().records.len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_slow_object_is_kept_invisible_and_comes_once() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    world.put(&log, &["1"]);
    world.bucket.slow.lock().unwrap().insert(log.clone(), 3 * VISIBLE_AFTER);
    world.queue.send(notice(&[log]));
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    world.until_empty().await;
    running.end().await.unwrap();
    assert_eq!(world.bucket.gets.lock().unwrap().len(), 1, "read once");
    assert_eq!(ids(&pipeline.kept.lock().unwrap()), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn the_objects_of_a_lane_keep_their_order_and_do_not_wait_for_other_lanes() {
    let world = World::new();
    let names: Vec<String> = (0..10).map(|n| format!("20260203T04{n:02}Z_a")).collect();
    for name in names.iter().rev() {
        for region in ["eu-west-1", "us-east-1"] {
            let log = key(region, name);
            world.put(&log, &[&format!("{region} {name}")]);
            // The first ones are the slowest.
            let wait = Duration::from_millis(500 - 50 * name[11..13].parse::<u64>().unwrap());
            world.bucket.slow.lock().unwrap().insert(log.clone(), wait * u32::from(region == "eu-west-1"));
        }
    }
    // In one message, so that all of them are known when the first is begun.
    for region in ["eu-west-1", "us-east-1"] {
        let keys: Vec<String> = names.iter().rev().map(|name| key(region, name)).collect();
        world.queue.send(notice(&keys));
    }
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    world.until_empty().await;
    running.end().await.unwrap();
    let ids = ids(&pipeline.kept.lock().unwrap());
    for region in ["eu-west-1", "us-east-1"] {
        let of_region: Vec<&String> = ids.iter().filter(|id| id.starts_with(region)).collect();
        assert!(of_region.is_sorted(), "{of_region:?}");
        assert_eq!(of_region.len(), 10);
    }
    assert!(ids[..10].iter().all(|id| id.starts_with("us-east-1")), "the fast lane does not wait: {ids:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_goes_on_where_it_was() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    let good: Vec<String> = (0..1_200).map(|n| record(&n.to_string())).collect();
    // A broken line has no event id by which it could be recognised.
    let text = format!("{}\nbroken\n{}\n", good[..300].join("\n"), good[300..].join("\n"));
    world.bucket.objects.lock().unwrap().insert(log.clone(), text.into());
    world.queue.send(notice(&[log]));
    let kept: Arc<Mutex<Kept>> = Arc::default();
    for deliveries in [1, 1] {
        // The pipeline fails after one more delivery, as if the process had been killed there.
        let pipeline = Pipeline::failing_after(deliveries, Arc::clone(&kept));
        let running = world.run(&pipeline);
        assert!(running.task.await.unwrap().is_err());
        sleep(VISIBLE_AFTER).await;
    }
    assert_eq!(world.queue.left(), 1);
    let pipeline = Pipeline::failing_after(usize::MAX, Arc::clone(&kept));
    let running = world.run(&pipeline);
    world.until_empty().await;
    running.end().await.unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(ids(&kept), (0..1_200).map(|n: i32| n.to_string()).collect::<Vec<_>>());
    assert_eq!(kept.codes(), ["not_a_record"], "and what is broken is told once");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_tells_nothing_twice() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    world.bucket.objects.lock().unwrap().insert(log.clone(), "broken".into());
    let pipeline = Pipeline::new();
    for _ in 0..2 {
        let running = world.run(&pipeline);
        world.queue.send(notice(std::slice::from_ref(&log)));
        world.queue.send(notice(&[log.clone(), log.clone()]));
        world.until_empty().await;
        running.end().await.unwrap();
    }
    assert_eq!(pipeline.kept.lock().unwrap().codes(), ["not_a_record"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_can_never_be_read_is_quarantined_by_name() {
    let world = World::new();
    let (gone, fine) = (key("eu-west-1", "20260203T0405Z_a"), key("eu-west-1", "20260203T0406Z_a"));
    world.put(&fine, &["1"]);
    world.queue.send(notice(std::slice::from_ref(&gone)));
    world.queue.send(notice(&[fine]));
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    pipeline.until(|kept| kept.records.len() == 1).await;
    assert_eq!(world.queue.left(), 1, "others do not wait for it");
    assert_eq!(running.status().state, SourceState::Retrying);
    assert!(running.status().last_error.unwrap().contains("NoSuchKey"));
    world.until_empty().await;
    running.end().await.unwrap();
    let kept = pipeline.kept.lock().unwrap();
    assert_eq!(kept.codes(), ["unreadable_object"]);
    let reason = &kept.rejected[0].reason;
    assert!(reason.contains(&gone) && reason.contains("after 3 tries"), "{reason}");
    assert_eq!(world.bucket.gets.lock().unwrap().iter().filter(|key| **key == gone).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_policy_decides_where_there_is_one() {
    let world = World::new();
    let dead_letter_target_arn = "arn:aws:sqs:eu-west-1:111122223333:dead".to_owned();
    *world.queue.redrive.lock().unwrap() = Some(Redrive { dead_letter_target_arn, max_receive_count: 2 });
    world.queue.send(notice(&[key("eu-west-1", "20260203T0405Z_a")]));
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    world.until_empty().await;
    running.end().await.unwrap();
    assert_eq!((world.queue.deleted.lock().unwrap().len(), world.queue.dead.lock().unwrap().len()), (0, 1));
    let kept = pipeline.kept.lock().unwrap();
    assert!(kept.rejected[0].reason.contains(":dead"));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_waits_until_it_is_granted() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    world.put(&log, &["1"]);
    let refused = AwsError::Refused {
        code: "AccessDenied".to_owned(),
        message: String::new(),
        advice: "grant kms:Decrypt".to_owned(),
    };
    world.bucket.errors.lock().unwrap().insert(log.clone(), refused);
    world.queue.send(notice(&[log]));
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    sleep(Duration::from_secs(8 * 60 * 60)).await;
    assert!(running.status().last_error.unwrap().contains("grant kms:Decrypt"));
    assert_eq!(world.queue.left(), 1, "still there after hours");
    world.bucket.errors.lock().unwrap().clear();
    world.until_empty().await;
    assert_eq!(running.status().state, SourceState::Running);
    running.end().await.unwrap();
    assert_eq!(ids(&pipeline.kept.lock().unwrap()), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_is_in_hand() {
    let world = World::new();
    let log = key("eu-west-1", "20260203T0405Z_a");
    world.bucket.slow.lock().unwrap().insert(log.clone(), 5 * VISIBLE_AFTER);
    world.queue.send(notice(&[log]));
    let running = world.run(&Pipeline::new());
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    running.end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1_400));
    let messages = world.queue.messages.lock().unwrap();
    assert!(messages.values().all(|message| message.visible_at <= Instant::now()), "seen by others at once");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_can_not_be_received_from_is_told() {
    let world = World::new();
    let refused = AwsError::Refused {
        code: "AccessDenied".to_owned(),
        message: String::new(),
        advice: "grant sqs:ReceiveMessage".to_owned(),
    };
    world.queue.errors.lock().unwrap().extend(std::iter::repeat_n(refused, RECEIVERS));
    let pipeline = Pipeline::new();
    let running = world.run(&pipeline);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.status().state, SourceState::Retrying);
    assert!(running.status().last_error.unwrap().contains("grant sqs:ReceiveMessage"));
    world.queue.send(format!(r#"{{"detail-type":"AWS API Call via CloudTrail","detail":{}}}"#, record("1")));
    world.until_empty().await;
    assert_eq!((running.status().state, running.status().records), (SourceState::Running, 1));
    running.end().await.unwrap();
}

/// A pipeline that takes its time with each delivery, one at a time.
async fn slow_pipeline(mut receiver: mpsc::Receiver<crate::source::Submission>, kept: Arc<Mutex<Kept>>) {
    while let Some(submission) = receiver.recv().await {
        let (durable, pending) = crate::log::Pending::new();
        submission.reply.send(Ok(pending)).ok();
        sleep(Duration::from_millis(5)).await;
        kept.lock().unwrap().records.extend(submission.delivery.records);
        durable.send(Ok(crate::model::Seq(1))).ok();
    }
}

// A thread that waits to hand over its chunk stops a paused clock, so the machine's clock is used here.
#[tokio::test]
async fn a_slow_log_holds_up_the_queue_and_not_the_memory() {
    let world = World::new();
    for n in 0..600 {
        let log = key(&format!("eu-west-{}", n % 7), &format!("{n:04}"));
        world.put(&log, &[&n.to_string()]);
        world.queue.send(notice(&[log]));
    }
    let (intake, receiver) = Intake::new(1, 1 << 20);
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let log = TaskTracker::new().spawn(slow_pipeline(receiver, Arc::clone(&kept)));
    let running = world.run(&Pipeline { intake, kept: Arc::clone(&kept) });
    let mut most = 0;
    while world.queue.left() > 0 {
        sleep(Duration::from_millis(10)).await;
        let in_hand = world.queue.messages.lock().unwrap().values().filter(|m| m.visible_at > Instant::now()).count();
        most = most.max(in_hand);
    }
    assert!((100..=hand::MOST).contains(&most), "{most} messages in hand at most");
    let read = world.bucket.gets.lock().unwrap().len();
    running.end().await.unwrap();
    assert_eq!((kept.lock().unwrap().records.len(), read), (600, 600), "each once, however long it took");
    log.abort();
}

#[test]
fn the_region_is_told_by_the_address() {
    let region = |url: &str| {
        let config: SqsConfig = toml::from_str(&format!("queue_url = {url:?}")).unwrap();
        config.queue_region()
    };
    assert_eq!(region("https://sqs.eu-west-1.amazonaws.com/111122223333/q").as_deref(), Some("eu-west-1"));
    assert_eq!(region("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/q").as_deref(), Some("cn-north-1"));
    assert_eq!(region("https://eu-west-1.queue.amazonaws.com/111122223333/q").as_deref(), Some("eu-west-1"));
    assert_eq!(region("http://127.0.0.1:5000/111122223333/q"), None);
}
