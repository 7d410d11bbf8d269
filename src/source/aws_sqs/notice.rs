//! Parses messages. Each form in which AWS announces CloudTrail's records through a queue is recognised by its content,
//! so that one queue may carry all of them:
//!
//! - S3's own notification (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>),
//!   and the `s3:TestEvent` that S3 sends when notifications are set up;
//! - CloudTrail's (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/configure-cloudtrail-to-send-notifications.html>);
//! - EventBridge's `Object Created` (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>) and its
//!   events `via CloudTrail`, which hold the record itself
//!   (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-aws-service-specific-topics.html>);
//! - any of these in the envelope of SNS (<https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>).

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::source::aws::object::ObjectRef;

/// Most nested envelopes. SNS within SNS is not a sensible setup.
const MAX_ENVELOPES: usize = 2;

/// A reason why a message names nothing to read, as a label of metrics.
pub(super) const TEST: &str = "test message";
/// See [`TEST`].
pub(super) const NOT_CREATED: &str = "object not created";
/// See [`TEST`].
pub(super) const INSIGHT: &str = "Insights events";
/// See [`TEST`].
pub(super) const OTHER_EVENT: &str = "other EventBridge event";
/// See [`TEST`].
pub(super) const SUBSCRIPTION: &str = "subscription message";

/// The content of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// Objects to read.
    pub(super) objects: Vec<ObjectRef>,
    /// A CloudTrail record within the message.
    pub(super) record: Option<Bytes>,
    /// What else it contains, by reason for ignoring it.
    pub(super) ignored: Vec<&'static str>,
}

/// The message has none of the known forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not a known notification from S3, CloudTrail, SNS or EventBridge: {0}")]
pub(super) struct NotANotice(String);

#[derive(Deserialize)]
struct Envelope<'a> {
    // SNS.
    #[serde(borrow, rename = "Type")]
    sns_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Message")]
    message: Option<Cow<'a, str>>,
    // S3.
    #[serde(borrow, rename = "Records")]
    records: Option<&'a RawValue>,
    #[serde(borrow, rename = "Event")]
    event: Option<Cow<'a, str>>,
    // CloudTrail.
    #[serde(borrow, rename = "s3Bucket")]
    bucket: Option<Cow<'a, str>>,
    #[serde(rename = "s3ObjectKey")]
    keys: Option<Vec<String>>,
    // EventBridge.
    #[serde(borrow, rename = "detail-type")]
    detail_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    region: Option<Cow<'a, str>>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    // A bare record: a rule of EventBridge may pass on only the detail.
    #[serde(borrow, rename = "eventSource")]
    event_source: Option<&'a RawValue>,
    #[serde(borrow, rename = "eventID")]
    event_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct S3Record {
    event_name: String,
    aws_region: Option<String>,
    s3: S3Entity,
}

#[derive(Deserialize)]
struct S3Entity {
    bucket: S3Bucket,
    object: S3Object,
}

#[derive(Deserialize)]
struct S3Bucket {
    name: String,
}

#[derive(Deserialize)]
struct S3Object {
    key: String,
}

/// Parses the body of a message.
///
/// # Errors
/// When it has none of the known forms.
pub(super) fn read(body: &Bytes) -> Result<Notice, NotANotice> {
    let mut body = body.clone();
    for _ in 0..=MAX_ENVELOPES {
        let Some(inner) = read_one(&body)? else { break };
        match inner {
            Inner::Notice(notice) => return Ok(notice),
            Inner::Message(message) => body = message,
        }
    }
    Err(NotANotice(format!("SNS envelopes more than {MAX_ENVELOPES} deep")))
}

enum Inner {
    Notice(Notice),
    Message(Bytes),
}

