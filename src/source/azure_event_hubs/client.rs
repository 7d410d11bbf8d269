//! The hub as the loops see it, behind traits so that they can be tested without one; and the implementation by the
//! SDK.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core_amqp::AmqpValue;
use azure_core_amqp::message::AmqpMessageBody;
use azure_messaging_eventhubs::models::ReceivedEventData;
use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition};
use bytes::Bytes;
use tokio_stream::{Stream, StreamExt};

use super::config::{Credential, EventHubsConfig};
use super::credential::Tokens;
use super::error::HubError;
use super::place::Place;
use crate::model::Time;
use crate::secret::Secret;

/// Timeout for connecting, and for each request. The service mostly responds within a second; a developer's `az` takes
/// some seconds for a token.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for closing, which nothing depends on.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Properties of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Properties {
    /// When it was created, in milliseconds since 1970. A hub that was deleted and recreated numbers its events anew.
    pub(super) created: Option<i64>,
    /// The ids of its partitions.
    pub(super) partitions: Vec<String>,
}

/// The ends of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The sequence number of the oldest available event.
    pub(super) first: i64,
    /// The sequence number of the newest event; -1 if there never was one.
    pub(super) last: i64,
    /// The newest event's offset.
    pub(super) last_offset: String,
    /// When the newest event was enqueued.
    pub(super) last_enqueued: Option<Time>,
}

/// A received event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) sequence: i64,
    pub(super) offset: String,
    pub(super) enqueued: Option<Time>,
    /// Its bytes, or the kind of body that it has instead.
    pub(super) body: Result<Bytes, &'static str>,
}

/// The events of a partition; ends with an error.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<Event, HubError>> + Send>>;

/// Opens connections.
#[async_trait]
pub(super) trait Connect: Send + Sync {
    /// Opens a connection.
    async fn connect(&self) -> Result<Box<dyn Connection>, HubError>;
}

/// A connection to the hub. It must not be used after an error.
#[async_trait]
pub(super) trait Connection: Send + Sync {
    async fn properties(&self) -> Result<Properties, HubError>;
    async fn ends(&self, partition: &str) -> Result<Ends, HubError>;
    /// Streams the events of a partition from a position on, without end.
    async fn read(&self, partition: &str, from: &Place) -> Result<Events, HubError>;
    async fn close(self: Box<Self>);
}

/// The credential for a connection.
enum Login {
    Tokens(Arc<Tokens>),
    ConnectionString(Secret),
}

/// Connections through the Azure SDK.
pub(super) struct Sdk {
    config: EventHubsConfig,
    login: Login,
}

impl Sdk {
    /// Prepares connections. Makes no request yet.
    pub(super) fn new(config: EventHubsConfig) -> Result<Self, HubError> {
        let login = match &config.credential {
            Some(Credential::ConnectionString(secret)) => Login::ConnectionString(secret.clone()),
            other => {
                let tokens = Tokens::new(other.as_ref(), config.cloud);
                Login::Tokens(tokens.map_err(|error| HubError::credential(&error))?)
            }
        };
        Ok(Self { config, login })
    }
}

#[async_trait]
impl Connect for Sdk {
    async fn connect(&self) -> Result<Box<dyn Connection>, HubError> {
        let mut builder = ConsumerClient::builder()
            .with_consumer_group(self.config.consumer_group.clone())
            .with_application_id("catchment".to_owned())
            // The SDK's own recovery resumes where the link first began: events would be missed or repeated. We create
            // a new client at the right position instead.
            .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() });
        if let Some(endpoint) = &self.config.endpoint {
            builder = builder.with_custom_endpoint(endpoint.clone());
        }
        let hub = self.config.hub.clone();
        let opened = within("open the connection", async {
            match &self.login {
                Login::Tokens(tokens) => {
                    let tokens: Arc<dyn TokenCredential> = Arc::<Tokens>::clone(tokens);
                    builder.open(&self.config.host(), hub, tokens).await
                }
                Login::ConnectionString(secret) => {
                    builder.open_with_connection_string(secret.expose(), Some(&hub)).await
                }
            }
        });
        Ok(Box::new(SdkConnection { client: Box::pin(opened).await?, prefetch: self.config.prefetch }))
    }
}

