//! JSON values, borrowed from an event's text as far as they can be.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value of an event or of an expression.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Numbers with a fraction or an exponent, and whole ones beyond 64 bits.
    Double(f64),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// In the order of the text. Objects are small, so members are searched linearly.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The member of a map; the last one if the name is repeated.
    pub(super) fn member(&self, name: &str) -> Option<&Value<'a>> {
        let Self::Map(members) = self else { return None };
        members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The steps for examining it: one for each value in it, and more for long texts.
    pub(super) fn weight(&self) -> u32 {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Double(_) => 1,
            Self::Text(text) => text_weight(text),
            Self::List(items) => items.iter().fold(1, |sum: u32, item| sum.saturating_add(item.weight())),
            Self::Map(members) => members.iter().fold(1, |sum: u32, (_, value)| sum.saturating_add(value.weight())),
        }
    }

    /// Compares two values of an ordered type: numbers (of either type), texts, booleans.
    pub(super) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Double(b)) => compare_numbers(*a, *b),
            (Self::Double(a), Value::Int(b)) => compare_numbers(*b, *a).map(Ordering::reverse),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Self::Text(a), Value::Text(b)) => Some(a.as_ref().cmp(b.as_ref())),
            _ => None,
        }
    }
}

/// One step for every 64 bytes.
pub(super) fn text_weight(text: &str) -> u32 {
    u32::try_from(text.len() / 64).unwrap_or(u32::MAX).saturating_add(1)
}

/// Compares an integer with a float without rounding it. `None` for NaN.
fn compare_numbers(whole: i64, other: f64) -> Option<Ordering> {
    /// 2^63: beyond the range of integers.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if other.is_nan() {
        return None;
    }
    if other >= BEYOND {
        return Some(Ordering::Less);
    }
    if other < -BEYOND {
        return Some(Ordering::Greater);
    }
    let floor = other.floor();
    // Within bounds, so nothing is lost.
    #[allow(clippy::cast_possible_truncation)]
    let order = whole.cmp(&(floor as i64));
    Some(order.then(if other > floor { Ordering::Less } else { Ordering::Equal }))
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Build;
        impl<'de> Visitor<'de> for Build {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'de>, E> {
                Ok(Value::Int(value))
            }

            #[allow(clippy::cast_precision_loss)]
            fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
                Ok(i64::try_from(value).map_or(Value::Double(value as f64), Value::Int))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
                Ok(Value::Double(value))
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Value::Map(members))
            }
        }
        deserializer.deserialize_any(Build)
    }
}

/// A member's name, borrowed if it has no escapes.
#[derive(Debug)]
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Build;
        impl<'de> Visitor<'de> for Build {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let order = |a: Value<'_>, b: Value<'_>| a.compare(&b);
        assert_eq!(order(Value::Int(1), Value::Double(1.0)), Some(Ordering::Equal));
        assert_eq!(order(Value::Int(-1), Value::Double(-1.5)), Some(Ordering::Greater));
        assert_eq!(order(Value::Double(1.5), Value::Int(2)), Some(Ordering::Less));
        // 2^53 + 1 is no double: rounding would make the two equal.
        assert_eq!(
            order(Value::Int(9_007_199_254_740_993), Value::Double(9_007_199_254_740_992.0)),
            Some(Ordering::Greater)
        );
        assert_eq!(order(Value::Int(i64::MAX), Value::Double(9.3e18)), Some(Ordering::Less));
        assert_eq!(order(Value::Int(i64::MIN), Value::Double(-9.3e18)), Some(Ordering::Greater));
        assert_eq!(order(Value::Int(0), Value::Double(f64::NAN)), None);
    }

    #[test]
    fn text_is_read_as_it_stands() {
        let text = r#"{"a":"x","b":"\u00e9","n":[1,1.5,-2,18446744073709551615,null,true],"a":"y"}"#;
        let value: Value<'_> = serde_json::from_str(text).unwrap();
        assert!(matches!(value.member("a"), Some(Value::Text(Cow::Borrowed("y")))));
        assert_eq!(value.member("b"), Some(&Value::Text("é".into())));
        let numbers = [
            Value::Int(1),
            Value::Double(1.5),
            Value::Int(-2),
            Value::Double(18_446_744_073_709_551_615.0),
            Value::Null,
            Value::Bool(true),
        ];
        assert_eq!(value.member("n"), Some(&Value::List(numbers.into())));
        assert_eq!(value.member("c"), None);
    }
}
