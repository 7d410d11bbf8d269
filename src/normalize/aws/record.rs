//! A CloudTrail record: its members, read in one pass.
//!
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::super::expression::Facts;
use super::super::redact::Secrets;
use crate::json::{Arena, Json, KeySeed, Parser, ValueSeed, Watch};

/// The members that determine whether the record may be a change.
const HEAD: [&str; 7] =
    ["errorCode", "errorMessage", "eventCategory", "eventName", "eventSource", "managementEvent", "readOnly"];

/// Members that contain a document, which some tools write as JSON in a string.
const DOCUMENTS: [&str; 5] =
    ["additionalEventData", "requestParameters", "responseElements", "serviceEventDetails", "userIdentity"];

/// A record's members, or those of its head.
#[derive(Clone, Copy)]
pub(in crate::normalize) struct Record<'a> {
    pub(super) facts: Facts<'a>,
    /// All members have been read.
    pub(super) is_whole: bool,
    /// The text may contain secrets.
    pub(super) may_hold_secrets: bool,
}

impl<'a> Record<'a> {
    /// Reads as much as is likely to be needed: only the head of a read-only call, of another provider's record, or of
    /// one that can't be read as a whole.
    ///
    /// # Errors
    /// As [`Record::head`].
    pub(in crate::normalize) fn likely(
        text: &'a str,
        arena: &'a Arena,
        secrets: &Secrets,
    ) -> Result<Self, serde_json::Error> {
        // A wrong guess costs time only.
        let has = |words: &str| memchr::memmem::find(text.as_bytes(), words.as_bytes()).is_some();
        if has("\"eventSource\"")
            && !has("\"readOnly\":true")
            && let Ok(record) = Self::whole(text, arena, secrets)
        {
            return Ok(record);
        }
        Self::head(text, arena)
    }

    /// Reads all members.
    ///
    /// # Errors
    /// When the text is no JSON object, is nested too deep, or names a member twice.
    pub(in crate::normalize) fn whole(
        text: &'a str,
        arena: &'a Arena,
        secrets: &Secrets,
    ) -> Result<Self, serde_json::Error> {
        Self::read(text, Parser::new(arena, secrets), true)
    }

    /// Reads the members that determine whether the record may be a change, and skips the others.
    ///
    /// # Errors
    /// When the text is no JSON object, or names one of these members twice.
    pub(in crate::normalize) fn head(text: &'a str, arena: &'a Arena) -> Result<Self, serde_json::Error> {
        Self::read(text, Parser::new(arena, &()), false)
    }

    fn read<W: Watch>(text: &'a str, mut parser: Parser<'a, '_, W>, whole: bool) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = MembersSeed { parser: &mut parser, whole }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        let arena = parser.arena;
        let mut is_cut = false;
        let members = members.into_iter().map(|(key, value)| {
            let value = if DOCUMENTS.contains(&key) { document(value, arena) } else { value };
            // CloudTrail leaves out parameters above its size limit: `{"omitted": true, "reason": …}`.
            let is_omitted = value.get("omitted") == Some(Json::Bool(true));
            is_cut |= is_omitted && matches!(key, "requestParameters" | "responseElements");
            (key, if is_omitted { Json::Null } else { value })
        });
        let root = Json::object(members, arena);
        Ok(Self { facts: Facts { root, is_cut, arena }, is_whole: whole, may_hold_secrets: parser.noticed })
    }

    /// Whether it is a CloudTrail record.
    pub(in crate::normalize) fn has_event_source(&self) -> bool {
        self.text("eventSource").is_some()
    }

    /// Whether the member is present and not null.
    pub(super) fn has(&self, member: &str) -> bool {
        self.value(member).is_some()
    }

    /// A member's value; `None` if it is absent or null, or if CloudTrail left it out because of its size.
    pub(super) fn value(&self, member: &str) -> Option<Json<'a>> {
        self.facts.root.get(member).filter(|value| !value.is_null())
    }

    /// A string member, or a number or boolean as text; `None` if it is absent, null or empty.
    pub(super) fn text(&self, member: &str) -> Option<&'a str> {
        self.value(member)?.scalar_text(self.facts.arena).filter(|text| !text.is_empty())
    }

    /// Whether the member is `true`, as boolean or as string.
    pub(super) fn is_true(&self, member: &str) -> bool {
        self.text(member).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// Whether the member is `false`, as boolean or as string.
    pub(super) fn is_false(&self, member: &str) -> bool {
        self.text(member).is_some_and(|text| text.eq_ignore_ascii_case("false"))
    }
}

