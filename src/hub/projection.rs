//! Parts of an event: `omit=raw` leaves members out, `fields=id,data.asset.name` keeps only those named.
//!
//! Members are copied as they stand: the bytes of what is kept, keys and order do not change.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::filter::split;
use super::shape::{self, Shape};

/// The required attributes of a CloudEvent (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>).
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// An invalid `omit` or `fields` parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {reason}")]
pub struct ProjectionError {
    /// `omit` or `fields`.
    pub parameter: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A tree of member names; a leaf stands for the whole member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members(BTreeMap<Box<str>, Members>);

/// Selects the members of an event that are sent.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Whether the named members are kept (`fields`) or removed (`omit`).
    keep: bool,
    members: Members,
    /// A projection applied to the result.
    then: Option<Arc<Projection>>,
    /// The canonical form of the parameters: equal for equivalent projections.
    key: Box<str>,
}

impl PartialEq for Projection {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Projection {}

impl Hash for Projection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl Projection {
    /// Compiles `omit` or `fields`: comma-separated lists of dotted paths into the event. A path may begin at a member
    /// of `data` (`raw`, `asset.name`), and applies to each element of an array. `None` if neither is given.
    ///
    /// # Errors
    /// When both are given, a member is unknown, or `omit` names an attribute that CloudEvents requires.
    pub fn parse(omit: Option<&str>, fields: Option<&str>) -> Result<Option<Self>, ProjectionError> {
        let (parameter, list, keep) = match (omit, fields) {
            (None, None) => return Ok(None),
            (Some(list), None) => ("omit", list, false),
            (None, Some(list)) => ("fields", list, true),
            (Some(_), Some(_)) => {
                let reason = "fields says what is sent, so there is nothing to omit; give one of them".to_owned();
                return Err(ProjectionError { parameter: "omit", reason });
            }
        };
        let mut paths = split(parameter, list)
            .map_err(|error| ProjectionError { parameter, reason: error.reason })?
            .iter()
            .map(|path| resolve(path).map_err(|reason| ProjectionError { parameter, reason }))
            .collect::<Result<Vec<_>, _>>()?;
        if keep {
            paths.extend(REQUIRED.iter().map(|name| vec![Box::from(*name)]));
        } else if let Some(name) = REQUIRED.iter().find(|name| paths.iter().any(|path| path[..] == [Box::from(**name)]))
        {
            let reason = format!("{name:?} stays: every CloudEvent has it");
            return Err(ProjectionError { parameter, reason });
        }
        paths.sort_unstable();
        paths.dedup();
        let mut members = Members::default();
        for path in &paths {
            members.insert(path);
        }
        let paths: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
        let key = format!("{parameter}={}", paths.join(",")).into();
        Ok(Some(Self { keep, members, then: None, key }))
    }

    /// Applies another projection after this one.
    #[must_use]
    pub fn then(self, next: &Arc<Self>) -> Self {
        let key = format!("{} {}", self.key, next.key).into();
        Self { then: Some(Arc::clone(next)), key, ..self }
    }

    /// Appends the projected event to `out`.
    ///
    /// # Errors
    /// When the event is not JSON.
    pub fn apply(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let Some(next) = &self.then else { return self.write(&self.members, json, out) };
        let mut kept = Vec::with_capacity(json.len());
        self.write(&self.members, json, &mut kept)?;
        next.apply(&kept, out)
    }

    fn write(&self, members: &Members, json: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match json.first() {
            Some(b'{') => {
                let object: RawObject<'_> = serde_json::from_slice(json)?;
                out.push(b'{');
                let start = out.len();
                for (key, value) in object.0 {
                    self.write_member(members, key, value, start, out)?;
                }
                out.push(b'}');
            }
            Some(b'[') => {
                let array: Vec<&RawValue> = serde_json::from_slice(json)?;
                out.push(b'[');
                for (index, element) in array.into_iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.write(members, element.get().as_bytes(), out)?;
                }
                out.push(b']');
            }
            // The path goes on, but there is nothing within: null stays null.
            _ => out.extend_from_slice(json),
        }
        Ok(())
    }

