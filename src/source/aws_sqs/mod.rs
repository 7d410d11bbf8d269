//! CloudTrail through SQS: log files in S3 that a queue announces (`aws_s3_sqs`), and events that EventBridge puts into
//! a queue (`aws_eventbridge_sqs`). Both are the same loop, since a message shows its own kind (`notice.rs`); an event
//! that arrives both ways is in the stream once, by its event id.
//!
//! ```text
//! receivers → desk → object readings → desk → intake → settling → deletes
//! ```
//!
//! A message is deleted once everything that it announced is durable. Until then it is kept invisible (`hand.rs`), and
//! the progress with its objects commits with their records (`ledger.rs`). Memory is bounded by the messages in hand
//! and by a few chunks of each object being read; while the pipeline is full, nothing is received.

mod desk;
mod hand;
mod lanes;
mod ledger;
mod notice;
mod queue;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::desk::{Desk, Settling, Troubles};
use self::hand::{Hand, Number};
use self::ledger::Ledger;
use self::queue::{Message, Queue, Redrive, Sqs};
use super::aws::object::{Objects, S3};
use super::aws::reader::ObjectReader;
use super::aws::{Access, AwsError, Connector};
use super::{Clock, Intake, Source, SourceError, StatusHandle};
use crate::metrics::Metrics;
use crate::model::SourceId;
use crate::retry::Backoff;
use crate::secret::Secret;

pub(crate) use super::aws::access::Role;

/// The kind for log files in S3, as in the configuration.
pub const S3_KIND: &str = "aws_s3_sqs";
/// The kind for events through EventBridge, as in the configuration.
pub const EVENTBRIDGE_KIND: &str = "aws_eventbridge_sqs";

/// Concurrent receive calls.
const RECEIVERS: usize = 4;
/// Concurrent delete calls.
const DELETERS: usize = 4;
/// Deliveries in flight.
const SETTLING: usize = 64;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Wait after a refusal, which lasts until somebody changes something.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// On stop, how long to wait for deliveries in flight to become durable and their messages to be deleted, before the
/// rest is returned to the queue.
const STOP_SETTLE: Duration = Duration::from_millis(700);
const STOP_GIVE_BACK: Duration = Duration::from_millis(400);

/// `[sources.<name>.aws_s3_sqs]` and `[sources.<name>.aws_eventbridge_sqs]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqsConfig {
    /// The queue's URL: `https://sqs.eu-west-1.amazonaws.com/111122223333/catchment`.
    pub queue_url: String,
    /// The queue's region, if its URL does not show it.
    pub region: Option<String>,
    /// The region of buckets whose notifications don't name it (CloudTrail's own), if it is not the queue's.
    pub s3_region: Option<String>,
    /// Objects read concurrently, each of another account or region.
    #[serde(default = "parallel_objects")]
    pub parallel_objects: usize,
    /// The visibility timeout, in seconds, which is extended while a message is processed.
    #[serde(default = "visibility_secs")]
    pub visibility_secs: u64,
    /// How long a receive call waits for the first message, in seconds.
    #[serde(default = "wait_secs")]
    pub wait_secs: u64,
    /// Receives before an unreadable object is quarantined by name, for queues without a redrive policy.
    #[serde(default = "max_receives")]
    pub max_receives: u32,
    /// Largest expansion ratio of a compressed object, enforced once it has expanded to 64 MiB.
    #[serde(default = "max_expansion")]
    pub max_expansion: u32,
    /// A role to assume for access to queue and bucket.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy requires.
    pub external_id: Option<String>,
    /// Static credentials, instead of the environment's.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// See `access_key_id`.
    pub session_token: Option<Secret>,
    /// Endpoint of SQS, instead of the public one.
    pub sqs_endpoint_url: Option<String>,
    /// Endpoint of S3, instead of the public one.
    pub s3_endpoint_url: Option<String>,
    /// Endpoint of STS, instead of the public one.
    pub sts_endpoint_url: Option<String>,
}

fn parallel_objects() -> usize {
    8
}

fn visibility_secs() -> u64 {
    120
}

fn wait_secs() -> u64 {
    20
}

fn max_receives() -> u32 {
    10
}

fn max_expansion() -> u32 {
    200
}

impl SqsConfig {
    /// The queue's region: as configured, or from its URL
    /// (<https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>).
    #[must_use]
    pub fn queue_region(&self) -> Option<String> {
        if self.region.is_some() {
            return self.region.clone();
        }
        let host = self.queue_url.split_once("://")?.1.split('/').next()?;
        let mut labels = host.split('.');
        match (labels.next()?, labels.next()?, labels.next()?) {
            ("sqs" | "sqs-fips", region, "amazonaws" | "api") => Some(region.to_owned()),
            (region, "queue", "amazonaws") => Some(region.to_owned()),
            _ => None,
        }
    }

