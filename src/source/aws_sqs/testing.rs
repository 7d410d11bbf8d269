//! A queue and a bucket in memory, for tests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::queue::{BATCH, Message, Queue, Redrive};
use crate::source::aws::AwsError;
use crate::source::aws::object::{Body, Listed, Listing, ObjectRef, Objects};

#[derive(Clone, Debug)]
pub(super) struct Stored {
    body: Bytes,
    receives: u32,
    pub(super) visible_at: Instant,
    receipt: String,
}

type Watch = Box<dyn Fn(&Bytes) + Send>;

/// A queue that behaves as SQS documents: a message becomes visible again after its timeout, and an outdated receipt
/// deletes nothing.
#[derive(Default)]
pub(super) struct FakeQueue {
    pub(super) messages: Mutex<BTreeMap<u32, Stored>>,
    pub(super) dead: Mutex<Vec<Bytes>>,
    pub(super) redrive: Mutex<Option<Redrive>>,
    pub(super) errors: Mutex<Vec<AwsError>>,
    pub(super) deleted: Mutex<Vec<Bytes>>,
    sent: Mutex<u32>,
    /// Called before each delete with the bodies.
    pub(super) watch: Mutex<Option<Watch>>,
}

impl FakeQueue {
    pub(super) fn send(&self, body: impl Into<Bytes>) {
        let mut sent = self.sent.lock().unwrap();
        *sent += 1;
        let stored = Stored { body: body.into(), receives: 0, visible_at: Instant::now(), receipt: String::new() };
        self.messages.lock().unwrap().insert(*sent, stored);
    }

    fn due(&self, invisible: Duration) -> Vec<Message> {
        let now = Instant::now();
        let mut messages = self.messages.lock().unwrap();
        let limit = self.redrive.lock().unwrap().as_ref().map_or(u32::MAX, |redrive| redrive.max_receive_count);
        let visible = messages.iter().filter(|(_, message)| message.visible_at <= now).map(|(number, _)| *number);
        let mut received = Vec::new();
        for number in visible.take(BATCH).collect::<Vec<_>>() {
            if messages[&number].receives >= limit {
                self.dead.lock().unwrap().extend(messages.remove(&number).map(|message| message.body));
                continue;
            }
            let message = messages.get_mut(&number).unwrap();
            message.receives += 1;
            message.visible_at = now + invisible;
            message.receipt = format!("{number}/{}", message.receives);
            let (id, receipt, body) = (format!("m{number}"), message.receipt.clone(), message.body.clone());
            received.push(Message { id, receipt, body, receives: message.receives, sent: Some(0) });
        }
        received
    }

    pub(super) fn left(&self) -> usize {
        self.messages.lock().unwrap().len()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn receive(&self, invisible: Duration) -> Result<Vec<Message>, AwsError> {
        let waited_until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(error) = self.errors.lock().unwrap().pop() {
                return Err(error);
            }
            let received = self.due(invisible);
            if !received.is_empty() || Instant::now() >= waited_until {
                return Ok(received);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn delete(&self, receipts: &[String]) -> Result<Vec<String>, AwsError> {
        let mut messages = self.messages.lock().unwrap();
        for receipt in receipts {
            if let Some(number) = messages.iter().find(|(_, m)| m.receipt == *receipt).map(|(number, _)| *number) {
                let message = messages.remove(&number).unwrap();
                if let Some(watch) = &*self.watch.lock().unwrap() {
                    watch(&message.body);
                }
                self.deleted.lock().unwrap().push(message.body);
            }
        }
        Ok(Vec::new())
    }

    async fn keep(&self, receipts: &[String], invisible: Duration) -> Result<(), AwsError> {
        for message in self.messages.lock().unwrap().values_mut().filter(|m| receipts.contains(&m.receipt)) {
            message.visible_at = Instant::now() + invisible;
        }
        Ok(())
    }

    async fn redrive(&self) -> Result<Option<Redrive>, AwsError> {
        Ok(self.redrive.lock().unwrap().clone())
    }
}

/// A bucket, whose objects can be slow or fail.
#[derive(Default)]
pub(super) struct FakeBucket {
    pub(super) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(super) slow: Mutex<BTreeMap<String, Duration>>,
    pub(super) errors: Mutex<BTreeMap<String, AwsError>>,
    pub(super) gets: Mutex<Vec<String>>,
}

#[async_trait]
impl Objects for FakeBucket {
    async fn get(&self, object: &ObjectRef) -> Result<Body, AwsError> {
        self.gets.lock().unwrap().push(object.key.clone());
        let wait = self.slow.lock().unwrap().get(&object.key).copied();
        sleep(wait.unwrap_or_default()).await;
        if let Some(error) = self.errors.lock().unwrap().get(&object.key) {
            return Err(error.clone());
        }
        let found = self.objects.lock().unwrap().get(&object.key).cloned();
        let bytes = found.ok_or_else(|| AwsError::NotFound("NoSuchKey".to_owned()))?;
        Ok(Body {
            bytes: Some(bytes.len() as u64),
            stream: ByteStream::new(SdkBody::from(bytes)),
            etag: "e".to_owned(),
        })
    }

    async fn list(&self, _: Listing<'_>, _: Option<String>) -> Result<Listed, AwsError> {
        Ok(Listed::default())
    }
}