    /// Writes a member, if it is kept, to the object that begins at `start` of `out`.
    fn write_member(
        &self,
        members: &Members,
        key: &RawValue,
        value: &RawValue,
        start: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        let inner = members.get(key)?;
        let whole = inner.is_none_or(|inner| inner.0.is_empty());
        if whole && inner.is_some() != self.keep {
            return Ok(());
        }
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(key.get().as_bytes());
        out.push(b':');
        match inner {
            Some(inner) if !whole => self.write(inner, value.get().as_bytes(), out),
            _ => {
                out.extend_from_slice(value.get().as_bytes());
                Ok(())
            }
        }
    }
}

impl Members {
    /// Paths are sorted: a whole member comes before paths into it, which then add nothing.
    fn insert(&mut self, path: &[Box<str>]) {
        let mut node = self;
        for (depth, name) in path.iter().enumerate() {
            let known = node.0.contains_key(name);
            node = node.0.entry(name.clone()).or_default();
            if known && node.0.is_empty() && depth < path.len() {
                return;
            }
        }
    }

    /// `key` is a JSON string, quotes included.
    fn get(&self, key: &RawValue) -> Result<Option<&Self>, serde_json::Error> {
        let text = key.get();
        if text.contains('\\') {
            return Ok(self.0.get(serde_json::from_str::<String>(text)?.as_str()));
        }
        Ok(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|name| self.0.get(name)))
    }
}

/// Resolves a path to one from the event's root.
fn resolve(text: &str) -> Result<Vec<Box<str>>, String> {
    let mut path: Vec<Box<str>> = text.split('.').map(Box::from).collect();
    if path.first().is_some_and(|first| !shape::in_event(first)) {
        path.insert(0, "data".into());
    }
    let mut shape = Shape::Object(shape::EVENT);
    for name in &path {
        if name.is_empty() {
            return Err(format!("{text:?} has an empty name in it"));
        }
        shape = shape.member(name).map_err(|unknown| format!("{text:?} is no member of an event; {unknown}"))?;
    }
    Ok(path)
}