fn read_one(body: &Bytes) -> Result<Option<Inner>, NotANotice> {
    let envelope: Envelope<'_> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        // CloudTrail sends it when it is configured to use a topic.
        Err(_) if body.starts_with(b"CloudTrail validation message") => return Ok(Some(Inner::Notice(ignored(TEST)))),
        Err(error) => return Err(NotANotice(error.to_string())),
    };
    let notice = if let Some(records) = envelope.records {
        of_s3(records)?
    } else if let (Some(bucket), Some(keys)) = (&envelope.bucket, &envelope.keys) {
        of_cloudtrail(bucket, keys)
    } else if let Some(detail_type) = &envelope.detail_type {
        of_event_bridge(body, detail_type, envelope.region.as_deref(), envelope.detail)?
    } else if envelope.event.as_deref() == Some("s3:TestEvent") {
        ignored(TEST)
    } else if let Some(sns_type) = envelope.sns_type.as_deref() {
        return match (sns_type, envelope.message) {
            ("Notification", Some(message)) => Ok(Some(Inner::Message(Bytes::from(message.into_owned())))),
            ("SubscriptionConfirmation" | "UnsubscribeConfirmation", _) => {
                Ok(Some(Inner::Notice(ignored(SUBSCRIPTION))))
            }
            _ => Err(NotANotice(format!("an SNS message of type {sns_type:?}"))),
        };
    } else if envelope.event_source.is_some() && envelope.event_id.is_some() {
        Notice { record: Some(body.clone()), ..Notice::default() }
    } else {
        return Err(NotANotice("an object without any of their members".to_owned()));
    };
    Ok(Some(Inner::Notice(notice)))
}

fn ignored(reason: &'static str) -> Notice {
    Notice { ignored: vec![reason], ..Notice::default() }
}

fn of_s3(records: &RawValue) -> Result<Notice, NotANotice> {
    let records: Vec<S3Record> =
        serde_json::from_str(records.get()).map_err(|error| NotANotice(format!("Records: {error}")))?;
    let mut notice = Notice::default();
    for S3Record { event_name, aws_region, s3 } in records {
        if event_name.strip_prefix("s3:").unwrap_or(&event_name).starts_with("ObjectCreated:") {
            let key = url_decode(&s3.object.key)?;
            notice.objects.push(ObjectRef { bucket: s3.bucket.name, key, region: aws_region });
        } else {
            notice.ignored.push(NOT_CREATED);
        }
    }
    Ok(notice)
}

/// Decodes a key of an S3 event notification, where `+` is a space.
fn url_decode(key: &str) -> Result<String, NotANotice> {
    let spaced = key.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| NotANotice(format!("the key {key:?} is not UTF-8")))
}

fn of_cloudtrail(bucket: &str, keys: &[String]) -> Notice {
    let object = |key: &String| ObjectRef { bucket: bucket.to_owned(), key: key.clone(), region: None };
    Notice { objects: keys.iter().map(object).collect(), ..Notice::default() }
}

#[derive(Deserialize)]
struct ObjectCreated {
    bucket: S3Bucket,
    object: S3Object,
}

