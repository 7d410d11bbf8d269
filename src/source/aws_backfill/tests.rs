use std::path::Path;
use std::sync::Mutex;

use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::*;
use crate::source::aws::object::{Body, Listed, Listing, ObjectRef};
use crate::source::testing::{Kept, Pipeline};
use crate::source::{SourceStatus, StatusBoard};

/// A bucket that lists three names per page.
#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    listings: Mutex<Vec<String>>,
}

#[async_trait]
impl Objects for Bucket {
    async fn get(&self, object: &ObjectRef) -> Result<Body, AwsError> {
        let found = self.objects.lock().unwrap().get(&object.key).filter(|bytes| !bytes.is_empty()).cloned();
        let bytes = found.ok_or_else(|| AwsError::NotFound("NoSuchKey".to_owned()))?;
        let stream = ByteStream::new(SdkBody::from(bytes.clone()));
        Ok(Body { stream, bytes: Some(bytes.len() as u64), etag: "e".to_owned() })
    }

    async fn list(&self, listing: Listing<'_>, token: Option<String>) -> Result<Listed, AwsError> {
        let Listing { prefix, start_after, folders, .. } = listing;
        self.listings.lock().unwrap().push(prefix.to_owned());
        let name = |key: &String| match key[prefix.len()..].split_once('/') {
            Some((folder, _)) if folders => format!("{prefix}{folder}/"),
            _ => key.clone(),
        };
        let objects = self.objects.lock().unwrap();
        let after = token.as_deref().or(start_after).unwrap_or_default();
        let of_prefix = objects.keys().filter(|key| key.starts_with(prefix));
        let mut names: Vec<String> = of_prefix.map(name).filter(|name| name.as_str() > after).collect();
        names.dedup();
        let more = (names.len() > 3).then(|| names[2].clone());
        names.truncate(3);
        Ok(Listed { names, more })
    }
}