/// The members of an object as raw text, in order.
struct RawObject<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(16));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawObject(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const EVENT_TEXT: &str = r#"{"specversion":"1.0","id":"e:0","source":"//aws","type":"t","subject":"s","time":"2023-07-10T12:10:05.000Z","data":{"action":"update","asset":{"name":"n","tags":{"k\u00e9":1.50,"a":"x"}},"configuration":null,"changes":[{"op":"add","path":"/a","value":{"n":1e3}},{"op":"remove","path":"/b"}],"raw":{"z": 1.0, "a":"\u002f"}}}"#;

    fn apply(omit: Option<&str>, fields: Option<&str>) -> String {
        let projection = Projection::parse(omit, fields).unwrap().unwrap();
        let mut out = Vec::new();
        projection.apply(EVENT_TEXT.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn omit_leaves_out_and_touches_nothing_else() {
        assert_eq!(apply(Some("raw"), None), EVENT_TEXT.replace(r#","raw":{"z": 1.0, "a":"\u002f"}"#, ""));
        assert_eq!(
            apply(Some("changes.value,data.raw.a,asset.tags.ké"), None),
            EVENT_TEXT
                .replace(r#","value":{"n":1e3}"#, "")
                .replace(r#", "a":"\u002f"}"#, "}")
                .replace(r#""k\u00e9":1.50,"#, "")
                .replace(r#"{"z": 1.0"#, r#"{"z":1.0"#)
        );
        assert_eq!(apply(Some("configuration.vpcId"), None), EVENT_TEXT);
    }

    #[test]
    fn fields_keeps_what_is_named_and_what_cloudevents_requires() {
        let required = r#""specversion":"1.0","id":"e:0","source":"//aws","type":"t""#;
        assert_eq!(apply(None, Some("id")), format!("{{{required}}}"));
        assert_eq!(
            apply(None, Some("data.asset.name,time,asset.tags.a,changes.op,configuration.vpcId")),
            format!(
                r#"{{{required},"time":"2023-07-10T12:10:05.000Z","data":{{"asset":{{"name":"n","tags":{{"a":"x"}}}},"configuration":null,"changes":[{{"op":"add"}},{{"op":"remove"}}]}}}}"#
            )
        );
        let whole = apply(None, Some("asset.name,asset"));
        assert!(whole.contains(r#""asset":{"name":"n","tags":{"k\u00e9":1.50,"a":"x"}}"#), "{whole}");
        assert_eq!(whole, apply(None, Some("asset,asset.name")));
    }

    #[test]
    fn unknown_and_impossible_names_are_refused() {
        for (omit, fields, parameter) in [
            (Some("rwa"), None, "omit"),
            (Some("id"), None, "omit"),
            (Some(""), None, "omit"),
            (None, Some("id,,time"), "fields"),
            (None, Some("asset.nmae"), "fields"),
            (None, Some("data.asset."), "fields"),
            (None, Some("data.data"), "fields"),
            (Some("raw"), Some("id"), "omit"),
        ] {
            let error = Projection::parse(omit, fields).unwrap_err();
            assert_eq!(error.parameter, parameter, "{omit:?} {fields:?}");
        }
        assert_eq!(Projection::parse(None, None), Ok(None));
    }

    /// The known members agree with the published schema.
    #[test]
    fn names_are_those_of_the_schema() {
        fn compare(schema: &Value, root: &Value, shape: &Shape, path: &str) {
            let mut schema = schema;
            loop {
                let next = if let Some(reference) = schema["$ref"].as_str() {
                    &root["$defs"][reference.trim_start_matches("#/$defs/")]
                } else if let Some(items) = schema.get("items") {
                    items
                } else if let Some(either) = schema["anyOf"].as_array() {
                    &either[0]
                } else {
                    break;
                };
                schema = next;
            }
            let (Shape::Object(members) | Shape::List(members)) = shape else { return };
            let mut known: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
            let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} has no properties"));
            let mut expected: Vec<&str> = properties.keys().map(String::as_str).collect();
            known.sort_unstable();
            expected.sort_unstable();
            assert_eq!(known, expected, "{path}");
            for (name, shape) in *members {
                compare(&properties[*name], root, shape, &format!("{path}.{name}"));
            }
        }
        let schema: Value = serde_json::from_str(include_str!("../../schema/asset-event-1.json")).unwrap();
        compare(&schema, &schema, &Shape::Object(shape::EVENT), "event");
    }

    /// An object with an event's members and arbitrary values.
    fn events() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\é]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::vec(value, 5).prop_map(|mut values| {
            let mut next = || values.pop().unwrap();
            json!({"specversion": "1.0", "id": next(), "source": "s", "type": "t", "time": next(),
                "data": {"asset": next(), "configuration": next(), "raw": next()}})
        })
    }

    proptest! {
        #[test]
        fn kept_bytes_do_not_change(event in events()) {
            let text = serde_json::to_string(&event).unwrap();
            let apply = |omit, fields| {
                let mut out = Vec::new();
                Projection::parse(omit, fields).unwrap().unwrap().apply(text.as_bytes(), &mut out).unwrap();
                String::from_utf8(out).unwrap()
            };
            let all = "specversion,subject,time,datacontenttype,dataschema,partitionkey,data";
            prop_assert_eq!(&apply(None, Some(all)), &text);
            prop_assert_eq!(&apply(Some("raw.nothing_like_it"), None), &text);
            let omitted = apply(Some("raw"), None);
            prop_assert_eq!(omitted, text.replace(&format!(",\"raw\":{}", event["data"]["raw"]), ""));
        }

        #[test]
        fn any_list_is_taken_or_refused(list in "[a-z.,_]{0,30}|.{0,10}") {
            let _ = Projection::parse(Some(&list), None);
            let _ = Projection::parse(None, Some(&list));
        }
    }
}
