//! Query parameters, read strictly: an unknown, repeated or empty one is an error that names it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::error::ApiError;
use crate::model::{Cursor, Time, parse_duration};

/// The query parameters of a request that have not been taken yet.
pub(super) struct Params {
    given: BTreeMap<String, String>,
    /// Every name taken so far: the parameters that the resource supports.
    known: Vec<&'static str>,
}

/// A point in time, absolute or relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// RFC 3339.
    At(Time),
    /// A time before now: `90m`, `2h`, `7d`.
    Ago(Duration),
}

impl Params {
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_parameter("query", error.body_text()))?;
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            if given.contains_key(&name) {
                return Err(ApiError::RepeatedParameter { name });
            }
            given.insert(name, value);
        }
        Ok(Self { given, known: Vec::new() })
    }

    /// Takes a parameter, which may be empty.
    pub(super) fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.given.remove(name)
    }

    /// Takes a parameter that must not be empty.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            Some(value) if value.is_empty() => Err(ApiError::bad_parameter(name, "is empty; leave it out or fill it")),
            value => Ok(value),
        }
    }

    /// Takes a number within inclusive bounds.
    pub(super) fn number(&mut self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::bad_parameter(name, format!("{text:?} is not a number from {min} to {max}"))),
        }
    }

    pub(super) fn moment(&mut self, name: &'static str) -> Result<Option<Moment>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|reason| ApiError::bad_parameter(name, reason))
    }

    /// Takes a position. An empty one counts as absent: EventSource sends that before its first event.
    pub(super) fn cursor(&mut self, name: &'static str) -> Result<Option<Cursor>, ApiError> {
        self.take(name).filter(|text| !text.is_empty()).map(|text| parse_cursor(name, &text)).transpose()
    }

    /// Refuses parameters that were not taken: the resource does not know them.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        match self.given.pop_first() {
            None => Ok(()),
            Some((name, _)) if self.known.is_empty() => {
                Err(ApiError::UnknownParameter { name, known: "none".to_owned() })
            }
            Some((name, _)) => Err(ApiError::UnknownParameter { name, known: self.known.join(", ") }),
        }
    }
}

/// Extractor for resources without parameters; refuses any.
pub(super) struct NoParams;

impl<S: Sync> FromRequestParts<S> for NoParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Params::parse(&parts.uri)?.finish()?;
        Ok(Self)
    }
}

pub(super) fn parse_cursor(place: &'static str, text: &str) -> Result<Cursor, ApiError> {
    text.parse().map_err(|cause| ApiError::BadCursor { place, cause })
}

impl Moment {
    pub(super) fn resolve(self, now: Time) -> Time {
        match self {
            Self::At(time) => time,
            Self::Ago(duration) => {
                let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
                Time::from_millis(now.millis().saturating_sub(millis))
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A + that was not percent-encoded arrives as a blank: 2023-07-10T14:10:05 02:00.
        let time = text.parse::<Time>().or_else(|error| text.replacen(' ', "+", 1).parse().map_err(|_| error));
        if let Ok(time) = time {
            return Ok(Self::At(time));
        }
        parse_duration(text).map(Self::Ago).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            format!(
                "{text:?} is neither an RFC 3339 time such as 2023-07-10T12:10:05Z nor a duration such as 90m, 2h or 7d"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(query: &str) -> Result<Params, ApiError> {
        Params::parse(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn moments() {
        let now: Time = "2023-07-10T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2h", "2023-07-10T10:00:00.000Z"),
            ("1d12h", "2023-07-09T00:00:00.000Z"),
            ("90m", "2023-07-10T10:30:00.000Z"),
            ("2023-07-10T14:10:05+02:00", "2023-07-10T12:10:05.000Z"),
            ("2023-07-10T14:10:05 02:00", "2023-07-10T12:10:05.000Z"),
            ("99999999w", "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text.parse::<Moment>().unwrap().resolve(now).to_string(), expected, "{text}");
        }
        for text in ["", "h", "2", "2x", "-2h", "2h-", "1.5h", "99999999999999999999s", "2 h", "٣h"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_repeated_and_empty_parameters_are_named() {
        let code = |error: ApiError| match error {
            ApiError::UnknownParameter { name, known } => format!("unknown {name} of {known}"),
            ApiError::RepeatedParameter { name } => format!("repeated {name}"),
            ApiError::BadParameter { name, .. } => format!("bad {name}"),
            other => format!("{other:?}"),
        };
        let mut unknown = params("limt=1").unwrap();
        assert!(unknown.number("limit", 1, 9).unwrap().is_none());
        assert_eq!(code(unknown.finish().unwrap_err()), "unknown limt of limit");
        assert_eq!(code(params("a=1&a=1").err().unwrap()), "repeated a");
        for query in ["limit=", "limit=0", "limit=10", "limit=-1", "limit=1x"] {
            assert_eq!(code(params(query).unwrap().number("limit", 1, 9).unwrap_err()), "bad limit", "{query}");
        }
        assert!(params("last_event_id=").unwrap().cursor("last_event_id").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_query_is_taken_or_refused(query in "[a-z=&%0-9+;]{0,40}") {
            if let Ok(mut params) = params(&query) {
                let _ = params.moment("a");
                let _ = params.number("b", 0, 9);
                let _ = params.finish();
            }
        }

        #[test]
        fn any_text_is_a_moment_or_refused(text in ".{0,20}|[0-9smhdw]{0,30}") {
            let _ = text.parse::<Moment>().map(|moment| moment.resolve(Time::default()));
        }
    }
}
