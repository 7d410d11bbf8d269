//! EventBridge: whether a rule sends the required events to the queue.

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::RuleState;
use serde_json::{Value, json};

use super::super::Report;
use super::pattern::meets;
use super::policy::admits;
use super::queue::Queue;
use super::{is_refused, pretty, statement};
use crate::config::SqsConfig;
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};

/// The detail types of CloudTrail's events in EventBridge
/// (<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html>).
const CALLS: [&str; 4] = [
    "AWS API Call via CloudTrail",
    "AWS Service Event via CloudTrail",
    "AWS Console Sign In via CloudTrail",
    "AWS Console Action via CloudTrail",
];
const OBJECTS: &str = "Object Created";
/// Maximum number of rules of one target that are examined; a target has few.
const MOST_RULES: usize = 50;

/// The events that the queue should receive.
pub(super) enum Wanted<'a> {
    /// The calls that a trail logs.
    Calls,
    /// Notices of a bucket's new objects.
    Objects { bucket: &'a str },
}

impl Wanted<'_> {
    /// An event of each kind, as far as patterns examine them.
    fn samples(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Calls => CALLS
                .into_iter()
                .map(|kind| {
                    let detail =
                        json!({ "eventSource": "ec2.amazonaws.com", "eventName": "RunInstances", "readOnly": false });
                    (kind, json!({ "source": "aws.ec2", "detail-type": kind, "detail": detail }))
                })
                .collect(),
            Self::Objects { bucket } => {
                let key = "AWSLogs/111122223333/CloudTrail/us-east-1/2026/01/01/x.json.gz";
                let detail = json!({ "bucket": { "name": bucket }, "object": { "key": key } });
                vec![(OBJECTS, json!({ "source": "aws.s3", "detail-type": OBJECTS, "detail": detail }))]
            }
        }
    }

    /// A pattern that all of these events match.
    fn pattern(&self) -> Value {
        match self {
            Self::Calls => {
                json!({ "detail-type": CALLS, "detail": { "readOnly": [{ "anything-but": [true] }] } })
            }
            Self::Objects { bucket } => json!({
                "source": ["aws.s3"], "detail-type": [OBJECTS], "detail": { "bucket": { "name": [bucket] } },
            }),
        }
    }
}

/// A rule whose target is the queue.
struct Rule {
    name: String,
    arn: String,
    is_enabled: bool,
    pattern: Value,
}

pub(super) async fn examine(
    sqs: &SqsConfig,
    connector: &Connector,
    queue: &Queue,
    wanted: &Wanted<'_>,
    report: &mut Report,
) {
    let client = Client::new(&connector.config(sqs.queue_region().as_deref(), None));
    let rules = match to(&client, &queue.arn).await {
        Ok(rules) => rules,
        Err(error) => {
            let remedy = if is_refused(&error) {
                statement(&["events:ListRuleNamesByTarget", "events:DescribeRule"], "*")
            } else {
                "check the network path to EventBridge".to_owned()
            };
            report.note("rule", &format!("can't be checked: {error}"), &remedy);
            return;
        }
    };
    judge(&rules, queue, wanted, report);
}

/// The rules on the default bus, to which AWS services send their events, whose target is the queue.
async fn to(client: &Client, target: &str) -> Result<Vec<Rule>, AwsError> {
    let request = client.list_rule_names_by_target().target_arn(target);
    let answer = Box::pin(request.send()).await;
    let answer = answer.map_err(|error| classify(&error, "events:ListRuleNamesByTarget"))?;
    let mut rules = Vec::new();
    for name in answer.rule_names().iter().take(MOST_RULES) {
        let answer = Box::pin(client.describe_rule().name(name).send()).await;
        let answer = answer.map_err(|error| classify(&error, "events:DescribeRule"))?;
        let pattern = answer.event_pattern().and_then(|pattern| serde_json::from_str(pattern).ok());
        rules.push(Rule {
            name: name.clone(),
            arn: answer.arn().unwrap_or_default().to_owned(),
            is_enabled: answer.state() != Some(&RuleState::Disabled),
            pattern: pattern.unwrap_or_default(),
        });
    }
    Ok(rules)
}

