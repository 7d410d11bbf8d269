//! Errors of requests, as RFC 9457 problem details (<https://www.rfc-editor.org/rfc/rfc9457>).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::auth::{JwtRefusal, Refusal};
use crate::hub::{FilterError, ProjectionError};
use crate::log::LogError;
use crate::model::{Cursor, ParseCursorError, Time};

/// Every failure that a client can see. The codes are part of the interface: `docs/API.md` lists them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("parameter {name}: {reason}")]
    BadParameter { name: String, reason: String },
    #[error("there is no parameter {name}; known parameters are {known}")]
    UnknownParameter { name: String, known: String },
    #[error("parameter {name} is given more than once; separate several values by commas")]
    RepeatedParameter { name: String },
    #[error("{place}: {cause}; leave it out to start over")]
    BadCursor { place: &'static str, cause: ParseCursorError },
    #[error("after: {id:?} is neither a position nor the id of a retained event; it may be older than the log")]
    UnknownPosition { id: String },
    #[error(
        "events after {cursor} are no longer retained, and NDJSON can't express a gap; continue with after={resume}"
    )]
    PositionGone { cursor: Cursor, resume: Cursor },
    #[error("no retained event has the id or position {id:?}")]
    EventNotFound { id: String },
    #[error("there is no asset {name:?}; names look like asset://aws/123456789012/us-east-1/ec2/instance/i-…")]
    AssetNotFound { name: String },
    #[error("nothing is known of asset {name:?} at {time}; it is known since {since}")]
    AssetNotKnownThen { name: String, time: Time, since: Time },
    #[error("there is no schema {name:?}; /v1/schema lists them")]
    SchemaNotFound { name: String },
    #[error("there is nothing at {path}; / lists the resources")]
    RouteNotFound { path: String },
    #[error("this resource supports only the methods in the header allow, and OPTIONS")]
    MethodNotAllowed,
    #[error("the request has no Host header or several; HTTP/1.1 requires exactly one")]
    BadHost,
    #[error("the body has {length} bytes; no resource here accepts one")]
    BodyTooLarge { length: u64 },
    #[error("all {limit} event streams are in use; try again later")]
    TooManyStreams { limit: usize },
    #[error("this credential has reached its limit of open streams (auth.streams_per_token); close one first")]
    TooManyStreamsOfOne,
    #[error(transparent)]
    Refused(Refusal),
    #[error("the Authorization header is not of the form Bearer <token>")]
    BadAuthorization,
    #[error(
        "access_token in the URL is not accepted, because URLs end up in logs; send Authorization: Bearer, or a ticket from \
         POST /v1/tickets"
    )]
    QueryToken,
    #[error("the credential is limited to a scope, and this resource can't be restricted to it")]
    OutOfScope,
    #[error(
        "without credentials this server only answers requests to localhost; create one with \
         catchment token create, or set auth.anonymous = true to admit everybody"
    )]
    ForeignHost,
    #[error("the log is kept in memory (ephemeral = true) and can't be backed up")]
    NoBackup,
    #[error("another backup is in progress; try again when it is done")]
    BackupUnderWay,
    #[error("the server is stopping")]
    Stopping,
    #[error("the server failed to answer; see its log")]
    Internal { cause: String },
}

/// The body of an error (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
}

impl ApiError {
    pub(super) fn bad_parameter(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::BadParameter { name: name.into(), reason: reason.into() }
    }