    pub(crate) fn access(&self) -> Access {
        Access {
            region: self.queue_region(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
            sts_endpoint_url: self.sts_endpoint_url.clone(),
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        self.role_arn.clone().map(|arn| Role { arn, external_id: self.external_id.clone() })
    }

    /// Creates a connector with the configured credentials.
    pub(crate) async fn connect(&self) -> Connector {
        let connector = Connector::load(&self.access()).await;
        match self.role() {
            Some(role) => connector.assume(&role).await,
            None => connector,
        }
    }

    /// Creates the S3 client for the configured region and endpoint.
    pub(crate) fn s3(&self, connector: Connector, metrics: &Metrics, source: &SourceId) -> Arc<S3> {
        let region = self.s3_region.clone().or_else(|| self.queue_region());
        S3::new(connector, region, self.s3_endpoint_url.clone(), metrics.requests(&source.0))
    }
}

/// Reads the objects and records that a queue's messages name or contain.
pub struct SqsSource {
    id: SourceId,
    config: SqsConfig,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The last durable position.
    cursor: Arc<Mutex<Option<Bytes>>>,
    /// Queue and bucket instead of the configured ones, for tests.
    peers: Option<(Arc<dyn Queue>, Arc<dyn Objects>)>,
}

impl SqsSource {
    /// Creates a source that resumes after `cursor`, its position in the log.
    #[must_use]
    pub fn new(id: SourceId, config: SqsConfig, cursor: Option<Bytes>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { id, config, clock, metrics, cursor: Arc::new(Mutex::new(cursor)), peers: None }
    }

    fn ledger(&self) -> Result<Ledger, SourceError> {
        let cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cursor) = cursor.as_ref() else { return Ok(Ledger::default()) };
        Ledger::decode(cursor, self.clock.now().millis()).map_err(|cause| SourceError::Upstream {
            action: "resume reading the queue".to_owned(),
            cause: format!("the saved position is not valid for this version: {cause}"),
        })
    }

    async fn peers(&self) -> (Arc<dyn Queue>, Arc<dyn Objects>) {
        if let Some(peers) = &self.peers {
            return peers.clone();
        }
        let connector = self.config.connect().await;
        let config = connector.config(None, self.config.sqs_endpoint_url.as_deref());
        let client = aws_sdk_sqs::Client::new(&config);
        let requests = self.metrics.requests(&self.id.0);
        let queue = Sqs::new(client, self.config.queue_url.clone(), self.config.wait_secs, requests);
        (queue, self.config.s3(connector, &self.metrics, &self.id))
    }

    async fn work(&self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        let (queue, objects) = self.peers().await;
        let troubles = Troubles::new(status.clone(), self.clock.clone());
        let Some(redrive) = stop.run_until_cancelled(self.redrive(&*queue)).await.transpose()? else { return Ok(()) };
        let ledger = Arc::new(Mutex::new(self.ledger()?));
        let hand = Hand::new(queue, Duration::from_secs(self.config.visibility_secs), Arc::clone(&ledger));
        let (durable, to_delete) = mpsc::channel(hand::MOST);
        let (handed_over, settling) = mpsc::channel(SETTLING);
        // Dropping this future ends them and their tasks. The second set continues for a moment after the first is
        // stopped.
        let (mut front, mut back) = (JoinSet::new(), JoinSet::new());
        let (received, messages) = mpsc::channel(RECEIVERS);
        for _ in 0..RECEIVERS {
            front.spawn(receive(hand.clone(), received.clone(), troubles.clone()));
        }
        front.spawn(hand.clone().keep_invisible());
        let settle = Settling { cursor: Arc::clone(&self.cursor), status, durable };
        back.spawn(settle.run(settling));
        let to_delete = Arc::new(tokio::sync::Mutex::new(to_delete));
        for _ in 0..DELETERS {
            back.spawn(delete(hand.clone(), Arc::clone(&to_delete)));
        }
        let reader = ObjectReader {
            objects,
            source: self.id.clone(),
            clock: self.clock.clone(),
            max_expansion: self.config.max_expansion,
        };
        let desk = Desk::new(self, reader, intake, hand.clone(), ledger, redrive, troubles, handed_over);
        let outcome = tokio::select! {
            biased;
            outcome = back.join_next() => Err(broke_off(outcome)),
            outcome = front.join_next() => Err(broke_off(outcome.map(|ended| ended.map(|()| Ok(()))))),
            outcome = stop.run_until_cancelled(desk.run(messages)) => outcome.unwrap_or(Ok(())),
        };
        if outcome.is_ok() {
            // The desk is gone, and with it the last sender: pending deliveries are settled, then their messages
            // deleted.
            front.shutdown().await;
            let _ = timeout(STOP_SETTLE, async { while back.join_next().await.is_some() {} }).await;
        }
        let _ = timeout(STOP_GIVE_BACK, hand.give_all_back()).await;
        outcome
    }

    async fn redrive(&self, queue: &dyn Queue) -> Result<Option<Redrive>, SourceError> {
        queue.redrive().await.map_err(|error| SourceError::Upstream {
            action: format!("read the attributes of {}", self.config.queue_url),
            cause: error.to_string(),
        })
    }
}

fn broke_off(outcome: Option<Result<Result<(), SourceError>, tokio::task::JoinError>>) -> SourceError {
    match outcome {
        Some(Ok(Err(error))) => error,
        other => SourceError::Upstream {
            action: "read the queue".to_owned(),
            cause: format!("a part of the source ended: {other:?}"),
        },
    }
}

/// Receives messages until the source ends.
async fn receive(hand: Hand, received: mpsc::Sender<Vec<(Number, Message)>>, troubles: Troubles) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let error = match hand.receive().await {
            Ok(messages) => {
                backoff.reset();
                troubles.over("receive messages");
                if messages.is_empty() {
                    troubles.caught_up();
                } else if received.send(messages).await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) => error,
        };
        let wait = backoff.next_wait();
        troubles.tell("receive messages", &error);
        let refused = matches!(error, AwsError::Refused { .. } | AwsError::NotFound(_));
        sleep(if refused { REFUSED_WAIT } else { wait }).await;
    }
}

async fn delete(hand: Hand, durable: Arc<tokio::sync::Mutex<mpsc::Receiver<Number>>>) -> Result<(), SourceError> {
    hand.delete(durable).await;
    Ok(())
}

#[async_trait]
impl Source for SqsSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        Box::pin(self.work(intake, status, stop)).await
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