fn judge(rules: &[Rule], queue: &Queue, wanted: &Wanted<'_>, report: &mut Report) {
    let put_rule =
        |name: &str| format!("aws events put-rule --name {name} --event-pattern \\\n'{}'", pretty(&wanted.pattern()));
    if rules.is_empty() {
        let remedy = format!(
            "{}\naws events put-targets --rule catchment --targets Id=catchment,Arn={}",
            put_rule("catchment"),
            queue.arn
        );
        report.missing("rule", "no rule of the default event bus has the queue as its target", &remedy);
        return;
    }
    let (enabled, disabled): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.is_enabled);
    for rule in &disabled {
        let found = format!("{} has the queue as its target, but is disabled", rule.name);
        report.missing("rule", &found, &format!("aws events enable-rule --name {}", rule.name));
    }
    let is_sent = |event: &Value| enabled.iter().any(|rule| meets(&rule.pattern, event));
    let left_out: Vec<_> =
        wanted.samples().into_iter().filter(|(_, event)| !is_sent(event)).map(|(kind, _)| kind).collect();
    let names = enabled.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ");
    match enabled.first() {
        None => {}
        Some(_) if left_out.is_empty() => {
            report.fine("rule", &format!("{names}: enabled, and sends the queue everything that catchment needs"))
        }
        Some(first) => {
            let found = format!("{names}: does not send, or only in part: {}", left_out.join(", "));
            report.missing("rule", &found, &put_rule(&first.name));
        }
    }
    for rule in enabled {
        if !admits(queue.policy.as_ref(), "sqs:SendMessage", "events.amazonaws.com", &rule.arn) {
            let remedy = queue.let_send("RuleSends", "events.amazonaws.com", &rule.arn);
            report.missing("queue policy", &format!("{} may not send to the queue", rule.name), &remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "arn:aws:sqs:eu-west-1:111122223333:catchment";
    const RULE: &str = "arn:aws:events:eu-west-1:111122223333:rule/calls";

    fn rule(is_enabled: bool, pattern: Value) -> Rule {
        Rule { name: "calls".to_owned(), arn: RULE.to_owned(), is_enabled, pattern }
    }

    fn judged(rules: &[Rule], wanted: &Wanted<'_>, source: &str) -> Report {
        let policy = json!({ "Statement": [{ "Effect": "Allow", "Principal": { "Service": "events.amazonaws.com" },
            "Action": "sqs:SendMessage", "Resource": QUEUE, "Condition": { "ArnEquals": { "aws:SourceArn": source } } }] });
        let queue = Queue { arn: QUEUE.to_owned(), bucket: None, policy: Some(policy) };
        let mut report = Report::default();
        judge(rules, &queue, wanted, &mut report);
        report
    }

    #[test]
    fn a_rule_must_be_there_be_enabled_cover_all_and_be_let_in() {
        let bucket = Wanted::Objects { bucket: "trail" };
        for (rules, wanted, source, expected) in [
            (
                vec![],
                &Wanted::Calls,
                RULE,
                vec!["no rule of the default event bus", "put-rule --name catchment", "put-targets"],
            ),
            (vec![rule(true, Wanted::Calls.pattern())], &Wanted::Calls, RULE, vec![]),
            (vec![rule(true, bucket.pattern())], &bucket, RULE, vec![]),
            (vec![rule(false, Wanted::Calls.pattern())], &Wanted::Calls, RULE, vec!["enable-rule --name calls"]),
            (
                vec![rule(true, json!({ "detail-type": CALLS[..2] }))],
                &Wanted::Calls,
                RULE,
                vec![
                    "does not send, or only in part: AWS Console Sign In via CloudTrail, AWS Console Action",
                    "put-rule --name calls",
                ],
            ),
            (
                vec![
                    rule(true, json!({ "detail-type": CALLS[..2] })),
                    rule(true, json!({ "detail-type": CALLS[2..] })),
                ],
                &Wanted::Calls,
                RULE,
                vec![],
            ),
            (
                vec![rule(true, Wanted::Calls.pattern())],
                &bucket,
                RULE,
                vec!["does not send, or only in part: Object Created"],
            ),
            (
                vec![rule(true, Wanted::Calls.pattern())],
                &Wanted::Calls,
                "arn:aws:events:eu-west-1:111122223333:rule/other",
                vec!["calls may not send to the queue", RULE],
            ),
        ] {
            let report = judged(&rules, wanted, source);
            assert_eq!(report.missing == 0, expected.is_empty(), "{}", report.text);
            for expected in expected {
                assert!(report.text.contains(expected), "{expected}: {}", report.text);
            }
        }
    }
}