fn add(bucket: &Bucket, account: &str, region: &str, day: u32, hour: u32, ids: &[String]) {
    let folder = format!("AWSLogs/{account}/CloudTrail/{region}/2026/02/{day:02}");
    let number = account.rsplit('/').next().unwrap();
    let key = format!("{folder}/{number}_CloudTrail_{region}_202602{day:02}T{hour:02}00Z_a.json.gz");
    let records: Vec<String> = ids.iter().map(|id| format!(r#"{{"eventID":"{id}"}}"#)).collect();
    bucket.objects.lock().unwrap().insert(key, format!(r#"{{"Records":[{}]}}"#, records.join(",")).into());
}

/// Two accounts, one of them of an organization's trail, in two regions, three days, four files a day, two records a
/// file.
fn bucket() -> Arc<Bucket> {
    let bucket = Bucket::default();
    for account in ["111122223333", "o-a1b2c3d4e5/444455556666"] {
        for region in ["eu-west-1", "us-east-1"] {
            for day in 1..=3 {
                for hour in 0..4 {
                    let ids = [0, 1].map(|n| format!("{day} {} {region} {hour} {n}", &account[account.len() - 12..]));
                    add(&bucket, account, region, day, hour, &ids);
                }
            }
        }
    }
    let mut objects = bucket.objects.lock().unwrap();
    for other in [
        "AWSLogs/111122223333/Config/x.json.gz",
        "AWSLogs/111122223333/CloudTrail-Digest/eu-west-1/2026/02/01/y.json.gz",
    ] {
        objects.insert(other.to_owned(), Bytes::from_static(b"{}"));
    }
    drop(objects);
    Arc::new(bucket)
}

fn job() -> Job {
    Job {
        bucket: "trail".to_owned(),
        prefix: String::new(),
        from: jiff::civil::date(2026, 2, 1),
        to: jiff::civil::date(2026, 2, 3),
        accounts: Vec::new(),
        regions: Vec::new(),
        records_per_second: 1_000_000,
        source: None,
    }
}

struct World {
    data: tempfile::TempDir,
    bucket: Arc<Bucket>,
}

impl World {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), bucket: bucket() }
    }

    async fn run(&self, job: Job, pipeline: &Pipeline) -> (Result<(), SourceError>, SourceStatus, bool) {
        let file = job.write(self.data.path()).unwrap().1;
        let stop = CancellationToken::new();
        let begun = Begun { id: "backfill-1".into(), job, file: file.clone(), stop: stop.clone() };
        let metrics = Arc::new(Metrics::new().unwrap());
        let clock = Clock::from_fn(|| crate::model::Time::from_millis(0));
        let mut source = BackfillSource::new(begun, None, pipeline.cursor(), clock, metrics);
        source.objects = Some(self.bucket.clone());
        let board = StatusBoard::default();
        let status = board.register("backfill-1".into(), KIND);
        let outcome = source.run(pipeline.intake.clone(), status, stop).await;
        (outcome, board.snapshot().into_values().next().unwrap(), file.exists())
    }
}

fn ids(kept: &Kept) -> Vec<String> {
    kept.texts().iter().map(|text| text[12..text.len() - 2].to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_read_day_by_day_to_its_end() {
    let world = World::new();
    let pipeline = Pipeline::new();
    let (outcome, status, left) = world.run(job(), &pipeline).await;
    outcome.unwrap();
    let ids = ids(&pipeline.kept.lock().unwrap());
    assert_eq!(ids.len(), 2 * 2 * 3 * 4 * 2);
    assert!(ids.is_sorted(), "days, then accounts, regions, hours: {ids:?}");
    assert_eq!((status.records, left), (96, false), "the job's file is deleted when it is complete");
}

#[tokio::test(start_paused = true)]
async fn only_what_is_asked_for_is_read() {
    let world = World::new();
    let pipeline = Pipeline::new();
    let job = Job {
        accounts: vec!["444455556666".to_owned()],
        regions: vec!["us-east-1".to_owned()],
        from: jiff::civil::date(2026, 2, 2),
        to: jiff::civil::date(2026, 2, 2),
        ..job()
    };
    world.run(job.clone(), &pipeline).await.0.unwrap();
    let ids = ids(&pipeline.kept.lock().unwrap());
    assert_eq!(ids.len(), 8);
    assert!(ids.iter().all(|id| id.starts_with("2 444455556666 us-east-1")), "{ids:?}");

    let nothing = Job { accounts: vec!["000000000000".to_owned()], ..job };
    let (outcome, _, left) = world.run(nothing, &Pipeline::new()).await;
    assert!(outcome.unwrap_err().to_string().contains("no log files of these accounts") && left);
}

// A thread that waits to hand over its next chunk stops a paused clock, so the machine's clock is used here.
#[tokio::test]
async fn a_backfill_goes_on_where_it_was_cut_off() {
    let world = World::new();
    // One file of several deliveries, so that the interruption is within it.
    let big: Vec<String> = (0..1_300).map(|n| format!("2 111122223333 eu-west-1 9 {n:05}")).collect();
    add(&world.bucket, "111122223333", "eu-west-1", 2, 9, &big);
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let mut cut_off = 0;
    loop {
        let pipeline = Pipeline::failing_after(3, Arc::clone(&kept));
        if world.run(job(), &pipeline).await.0.is_ok() {
            break;
        }
        cut_off += 1;
        assert!(cut_off < 100);
    }
    assert!(cut_off > 10);
    let ids = ids(&kept.lock().unwrap());
    assert_eq!(ids.len(), 96 + 1_300, "nothing is lost, nothing comes twice");
    assert!(ids.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_vanished_is_quarantined_and_the_rest_is_read() {
    let world = World::new();
    let gone = world.bucket.objects.lock().unwrap().keys().find(|key| key.contains("T0100Z")).cloned().unwrap();
    world.bucket.objects.lock().unwrap().insert(gone.clone(), Bytes::new());
    let pipeline = Pipeline::new();
    world.run(job(), &pipeline).await.0.unwrap();
    let kept = pipeline.kept.lock().unwrap();
    assert_eq!((kept.records.len(), kept.codes()), (94, vec!["unreadable_object"]));
    assert!(kept.rejected[0].reason.contains(&gone));
}

#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_rate() {
    let world = World::new();
    let begun = Instant::now();
    world.run(Job { records_per_second: 10, ..job() }, &Pipeline::new()).await.0.unwrap();
    let took = begun.elapsed().as_secs_f64();
    assert!((9.0..11.0).contains(&took), "96 records in {took} s");
}

/// What [`watch`] has begun.
type BegunJobs = Arc<Mutex<Vec<(SourceId, CancellationToken)>>>;

fn watched(folder: &Path, stop: &CancellationToken) -> (BegunJobs, JoinHandle<()>) {
    let begun = BegunJobs::default();
    let seen = Arc::clone(&begun);
    let watching = watch(folder.to_owned(), stop.clone(), move |job| {
        seen.lock().unwrap().push((job.id.clone(), job.stop.clone()));
        async {}
    });
    (begun, TaskTracker::new().spawn(watching))
}

async fn first_begun(begun: &BegunJobs) -> (SourceId, CancellationToken) {
    while begun.lock().unwrap().is_empty() {
        sleep(LOOK_EVERY).await;
    }
    begun.lock().unwrap()[0].clone()
}

#[tokio::test(start_paused = true)]
async fn jobs_are_begun_once_and_ended_with_their_files() {
    let data = tempfile::tempdir().unwrap();
    let (folder, stop) = (folder(data.path()), CancellationToken::new());
    let (begun, watching) = watched(&folder, &stop);
    let (name, file) = job().write(&folder).unwrap();
    let (id, ending) = first_begun(&begun).await;
    sleep(3 * LOOK_EVERY).await;
    assert_eq!((begun.lock().unwrap().len(), id), (1, format!("backfill-{name}").as_str().into()));
    std::fs::remove_file(file).unwrap();
    ending.cancelled().await;
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jobs_go_on_while_their_folder_can_not_be_read() {
    let data = tempfile::tempdir().unwrap();
    let (folder, stop) = (folder(data.path()), CancellationToken::new());
    let (begun, watching) = watched(&folder, &stop);
    job().write(&folder).unwrap();
    let (_, ending) = first_begun(&begun).await;
    let elsewhere = data.path().join("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    std::fs::write(&folder, "not a folder").unwrap();
    sleep(3 * LOOK_EVERY).await;
    assert!(!ending.is_cancelled());
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&elsewhere, &folder).unwrap();
    sleep(3 * LOOK_EVERY).await;
    assert!(!ending.is_cancelled());
    assert_eq!(begun.lock().unwrap().len(), 1, "it was not begun again");
    stop.cancel();
    watching.await.unwrap();
}
