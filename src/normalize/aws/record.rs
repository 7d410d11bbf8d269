//! A CloudTrail record, read as far as it is needed: the members are found in one pass, parsed when asked for.
//!
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::expression::Facts;
use super::super::pointer::{Path, PathSlice};

/// The members of a record that rules and attribution look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
pub(super) enum Member {
    EventVersion,
    UserIdentity,
    EventTime,
    EventSource,
    EventName,
    AwsRegion,
    #[serde(rename = "sourceIPAddress")]
    SourceIpAddress,
    UserAgent,
    ErrorCode,
    ErrorMessage,
    RequestParameters,
    ResponseElements,
    AdditionalEventData,
    #[serde(rename = "requestID")]
    RequestId,
    #[serde(rename = "eventID")]
    EventId,
    EventType,
    ApiVersion,
    ManagementEvent,
    ReadOnly,
    Resources,
    RecipientAccountId,
    ServiceEventDetails,
    #[serde(rename = "sharedEventID")]
    SharedEventId,
    EventCategory,
    SessionCredentialFromConsole,
    #[serde(other)]
    Other,
}

const MEMBERS: usize = Member::Other as usize;

impl Member {
    /// The member that a pointer's first token names, in any case.
    fn named(token: &str) -> Option<Self> {
        use serde::de::IntoDeserializer;
        let exact = |name: &str| {
            let deserializer: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
            Self::deserialize(deserializer).ok().filter(|member| *member != Self::Other)
        };
        exact(token)
    }
}

/// A record's members.
pub(in crate::normalize) struct Record<'r> {
    raw: [Option<&'r RawValue>; MEMBERS],
    parsed: [OnceCell<Option<Value>>; MEMBERS],
}

impl<'r> Record<'r> {
    /// Finds the members.
    ///
    /// # Errors
    /// When the text is no JSON object, or names one of these members twice.
    pub(in crate::normalize) fn parse(text: &'r str) -> Result<Self, serde_json::Error> {
        let Members(raw) = serde_json::from_str(text)?;
        Ok(Self { raw, parsed: [const { OnceCell::new() }; MEMBERS] })
    }

    pub(super) fn has(&self, member: Member) -> bool {
        self.raw(member).is_some_and(|raw| raw.get() != "null")
    }

    fn raw(&self, member: Member) -> Option<&'r RawValue> {
        self.raw.get(member as usize).copied().flatten()
    }

    /// A text member, or a number or boolean as text; nothing where it is absent, null or empty.
    pub(super) fn text(&self, member: Member) -> Option<Cow<'r, str>> {
        let raw = self.raw(member)?.get();
        match raw.as_bytes().first()? {
            b'"' => {
                let inner = raw.get(1..raw.len().saturating_sub(1))?;
                let text = match memchr::memchr(b'\\', inner.as_bytes()) {
                    None => Cow::Borrowed(inner),
                    Some(_) => Cow::Owned(serde_json::from_str(raw).ok()?),
                };
                (!text.is_empty()).then_some(text)
            }
            b'{' | b'[' | b'n' => None,
            _ => Some(Cow::Borrowed(raw)),
        }
    }

    /// A member that is `true`, as boolean or as text.
    pub(super) fn is_true(&self, member: Member) -> bool {
        self.text(member).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// A member that is `false`, as boolean or as text.
    pub(super) fn is_false(&self, member: Member) -> bool {
        self.text(member).is_some_and(|text| text.eq_ignore_ascii_case("false"))
    }

    /// Parses a member that rules will look into, so that what is wrong with it is told rather than taken as absent.
    pub(super) fn load(&self, member: Member) -> Result<(), serde_json::Error> {
        let value = self.raw(member).map(parse).transpose()?;
        if let Some(cell) = self.parsed.get(member as usize) {
            let _ = cell.set(value);
        }
        Ok(())
    }

    /// A member's value; nothing where CloudTrail left it out for its size.
    pub(super) fn value(&self, member: Member) -> Option<&Value> {
        self.parsed(member).filter(|value| !stands_for_omitted(value))
    }

    fn parsed(&self, member: Member) -> Option<&Value> {
        let cell = self.parsed.get(member as usize)?;
        cell.get_or_init(|| self.raw(member).and_then(|raw| parse(raw).ok())).as_ref()
    }
}

impl Facts for Record<'_> {
    fn resolve(&self, path: &Path) -> Option<Cow<'_, Value>> {
        let (first, rest): (&str, PathSlice<'_>) = path.split_first()?;
        rest.resolve(self.value(Member::named(first)?)?)
    }

    /// CloudTrail leaves out parameters above its size limit: `{"omitted": true, "reason": …}`.
    fn is_cut(&self) -> bool {
        let omitted = |member| self.parsed(member).is_some_and(stands_for_omitted);
        omitted(Member::RequestParameters) || omitted(Member::ResponseElements)
    }
}

fn stands_for_omitted(value: &Value) -> bool {
    value.get("omitted").is_some_and(|flag| *flag == Value::Bool(true))
}

/// Some tools write the parameters as a JSON text.
fn parse(raw: &RawValue) -> Result<Value, serde_json::Error> {
    let value: Value = serde_json::from_str(raw.get())?;
    Ok(match value.as_str() {
        Some(text) if text.starts_with('{') => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    })
}

struct Members<'r>([Option<&'r RawValue>; MEMBERS]);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudTrail record (a JSON object)")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members([None; MEMBERS]);
                while let Some(key) = map.next_key::<Member>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    if let Some(slot) = members.0.get_mut(key as usize)
                        && slot.replace(value).is_some()
                    {
                        return Err(serde::de::Error::custom(format_args!("member {key:?} stands twice")));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_found_and_read_leniently() {
        let text = r#"{ "eventName": "A\u0062c", "readOnly": "TRUE", "managementEvent": false, "apiVersion": 5, "errorCode": null,
            "requestParameters": "{\"a\":1}", "eventID": "", "tlsDetails": { "x": [1, 2] } }"#;
        let record = Record::parse(text).unwrap();
        assert_eq!(record.text(Member::EventName).as_deref(), Some("Abc"));
        assert_eq!(record.text(Member::ApiVersion).as_deref(), Some("5"));
        assert_eq!(record.text(Member::EventId), None);
        assert!(record.is_true(Member::ReadOnly) && record.is_false(Member::ManagementEvent));
        assert!(!record.has(Member::ErrorCode) && !record.has(Member::ResponseElements));
        assert_eq!(record.value(Member::RequestParameters), Some(&json!({ "a": 1 })));
        let path = Path::parse("/requestParameters/A").unwrap();
        assert_eq!(record.resolve(&path).as_deref(), Some(&json!(1)));
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        let error = Record::parse(r#"{"eventName":"A","eventName":"B"}"#).err().unwrap();
        assert!(error.to_string().contains("stands twice"), "{error}");
        assert!(Record::parse("[1]").is_err());
        assert!(Record::parse(r#"{"eventName":"A""#).is_err());
    }
}
