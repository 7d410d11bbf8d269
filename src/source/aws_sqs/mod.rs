//! CloudTrail through SQS: log files in S3 that a queue gives notice of (`aws_s3_sqs`), and events that EventBridge
//! puts into a queue (`aws_eventbridge_sqs`). Both are the same loop, since a message says by itself what it is
//! (`notice.rs`); what comes both ways is in the stream once, by its event id.
//!
//! ```text
//! receivers → desk → object readings → desk → intake → settling → deletes
//! ```
//!
//! A message is deleted after everything that it stands for is durable. Until then it is kept invisible (`hand.rs`),
//! and how far its objects were delivered commits with their records (`ledger.rs`). Memory is bounded by the messages in
//! hand and by a few chunks of each object that is being read; when the pipeline is full, nothing is received.

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

/// Log files in S3, as in the configuration.
pub const S3_KIND: &str = "aws_s3_sqs";
/// Events by EventBridge, as in the configuration.
pub const EVENTBRIDGE_KIND: &str = "aws_eventbridge_sqs";

/// Receive calls under way at once.
const RECEIVERS: usize = 4;
/// Delete calls under way at once.
const DELETERS: usize = 4;
/// Deliveries handed over and not yet durable.
const SETTLING: usize = 64;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// When the service refuses us, only a person can change that.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// When stopping: what was handed over may become durable and be deleted, then the rest is given back.
const STOP_SETTLE: Duration = Duration::from_millis(700);
const STOP_GIVE_BACK: Duration = Duration::from_millis(400);

/// `[sources.<name>.aws_s3_sqs]` and `[sources.<name>.aws_eventbridge_sqs]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqsConfig {
    /// The queue's address: `https://sqs.eu-west-1.amazonaws.com/111122223333/catchment`.
    pub queue_url: String,
    /// The queue's region, where its address does not tell it.
    pub region: Option<String>,
    /// The region of buckets of which the notice does not tell it (CloudTrail's own), where it is not the queue's.
    pub s3_region: Option<String>,
    /// Objects read at once, each of another account or region.
    #[serde(default = "parallel_objects")]
    pub parallel_objects: usize,
    /// How long a message is invisible to others after it was received or last kept, in seconds.
    #[serde(default = "visibility_secs")]
    pub visibility_secs: u64,
    /// How long a receive waits for the first message, in seconds.
    #[serde(default = "wait_secs")]
    pub wait_secs: u64,
    /// Tries before an object that can't be read is quarantined by its name, where the queue has no redrive policy.
    #[serde(default = "max_receives")]
    pub max_receives: u32,
    /// How many times its size an object may grow before it is taken for a bomb, once it has grown to 64 MiB.
    #[serde(default = "max_expansion")]
    pub max_expansion: u32,
    /// A role to assume for queue and bucket.
    pub role_arn: Option<String>,
    /// What the role's trust policy asks for.
    pub external_id: Option<String>,
    /// Credentials, where the environment's own are not meant.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// See `access_key_id`.
    pub session_token: Option<Secret>,
    /// Another endpoint of SQS than the public one.
    pub sqs_endpoint_url: Option<String>,
    /// Another endpoint of S3.
    pub s3_endpoint_url: Option<String>,
    /// Another endpoint of STS.
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
    /// The queue's region: named, or by its address (<https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>).
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

    /// Makes clients with these credentials.
    pub(crate) async fn connect(&self) -> Connector {
        let connector = Connector::load(&self.access()).await;
        match self.role() {
            Some(role) => connector.assume(&role).await,
            None => connector,
        }
    }

    /// The bucket's side of the configuration.
    pub(crate) fn s3(&self, connector: Connector, metrics: &Metrics, source: &SourceId) -> Arc<S3> {
        let region = self.s3_region.clone().or_else(|| self.queue_region());
        S3::new(connector, region, self.s3_endpoint_url.clone(), metrics.requests(&source.0))
    }
}

/// Takes what a queue tells of.
pub struct SqsSource {
    id: SourceId,
    config: SqsConfig,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The last position that is known to be durable.
    cursor: Arc<Mutex<Option<Bytes>>>,
    /// Where the configured ones are not meant.
    peers: Option<(Arc<dyn Queue>, Arc<dyn Objects>)>,
}

impl SqsSource {
    /// A source that goes on after `cursor`, the position that the log has of it.
    #[must_use]
    pub fn new(id: SourceId, config: SqsConfig, cursor: Option<Bytes>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { id, config, clock, metrics, cursor: Arc::new(Mutex::new(cursor)), peers: None }
    }

    fn ledger(&self) -> Result<Ledger, SourceError> {
        let cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cursor) = cursor.as_ref() else { return Ok(Ledger::default()) };
        Ledger::decode(cursor, self.clock.now().millis()).map_err(|cause| SourceError::Upstream {
            action: "take up reading the queue".to_owned(),
            cause: format!("the saved position is not one of this version: {cause}"),
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
        // Dropped with this future, and what runs in them. The second set goes on for a moment when the first is stopped.
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
            // The desk is gone, and with it the last sender: what was handed over is settled, then deleted.
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
            cause: format!("a part of the source broke off: {other:?}"),
        },
    }
}

/// Receives for as long as the source runs.
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
mod fakes;
#[cfg(test)]
mod tests;