fn of_event_bridge(
    body: &Bytes,
    detail_type: &str,
    region: Option<&str>,
    detail: Option<&RawValue>,
) -> Result<Notice, NotANotice> {
    let detail = detail.ok_or_else(|| NotANotice(format!("{detail_type} without detail")))?;
    match detail_type {
        "Object Created" => {
            let ObjectCreated { bucket, object } = serde_json::from_str(detail.get())
                .map_err(|error| NotANotice(format!("detail of {detail_type}: {error}")))?;
            // EventBridge does not encode the key.
            let object = ObjectRef { bucket: bucket.name, key: object.key, region: region.map(str::to_owned) };
            Ok(Notice { objects: vec![object], ..Notice::default() })
        }
        "AWS Insight via CloudTrail" => Ok(ignored(INSIGHT)),
        _ if detail_type.ends_with(" via CloudTrail") && detail.get().starts_with('{') => {
            Ok(Notice { record: Some(body.slice_ref(detail.get().as_bytes())), ..Notice::default() })
        }
        _ => Ok(ignored(OTHER_EVENT)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "AWSLogs/111122223333/CloudTrail/eu-west-1/2026/02/03/a b+c_ü.json.gz";

    fn read_json(body: &Value) -> Result<Notice, NotANotice> {
        read(&Bytes::from(body.to_string()))
    }

    fn object(region: Option<&str>) -> Notice {
        let object = ObjectRef { bucket: "trail".to_owned(), key: KEY.to_owned(), region: region.map(str::to_owned) };
        Notice { objects: vec![object], ..Notice::default() }
    }

    fn s3(event: &str, key: &str) -> Value {
        json!({ "Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventName": event,
            "s3": { "bucket": { "name": "trail", "arn": "arn:aws:s3:::trail" },
                    "object": { "key": key, "size": 1024, "eTag": "e", "sequencer": "1" } },
        }] })
    }

    fn sns(message: &str) -> Value {
        json!({ "Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:eu-west-1:111122223333:trail",
                "Message": message, "Timestamp": "2026-02-03T04:05:06.000Z", "SignatureVersion": "1" })
    }

    fn bridge(detail_type: &str, detail: &Value) -> Value {
        json!({ "version": "0", "id": "i", "detail-type": detail_type, "source": "aws.s3", "account": "111122223333",
                "time": "2026-02-03T04:05:06Z", "region": "eu-west-1", "resources": [], "detail": detail })
    }

    #[test]
    fn every_shape_of_notice_names_the_object() {
        let encoded = "AWSLogs/111122223333/CloudTrail/eu-west-1/2026/02/03/a+b%2Bc_%C3%BC.json.gz";
        let by_s3 = s3("ObjectCreated:Put", encoded);
        assert_eq!(read_json(&by_s3), Ok(object(Some("eu-west-1"))));
        assert_eq!(read_json(&sns(&by_s3.to_string())), Ok(object(Some("eu-west-1"))));
        let multipart = s3("s3:ObjectCreated:CompleteMultipartUpload", &encoded.replace('/', "%2F"));
        assert_eq!(read_json(&multipart), Ok(object(Some("eu-west-1"))));
        let by_cloudtrail = json!({ "s3Bucket": "trail", "s3ObjectKey": [KEY] });
        assert_eq!(read_json(&sns(&by_cloudtrail.to_string())), Ok(object(None)));
        assert_eq!(read_json(&by_cloudtrail), Ok(object(None)));
        let by_bridge = bridge(
            "Object Created",
            &json!({ "version": "0", "bucket": { "name": "trail" }, "object": { "key": KEY, "size": 1 }, "reason": "PutObject" }),
        );
        assert_eq!(read_json(&by_bridge), Ok(object(Some("eu-west-1"))));
        assert_eq!(read_json(&sns(&by_bridge.to_string())), Ok(object(Some("eu-west-1"))));
    }

    #[test]
    fn messages_that_ask_for_nothing_say_why() {
        let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-02-03T04:05:06.000Z",
                           "Bucket": "trail", "RequestId": "r", "HostId": "h" });
        assert_eq!(read_json(&test), Ok(ignored(TEST)));
        assert_eq!(read_json(&sns(&test.to_string())), Ok(ignored(TEST)));
        assert_eq!(read_json(&sns("CloudTrail validation message.")), Ok(ignored(TEST)));
        assert_eq!(read_json(&s3("ObjectRemoved:Delete", "k")), Ok(ignored(NOT_CREATED)));
        assert_eq!(read_json(&bridge("AWS Insight via CloudTrail", &json!({}))), Ok(ignored(INSIGHT)));
        assert_eq!(read_json(&bridge("Object Deleted", &json!({}))), Ok(ignored(OTHER_EVENT)));
        assert_eq!(read_json(&json!({ "Type": "SubscriptionConfirmation" })), Ok(ignored(SUBSCRIPTION)));
    }

    #[test]
    fn a_record_comes_as_it_is() {
        let record = json!({ "eventVersion": "1.11", "eventSource": "ec2.amazonaws.com", "eventID": "1" });
        let expected = Notice { record: Some(Bytes::from(record.to_string())), ..Notice::default() };
        for kind in ["API Call", "Service Event", "Console Sign In", "Console Action"] {
            assert_eq!(read_json(&bridge(&format!("AWS {kind} via CloudTrail"), &record)), Ok(expected.clone()));
        }
        assert_eq!(read_json(&record), Ok(expected.clone()));
        let through_sns = bridge("AWS API Call via CloudTrail", &record).to_string();
        assert_eq!(read_json(&sns(&through_sns)), Ok(expected));
    }

    #[test]
    fn anything_else_is_told() {
        let deep = sns(&sns(&sns(&sns("{}").to_string()).to_string()).to_string()).to_string();
        for body in ["", "hello", "[]", "{}", r#"{"Records":[{"a":1}]}"#, r#"{"Type":"Other"}"#, &deep] {
            assert!(read(&Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body}");
        }
        assert!(read_json(&s3("ObjectCreated:Put", "%FF")).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(body in "\\PC{0,200}") {
            let _ = read(&Bytes::from(body));
        }

        #[test]
        fn every_key_survives_its_encoding(key in "\\PC{1,80}") {
            let encoded = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC).to_string();
            let notice = read_json(&s3("ObjectCreated:Put", &encoded.replace("%20", "+"))).unwrap();
            prop_assert_eq!(&notice.objects[0].key, &key);
        }
    }
}
