use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio_util::task::TaskTracker;

use super::super::object::{Listed, Listing};
use super::*;

/// One object, whose body breaks off as scripted.
pub(crate) struct OneObject {
    bytes: Bytes,
    /// For each try: an error, or the number of bytes after which the body ends early.
    script: Mutex<VecDeque<Result<usize, AwsError>>>,
    tries: Mutex<usize>,
}

impl OneObject {
    fn new(bytes: Vec<u8>, script: impl IntoIterator<Item = Result<usize, AwsError>>) -> Arc<Self> {
        Arc::new(Self {
            bytes: bytes.into(),
            script: Mutex::new(script.into_iter().collect()),
            tries: Mutex::default(),
        })
    }
}

#[async_trait]
impl Objects for OneObject {
    async fn get(&self, _: &ObjectRef) -> Result<Body, AwsError> {
        *self.tries.lock().unwrap() += 1;
        let cut = self.script.lock().unwrap().pop_front().transpose()?.unwrap_or(self.bytes.len());
        let stream = ByteStream::new(SdkBody::from(self.bytes.slice(..cut)));
        Ok(Body { stream, bytes: Some(self.bytes.len() as u64), etag: "\"e\"".to_owned() })
    }

    async fn list(&self, _: Listing<'_>, _: Option<String>) -> Result<Listed, AwsError> {
        Ok(Listed::default())
    }
}

pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn log_file(records: usize) -> Vec<u8> {
    let record = |n| format!(r#"{{"n":{n},"noise":"{}"}}"#, fastrand::u128(..));
    gzip(&format!(r#"{{"Records":[{}]}}"#, (0..records).map(record).collect::<Vec<_>>().join(",")))
}

fn number(record: &RawRecord) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&record.bytes).unwrap()["n"].as_u64().unwrap()
}

/// The result of a reading: the numbers of its records in order, the codes of its rejects, and the error at its end.
async fn read(objects: Arc<OneObject>, from: u64) -> (Vec<u64>, Vec<&'static str>, Option<AwsError>) {
    let reader = ObjectReader {
        objects,
        source: "trail".into(),
        clock: Clock::from_fn(|| crate::model::Time::from_millis(0)),
        max_expansion: 200,
    };
    let object = ObjectRef { bucket: "b".to_owned(), key: "k".to_owned(), region: None };
    let (sender, mut steps) = mpsc::channel(1);
    let progress = Progress { etag: "\"e\"".to_owned(), pieces: from };
    let reading = TaskTracker::new().spawn(reader.read(7, object, progress, sender));
    let (mut numbers, mut codes, mut failed) = (Vec::new(), Vec::new(), None);
    while let Some((reading, step)) = steps.recv().await {
        assert_eq!((reading, failed.is_some()), (7, false));
        match step {
            Ok(chunk) => {
                assert!(chunk.records.len() + chunk.rejected.len() <= CHUNK_RECORDS);
                let indices: Vec<u64> = chunk.records.iter().map(|record| record.origin.index).collect();
                numbers.extend(chunk.records.iter().map(number));
                assert!(indices.iter().all(|index| *index < chunk.progress.pieces));
                codes.extend(chunk.rejected.iter().map(|rejected| rejected.code));
            }
            Err(error) => failed = Some(error),
        }
    }
    reading.await.unwrap();
    (numbers, codes, failed)
}

#[tokio::test(start_paused = true)]
async fn a_reading_is_taken_up_where_it_broke() {
    let whole = log_file(3_000);
    let half = whole.len() / 2;
    let busy = || Err(AwsError::Throttled("SlowDown".to_owned()));
    let objects = OneObject::new(whole, [busy(), Ok(half), Ok(10), busy()]);
    let (numbers, codes, failed) = read(Arc::clone(&objects), 0).await;
    assert_eq!(numbers, (0..3_000).collect::<Vec<_>>(), "each once, in order");
    assert_eq!((codes.len(), failed), (0, None));
    assert_eq!(*objects.tries.lock().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_is_passed_over() {
    let objects = OneObject::new(log_file(700), []);
    assert_eq!(read(objects, 640).await, ((640..700).collect(), vec![], None));
    let objects = OneObject::new(log_file(700), []);
    assert_eq!(read(objects, 700).await, (vec![], vec![], None));
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_after_some_tries_and_at_once_when_refused() {
    let gone = AwsError::NotFound("NoSuchKey".to_owned());
    let objects = OneObject::new(log_file(1), [Err(gone.clone())]);
    assert_eq!(read(Arc::clone(&objects), 0).await, (vec![], vec![], Some(gone)));
    let objects = OneObject::new(log_file(2_000), std::iter::repeat_n(Ok(40), 50));
    let (numbers, codes, failed) = read(Arc::clone(&objects), 0).await;
    assert!(numbers.is_empty() && codes.is_empty(), "a body that broke off is not a broken object: {codes:?}");
    assert!(failed.unwrap().to_string().contains("ended after 40 of"));
    assert_eq!(*objects.tries.lock().unwrap(), TRIES as usize);
}

#[tokio::test]
async fn an_object_that_is_broken_itself_is_told_once() {
    let mut broken = log_file(1_000);
    broken.truncate(broken.len() / 2);
    let (numbers, codes, failed) = read(OneObject::new(broken, []), 0).await;
    assert!(numbers.len() > 100 && codes.contains(&"truncated") && failed.is_none(), "{codes:?} {failed:?}");
}
