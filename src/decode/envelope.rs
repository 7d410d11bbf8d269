//! Unwraps CloudTrail records from the wrappers of services.

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A wrapper does not contain a record.
#[derive(Debug, thiserror::Error)]
#[error("the CloudTrailEvent of event {event_id} is not a record written as a JSON string: {cause}")]
pub struct UnwrapError {
    event_id: String,
    cause: serde_json::Error,
}

#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow, rename = "detail-type")]
    detail_type: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, rename = "EventId")]
    event_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "CloudTrailEvent")]
    cloud_trail_event: Option<&'a RawValue>,
}

/// Returns the record inside an EventBridge event
/// (<https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>: `detail` where there is a
/// `detail-type`) or inside an element of LookupEvents' response
/// (<https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_Event.html>: the string `CloudTrailEvent`).
/// Anything else, including broken JSON, is returned unchanged.
///
/// # Errors
/// When `CloudTrailEvent` is not a string, or not one that can be decoded.
pub fn unwrap(record: &Bytes) -> Result<Bytes, UnwrapError> {
    // Most records have no wrapper; looking for the words first is many times faster than parsing.
    let might_be = |word: &[u8]| memmem::find(record, word).is_some();
    if !might_be(br#""detail-type""#) && !might_be(br#""CloudTrailEvent""#) {
        return Ok(record.clone());
    }
    let Ok(wrapper) = serde_json::from_slice::<Wrapper<'_>>(record) else {
        return Ok(record.clone());
    };
    if let (Some(_), Some(detail)) = (wrapper.detail_type, wrapper.detail)
        && detail.get().starts_with('{')
    {
        return Ok(record.slice_ref(detail.get().as_bytes()));
    }
    let Some(event) = wrapper.cloud_trail_event else {
        return Ok(record.clone());
    };
    serde_json::from_str::<String>(event.get()).map(Bytes::from).map_err(|cause| UnwrapError {
        event_id: wrapper.event_id.map_or_else(|| "(unknown)".to_owned(), |id| id.get().chars().take(80).collect()),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwrapped(text: &str) -> String {
        String::from_utf8(unwrap(&Bytes::copy_from_slice(text.as_bytes())).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn takes_the_record_out_of_its_wrapper() {
        let bridge = r#"{"version":"0","detail-type":"AWS API Call via CloudTrail","source":"aws.ec2","detail": {"eventID":"1"} }"#;
        assert_eq!(unwrapped(bridge), r#"{"eventID":"1"}"#);
        let looked_up = r#"{"EventId":"1","Resources":[],"CloudTrailEvent":"{\"eventID\":\"1\",\"s\":\"\\u00e9\"}"}"#;
        assert_eq!(unwrapped(looked_up), r#"{"eventID":"1","s":"\u00e9"}"#);
    }

    #[test]
    fn everything_else_passes_unchanged() {
        for text in [
            r#"{"eventVersion":"1.08","requestParameters":{"eventPattern":"{\"detail-type\":[\"x\"],\"detail\":{}}"}}"#,
            r#"{"eventVersion":"1.08","requestParameters":{"detail-type":"x","detail":{"a":1}}}"#,
            r#"{"detail-type":"no detail"}"#,
            r#"{"detail-type":"x","detail":"text"}"#,
            r#"{"detail-type":"x","detail":{"a":1},"detail":{"b":1}}"#,
            r#"{"eventVersion":"2.1","eventSource":"aws:s3","s3":{"object":{"key":"k"}}}"#,
            r#"{"CloudTrailEvent""#,
            r#"{"EventId":"1","CloudTrailEvent":null}"#,
        ] {
            assert_eq!(unwrapped(text), text);
        }
        let deep = format!(r#"{{"detail-type":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(unwrapped(&deep), deep);
    }

    #[test]
    fn a_broken_cloud_trail_event_is_told() {
        for text in [r#"{"EventId":"7","CloudTrailEvent":{"a":1}}"#, r#"{"EventId":"7","CloudTrailEvent":"\ud800"}"#] {
            let error = unwrap(&Bytes::copy_from_slice(text.as_bytes())).unwrap_err().to_string();
            assert!(error.contains(r#"event "7""#), "{error}");
        }
    }
}
