//! Access to members of records, which occur in several spellings (`correlationId`, `CorrelationId`, `correlation_id`)
//! and forms: strings, `{"value": …, "localizedValue": …}`, objects, and objects as JSON in a string.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The members of a record.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v>(pub(super) &'v Map<String, Value>);

impl<'v> Fields<'v> {
    /// The first of these members that the record has, in any spelling, and that is not null.
    pub(super) fn get(self, names: &[&str]) -> Option<&'v Value> {
        let told = |value: &&Value| !value.is_null();
        names.iter().find_map(|name| member(self.0, name).filter(told)).or_else(|| {
            let plain = |name: &str| name.replace("_", "").to_ascii_lowercase();
            let same = |key: &str, name: &str| key.contains("_") && plain(key) == plain(name);
            names
                .iter()
                .find_map(|name| self.0.iter().find(|(key, _)| same(key, name)).map(|(_, value)| value))
                .filter(told)
        })
    }

    /// A text; `None` if it is empty or `<null>`.
    pub(super) fn text(self, names: &[&str]) -> Option<&'v str> {
        self.get(names).and_then(text_of)
    }

    /// An object, possibly as JSON in a string; empty if there is none.
    pub(super) fn object(self, names: &[&str]) -> Cow<'v, Map<String, Value>> {
        match self.get(names) {
            Some(Value::Object(members)) => Cow::Borrowed(members),
            Some(Value::String(text)) => Cow::Owned(serde_json::from_str(text).unwrap_or_default()),
            _ => Cow::Owned(Map::new()),
        }
    }
}

/// A member by its key: an exact match, else one ignoring the case of the first letter, else one ignoring case.
pub(super) fn member<'v>(members: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    if let Some(value) = members.get(key) {
        return Some(value);
    }
    let ignoring_case = || members.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
    let same_but_first_letter = |name: &str| name.get(1..).is_some() && name.get(1..) == key.get(1..);
    ignoring_case()
        .find(|(name, _)| same_but_first_letter(name))
        .or_else(|| ignoring_case().next())
        .map(|(_, value)| value)
}

/// The text of a value, or of its member `value`.
pub(super) fn text_of(value: &Value) -> Option<&str> {
    let text = match value {
        Value::Object(members) => member(members, "value")?.as_str()?,
        value => value.as_str()?,
    };
    let text = text.trim();
    (!text.is_empty() && text != "<null>").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_spelling_is_found() {
        let record = json!({
            "correlation_id": "a", "OperationName": { "value": "b", "localizedValue": "B" }, "resultType": "", "caller": "<null>",
            "claims": "{\"appid\":\"c\"}", "properties": { "x": 1 }, "status": { "value": null },
        });
        let fields = Fields(record.as_object().unwrap());
        assert_eq!(fields.text(&["correlationId"]), Some("a"));
        assert_eq!(fields.text(&["operationName"]), Some("b"));
        assert_eq!(fields.text(&["resultType"]), None);
        assert_eq!(fields.text(&["status"]), None);
        assert_eq!(fields.text(&["caller"]), None);
        assert_eq!(fields.object(&["claims"]).get("appid"), Some(&json!("c")));
        assert_eq!(fields.object(&["properties"]).get("x"), Some(&json!(1)));
        assert!(fields.object(&["identity"]).is_empty());
    }
}