fn document<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    let text = value.as_str().filter(|text| text.starts_with('{'));
    text.and_then(|text| Json::parse(text, arena).ok()).unwrap_or(value)
}

struct MembersSeed<'p, 'a, 'n, W> {
    parser: &'p mut Parser<'a, 'n, W>,
    whole: bool,
}

impl<'de, W: Watch> DeserializeSeed<'de> for MembersSeed<'_, 'de, '_, W> {
    type Value = Vec<(&'de str, Json<'de>)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: Watch> Visitor<'de> for MembersSeed<'_, 'de, '_, W> {
    type Value = Vec<(&'de str, Json<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudTrail record (a JSON object)")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::with_capacity(32);
        while let Some(key) = map.next_key_seed(KeySeed(self.parser))? {
            let value = if self.whole || HEAD.contains(&key) {
                map.next_value_seed(ValueSeed(self.parser))?
            } else {
                map.next_value::<IgnoredAny>()?;
                Json::Null
            };
            members.push((key, value));
        }
        members.sort_unstable_by_key(|(key, _)| *key);
        match members.array_windows().find(|[(one, _), (next, _)]| one == next) {
            Some([(twice, _), _]) => Err(Error::custom(format_args!("member {twice:?} occurs twice"))),
            None => Ok(members),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::pointer::Path;
    use serde_json::json;

    #[test]
    fn members_are_found_and_read_leniently() {
        let text = r#"{ "eventName": "A\u0062c", "readOnly": "TRUE", "managementEvent": false, "apiVersion": 5, "errorCode": null,
            "requestParameters": "{\"a\":1}", "eventID": "", "tlsDetails": { "x": [1, 2] } }"#;
        let arena = Arena::new();
        let record = Record::whole(text, &arena, &Secrets::default()).unwrap();
        assert_eq!(record.text("eventName"), Some("Abc"));
        assert_eq!(record.text("apiVersion"), Some("5"));
        assert_eq!(record.text("eventID"), None);
        assert!(record.is_true("readOnly") && record.is_false("managementEvent"));
        assert!(!record.has("errorCode") && !record.has("responseElements"));
        assert_eq!(record.value("requestParameters").map(Json::to_value), Some(json!({ "a": 1 })));
        let path = Path::parse("/requestParameters/A").unwrap();
        assert_eq!(path.resolve(record.facts.root, &arena).and_then(Json::as_i64), Some(1));
        let head = Record::head(text, &arena).unwrap();
        assert_eq!((head.text("eventName"), head.value("requestParameters")), (Some("Abc"), None));
    }

    #[test]
    fn what_may_be_a_secret_is_noticed() {
        let arena = Arena::new();
        let secrets = Secrets::named(["password"]);
        for (parameters, expected) in [
            (r#"{"user":"password","a":"{\"user\":1}"}"#, false),
            (r#"{"a":[{"PassWord":1}]}"#, true),
            (r#"{"p\u0061ssword":1}"#, true),
            (r#"{"a":"{\"password\":1}"}"#, true),
            (r#"{"a":"[{\"p\\u0061ssword\":1}]"}"#, true),
            (r#"{"value":"x","value":null}"#, true),
        ] {
            let text = arena.alloc_str(&format!(r#"{{"requestParameters":{parameters}}}"#));
            let record = Record::whole(text, &arena, &secrets).unwrap();
            assert_eq!(record.may_hold_secrets, expected, "{parameters}");
        }
    }

    #[test]
    fn what_was_left_out_for_its_size_is_absent() {
        let arena = Arena::new();
        let text = r#"{"requestParameters":{"omitted":true,"reason":"too large"},"eventName":"A"}"#;
        let record = Record::whole(text, &arena, &Secrets::default()).unwrap();
        assert!(record.facts.is_cut && record.value("requestParameters").is_none());
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        let arena = Arena::new();
        for read in [Record::head, |text, arena| Record::whole(text, arena, &Secrets::default())] {
            let error = read(r#"{"eventName":"A","eventName":"B"}"#, &arena).err().unwrap();
            assert!(error.to_string().contains("occurs twice"), "{error}");
            assert!(read("[1]", &arena).is_err());
            assert!(read(r#"{"eventName":"A""#, &arena).is_err());
        }
    }
}