    /// No wildcard: a new failure does not compile until its status and code are chosen.
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadParameter { .. } => (StatusCode::BAD_REQUEST, "bad_parameter"),
            Self::UnknownParameter { .. } => (StatusCode::BAD_REQUEST, "unknown_parameter"),
            Self::RepeatedParameter { .. } => (StatusCode::BAD_REQUEST, "repeated_parameter"),
            Self::BadCursor { .. } => (StatusCode::BAD_REQUEST, "bad_cursor"),
            Self::UnknownPosition { .. } => (StatusCode::BAD_REQUEST, "unknown_position"),
            Self::PositionGone { .. } => (StatusCode::GONE, "position_gone"),
            Self::EventNotFound { .. } => (StatusCode::NOT_FOUND, "event_not_found"),
            Self::AssetNotFound { .. } => (StatusCode::NOT_FOUND, "asset_not_found"),
            Self::AssetNotKnownThen { .. } => (StatusCode::NOT_FOUND, "asset_not_known_then"),
            Self::SchemaNotFound { .. } => (StatusCode::NOT_FOUND, "schema_not_found"),
            Self::RouteNotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad_host"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::TooManyStreams { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_streams"),
            Self::TooManyStreamsOfOne => (StatusCode::TOO_MANY_REQUESTS, "too_many_streams_of_one"),
            Self::Refused(Refusal::Missing) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Refused(Refusal::Unknown(_)) => (StatusCode::UNAUTHORIZED, "bad_credential"),
            Self::Refused(Refusal::Jwt(JwtRefusal::Invalid(_))) => (StatusCode::UNAUTHORIZED, "bad_credential"),
            Self::Refused(Refusal::Jwt(JwtRefusal::NoGrant { .. })) => (StatusCode::FORBIDDEN, "no_grant"),
            Self::Refused(Refusal::Jwt(JwtRefusal::Unavailable(_))) => {
                (StatusCode::SERVICE_UNAVAILABLE, "identity_provider_unavailable")
            }
            Self::Refused(Refusal::TooManyRequests { .. }) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::Refused(Refusal::TooManyFailures { .. }) => (StatusCode::TOO_MANY_REQUESTS, "too_many_failures"),
            Self::BadAuthorization => (StatusCode::UNAUTHORIZED, "bad_authorization"),
            Self::QueryToken => (StatusCode::UNAUTHORIZED, "query_token"),
            Self::OutOfScope => (StatusCode::FORBIDDEN, "out_of_scope"),
            Self::ForeignHost => (StatusCode::MISDIRECTED_REQUEST, "foreign_host"),
            Self::NoBackup => (StatusCode::NOT_FOUND, "no_backup"),
            Self::BackupUnderWay => (StatusCode::SERVICE_UNAVAILABLE, "backup_under_way"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// The stable `code` that programs rely on.
    pub(super) fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    /// Seconds after which a retry may succeed.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Refused(Refusal::TooManyRequests { retry_after } | Refusal::TooManyFailures { retry_after }) => {
                Some(retry_after.as_secs() + 1)
            }
            error if error.status_and_code().0 == StatusCode::SERVICE_UNAVAILABLE => Some(5),
            _ => None,
        }
    }

    /// The `www-authenticate` challenge of a 401 (RFC 6750, section 3).
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Refused(Refusal::Missing) => Some(r#"Bearer realm="catchment""#),
            Self::BadAuthorization | Self::QueryToken => Some(r#"Bearer realm="catchment", error="invalid_request""#),
            error if error.status_and_code().0 == StatusCode::UNAUTHORIZED => {
                Some(r#"Bearer realm="catchment", error="invalid_token""#)
            }
            _ => None,
        }
    }

    fn parameter(&self) -> Option<&str> {
        match self {
            Self::BadParameter { name, .. }
            | Self::UnknownParameter { name, .. }
            | Self::RepeatedParameter { name } => Some(name),
            Self::UnknownPosition { .. } => Some("after"),
            Self::BadCursor { place, .. } => Some(place),
            _ => None,
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Closed => Self::Stopping,
            error => Self::Internal { cause: error.to_string() },
        }
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::bad_parameter(error.parameter, error.reason)
    }
}

impl From<ProjectionError> for ApiError {
    fn from(error: ProjectionError) -> Self {
        Self::bad_parameter(error.parameter, error.reason)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if let Self::Internal { cause } = &self {
            tracing::error!(%cause, "request failed");
        }
        let problem = Problem {
            // The title says what the status says; what went wrong is told apart by `code`.
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.to_string(),
            code,
            parameter: self.parameter(),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Every code with its status, read from the source text, since no test can provoke every error.
#[cfg(test)]
pub(super) fn codes() -> std::collections::BTreeSet<(String, u16)> {
    let (source, _) = include_str!("error.rs").split_once("#[cfg(test)]").unwrap_or_default();
    let of_arm = |arm: &str| {
        let mut parts = arm.split(['"', ',']);
        let reason = parts.next()?.replace('_', " ");
        let named =
            |status: &StatusCode| status.canonical_reason().is_some_and(|name| name.eq_ignore_ascii_case(&reason));
        let status = (100..600).filter_map(|status| StatusCode::from_u16(status).ok()).find(named)?;
        Some((parts.nth(1)?.to_owned(), status.as_u16()))
    };
    let arms: Vec<&str> = source.split("(StatusCode::").skip(1).collect();
    let codes: Vec<_> = arms.iter().filter_map(|arm| of_arm(arm)).collect();
    assert!(codes.len() == arms.len() && codes.len() > 20, "{codes:?}");
    codes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_code_is_documented() {
        let docs = include_str!("../../docs/API.md");
        for (code, status) in super::codes() {
            let [code, status] = [format!("`{code}`"), format!("| {status} |")];
            let is_row = |line: &str| line.starts_with("| `") && line.contains(&code) && line.contains(&status);
            assert!(docs.lines().any(is_row), "docs/API.md has no row for {code} with {status}");
        }
    }
}
