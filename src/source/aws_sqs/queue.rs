//! A queue, behind a trait so that the loop can be tested without a service
//! (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/Welcome.html>).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageSystemAttributeName, QueueAttributeName,
};
use bytes::Bytes;
use serde::Deserialize;

use crate::metrics::Requests;
use crate::source::aws::AwsError;
use crate::source::aws::error::classify;

/// Most messages per call.
pub(super) const BATCH: usize = 10;

/// A received message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The message id, the same at each receive.
    pub(super) id: String,
    /// The receipt handle of this receive.
    pub(super) receipt: String,
    pub(super) body: Bytes,
    /// How often it has been received, this time included.
    pub(super) receives: u32,
    /// When it was sent, in milliseconds since 1970, if known.
    pub(super) sent: Option<i64>,
}

/// A queue's redrive policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Redrive {
    pub(super) dead_letter_target_arn: String,
    /// Deserializes a number, or a number as text.
    #[serde(deserialize_with = "number")]
    pub(super) max_receive_count: u32,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| serde::de::Error::custom("no number"))
}

/// The SQS calls in use.
#[async_trait]
pub(super) trait Queue: Send + Sync {
    /// Receives up to ten messages, which become invisible for a while. Waits some seconds for the first.
    async fn receive(&self, invisible: Duration) -> Result<Vec<Message>, AwsError>;
    /// Deletes up to ten messages by receipt. Returns those that failed and may be retried.
    async fn delete(&self, receipts: &[String]) -> Result<Vec<String>, AwsError>;
    /// Sets the visibility timeout of up to ten messages, from now. Messages that are gone are ignored.
    async fn keep(&self, receipts: &[String], invisible: Duration) -> Result<(), AwsError>;
    /// The redrive policy, if there is one.
    async fn redrive(&self) -> Result<Option<Redrive>, AwsError>;
}

/// An SQS queue.
pub(super) struct Sqs {
    client: Client,
    url: String,
    wait_secs: i32,
    requests: Requests,
}

impl Sqs {
    pub(super) fn new(client: Client, url: String, wait_secs: u64, requests: Requests) -> Arc<Self> {
        Arc::new(Self { client, url, wait_secs: i32::try_from(wait_secs).unwrap_or(20), requests })
    }

    fn grant(&self, action: &str) -> String {
        format!("sqs:{action} on the queue {}", self.url)
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// The failed entries of a batch that may be retried, since the fault was the service's.
fn to_retry(failed: &[BatchResultErrorEntry], receipts: &[String]) -> Vec<String> {
    let again = failed.iter().filter(|entry| !entry.sender_fault);
    again.filter_map(|entry| receipts.get(entry.id.parse::<usize>().ok()?).cloned()).collect()
}

#[async_trait]
impl Queue for Sqs {
    async fn receive(&self, invisible: Duration) -> Result<Vec<Message>, AwsError> {
        self.requests.count("ReceiveMessage");
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(BATCH).unwrap_or(1))
            .visibility_timeout(seconds(invisible))
            .wait_time_seconds(self.wait_secs)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let answer = Box::pin(request.send()).await.map_err(|error| classify(&error, &self.grant("ReceiveMessage")))?;
        let messages = answer.messages.unwrap_or_default().into_iter().filter_map(|message| {
            let attribute = |name| message.attributes.as_ref()?.get(&name)?.parse::<i64>().ok();
            let receives = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
            Some(Message {
                receives: receives.and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
                sent: attribute(MessageSystemAttributeName::SentTimestamp),
                id: message.message_id.unwrap_or_default(),
                receipt: message.receipt_handle?,
                body: message.body.unwrap_or_default().into(),
            })
        });
        Ok(messages.collect())
    }

    async fn delete(&self, receipts: &[String]) -> Result<Vec<String>, AwsError> {
        self.requests.count("DeleteMessageBatch");
        let mut request = self.client.delete_message_batch().queue_url(&self.url);
        for (index, receipt) in receipts.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build();
            request = request.entries(entry.map_err(|error| AwsError::Unavailable(error.to_string()))?);
        }
        let answer = Box::pin(request.send()).await.map_err(|error| classify(&error, &self.grant("DeleteMessage")))?;
        Ok(to_retry(&answer.failed, receipts))
    }

    async fn keep(&self, receipts: &[String], invisible: Duration) -> Result<(), AwsError> {
        self.requests.count("ChangeMessageVisibilityBatch");
        let mut request = self.client.change_message_visibility_batch().queue_url(&self.url);
        for (index, receipt) in receipts.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(seconds(invisible))
                .build();
            request = request.entries(entry.map_err(|error| AwsError::Unavailable(error.to_string()))?);
        }
        Box::pin(request.send()).await.map_err(|error| classify(&error, &self.grant("ChangeMessageVisibility")))?;
        Ok(())
    }

    async fn redrive(&self) -> Result<Option<Redrive>, AwsError> {
        self.requests.count("GetQueueAttributes");
        let request =
            self.client.get_queue_attributes().queue_url(&self.url).attribute_names(QueueAttributeName::RedrivePolicy);
        let answer =
            Box::pin(request.send()).await.map_err(|error| classify(&error, &self.grant("GetQueueAttributes")))?;
        let attributes = answer.attributes.unwrap_or_default();
        let Some(policy) = attributes.get(&QueueAttributeName::RedrivePolicy) else { return Ok(None) };
        let unknown = |error| AwsError::Unavailable(format!("the queue's redrive policy {policy:?}: {error}"));
        serde_json::from_str(policy).map(Some).map_err(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_policy_is_read_in_both_spellings() {
        for count in ["5", r#""5""#] {
            let text = format!(
                r#"{{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:111122223333:dead","maxReceiveCount":{count}}}"#
            );
            let redrive: Redrive = serde_json::from_str(&text).unwrap();
            assert_eq!(redrive.max_receive_count, 5);
        }
    }

    #[test]
    fn only_the_services_own_failures_are_tried_again() {
        let failed =
            |id: &str, sender| BatchResultErrorEntry::builder().id(id).code("x").sender_fault(sender).build().unwrap();
        let receipts = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(to_retry(&[failed("0", true), failed("2", false)], &receipts), ["c"]);
    }
}
