//! SNS: whether a topic that receives notifications forwards them to the queue.

use aws_sdk_sns::Client;
use serde_json::json;

use super::super::Report;
use super::policy::admits;
use super::queue::Queue;
use super::{is_refused, pretty, statement};
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};

const ACTIONS: [&str; 3] = ["sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic", "sns:GetSubscriptionAttributes"];
/// Maximum number of pages of subscriptions that are read, with a hundred on each.
const MOST_PAGES: usize = 20;

/// A topic, and what notifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) arn: String,
    /// `s3.amazonaws.com` or `cloudtrail.amazonaws.com`.
    pub(super) publisher: &'static str,
    /// The ARN of the bucket or trail.
    pub(super) source: String,
}

pub(super) async fn examine(connector: &Connector, queue: &Queue, topic: &Topic, report: &mut Report) {
    let region = topic.arn.split(':').nth(3);
    let client = Client::new(&connector.config(region, None));
    if let Err(error) = look(&client, queue, topic, report).await {
        match &error {
            AwsError::NotFound(_) => {
                let remedy = "create it, or send the notifications to another topic that exists";
                report.missing("topic", &format!("{}: {error}", topic.arn), remedy);
            }
            error => {
                let remedy = if is_refused(error) {
                    statement(&ACTIONS, &topic.arn)
                } else {
                    "check the network path to SNS".to_owned()
                };
                report.note("topic", &format!("{} can't be checked: {error}", topic.arn), &remedy);
            }
        }
    }
}

async fn look(client: &Client, queue: &Queue, topic: &Topic, report: &mut Report) -> Result<(), AwsError> {
    let answer = Box::pin(client.get_topic_attributes().topic_arn(&topic.arn).send()).await;
    let answer = answer.map_err(|error| classify(&error, ACTIONS[0]))?;
    let policy = answer.attributes().and_then(|attributes| attributes.get("Policy"));
    let policy = policy.and_then(|policy| serde_json::from_str(policy).ok());
    if admits(policy.as_ref(), "sns:Publish", topic.publisher, &topic.source) {
        report.fine("topic", &format!("{} accepts messages from {}", topic.arn, topic.publisher));
    } else {
        let publishes = json!({
            "Sid": "TrailGivesNotice", "Effect": "Allow", "Principal": { "Service": topic.publisher }, "Action": "sns:Publish",
            "Resource": topic.arn, "Condition": { "ArnEquals": { "aws:SourceArn": topic.source } },
        });
        report.missing(
            "topic policy",
            &format!("{} may not publish to {}", topic.source, topic.arn),
            &pretty(&publishes),
        );
    }
    subscription(client, queue, topic, report).await?;
    if !admits(queue.policy.as_ref(), "sqs:SendMessage", "sns.amazonaws.com", &topic.arn) {
        let remedy = queue.let_send("TopicSends", "sns.amazonaws.com", &topic.arn);
        report.missing("queue policy", &format!("{} may not send to the queue", topic.arn), &remedy);
    }
    Ok(())
}

async fn subscription(client: &Client, queue: &Queue, topic: &Topic, report: &mut Report) -> Result<(), AwsError> {
    let Some(subscription) = of_queue(client, queue, topic).await? else {
        let remedy =
            format!("aws sns subscribe --topic-arn {} --protocol sqs --notification-endpoint {}", topic.arn, queue.arn);
        report.missing("subscription", &format!("the queue is not subscribed to {}", topic.arn), &remedy);
        return Ok(());
    };
    if !subscription.starts_with("arn:") {
        let remedy = "confirm it from the queue's account: aws sns confirm-subscription, with the token of the message in the queue";
        report.missing("subscription", &format!("that of the queue to {} is not confirmed", topic.arn), remedy);
        return Ok(());
    }
    let request = client.get_subscription_attributes().subscription_arn(&subscription);
    let answer = Box::pin(request.send()).await.map_err(|error| classify(&error, ACTIONS[2]))?;
    let get = |name: &str| answer.attributes()?.get(name).map(String::as_str);
    let shape = if get("RawMessageDelivery") == Some("true") { "raw" } else { "wrapped" };
    report.fine("subscription", &format!("the queue gets the topic's messages, {shape}; both forms are supported"));
    if let Some(policy) = get("FilterPolicy").filter(|policy| !matches!(*policy, "" | "{}")) {
        report.note(
            "subscription",
            &format!("only messages that match its filter policy are delivered: {policy}"),
            "remove the filter policy",
        );
    }
    Ok(())
}

/// The queue's subscription to a topic: its ARN, or a text that says that it is not confirmed.
async fn of_queue(client: &Client, queue: &Queue, topic: &Topic) -> Result<Option<String>, AwsError> {
    let mut page = None;
    for _ in 0..MOST_PAGES {
        let request = client.list_subscriptions_by_topic().topic_arn(&topic.arn).set_next_token(page);
        let answer = Box::pin(request.send()).await.map_err(|error| classify(&error, ACTIONS[1]))?;
        let found = answer
            .subscriptions()
            .iter()
            .find(|one| one.protocol() == Some("sqs") && one.endpoint() == Some(queue.arn.as_str()));
        if let Some(found) = found {
            return Ok(Some(found.subscription_arn().unwrap_or_default().to_owned()));
        }
        page = answer.next_token().map(str::to_owned);
        if page.is_none() {
            break;
        }
    }
    Ok(None)
}