struct SdkConnection {
    client: ConsumerClient,
    prefetch: u32,
}

#[async_trait]
impl Connection for SdkConnection {
    async fn properties(&self) -> Result<Properties, HubError> {
        let found = within("get the hub's properties", Box::pin(self.client.get_eventhub_properties())).await?;
        Ok(Properties { created: found.created_on.map(|at| time(at).millis()), partitions: found.partition_ids })
    }

    async fn ends(&self, partition: &str) -> Result<Ends, HubError> {
        let found =
            within("get a partition's properties", Box::pin(self.client.get_partition_properties(partition))).await?;
        Ok(Ends {
            first: found.beginning_sequence_number,
            last: found.last_enqueued_sequence_number,
            last_offset: found.last_enqueued_offset,
            last_enqueued: found.last_enqueued_time_utc.map(time).filter(|_| !found.is_empty),
        })
    }

    async fn read(&self, partition: &str, from: &Place) -> Result<Events, HubError> {
        let location = match from {
            Place::Earliest => StartLocation::Earliest,
            Place::Since { millis } => StartLocation::EnqueuedTime(system_time(*millis)),
            Place::After { offset, .. } => StartLocation::Offset(offset.clone()),
        };
        let inclusive = matches!(from, Place::Since { .. });
        let options = OpenReceiverOptions {
            start_position: Some(StartPosition { location, inclusive }),
            prefetch: Some(self.prefetch),
            ..OpenReceiverOptions::default()
        };
        let opened = self.client.open_receiver_on_partition(partition.to_owned(), Some(options));
        let receiver = within("open the partition", Box::pin(opened)).await?;
        Ok(Box::pin(async_stream::stream! {
            let mut events = pin!(receiver.stream_events());
            while let Some(received) = events.next().await {
                yield received.map_err(|error| HubError::of(&error)).and_then(|received| event(&received));
            }
        }))
    }

    async fn close(self: Box<Self>) {
        // The connection is given up whether or not the service says goodbye as well.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, Box::pin(self.client.close())).await;
    }
}

/// Adds a timeout to a request, since the SDK waits for ever when the service does not respond.
async fn within<T>(
    what: &'static str,
    answer: impl Future<Output = azure_messaging_eventhubs::Result<T>>,
) -> Result<T, HubError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| HubError::of(&error)),
        Err(_) => Err(HubError::Silent { what, secs: ANSWER_TIMEOUT.as_secs() }),
    }
}

fn event(received: &ReceivedEventData) -> Result<Event, HubError> {
    let (Some(sequence), Some(offset)) = (received.sequence_number(), received.offset().clone()) else {
        return Err(HubError::Unavailable("an event has no sequence number or offset".to_owned()));
    };
    let body = body(&received.raw_amqp_message().body);
    Ok(Event { sequence, offset, enqueued: received.enqueued_time().map(time), body })
}

/// The bytes of a message of any body type
/// (<https://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-messaging-v1.0-os.html#section-message-format>).
fn body(body: &AmqpMessageBody) -> Result<Bytes, &'static str> {
    match body {
        AmqpMessageBody::Binary(sections) => match sections.as_slice() {
            [one] => Ok(Bytes::copy_from_slice(one)),
            several => Ok(Bytes::from(several.concat())),
        },
        AmqpMessageBody::Value(AmqpValue::String(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        AmqpMessageBody::Value(AmqpValue::Binary(bytes)) => Ok(Bytes::copy_from_slice(bytes)),
        AmqpMessageBody::Value(_) => Err("a value that is neither text nor bytes"),
        AmqpMessageBody::Sequence(_) => Err("a sequence of values"),
        AmqpMessageBody::Empty => Err("no body"),
    }
}

fn time(at: SystemTime) -> Time {
    let millis = match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
    };
    Time::from_millis(millis)
}

fn system_time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
