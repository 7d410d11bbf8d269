//! `GET /v1/sources` and `GET /v1/quarantine`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::Shared;
use super::access::Caller;
use super::error::ApiError;
use super::params::{NoParams, Params};
use crate::hub::blocking;
use crate::log::Quarantined;
use crate::model::{SourceId, Time};
use crate::source::{SourceStatus, StatusBoard};

const RECORDS_PER_PAGE: u64 = 20;
const MAX_RECORDS_PER_PAGE: u64 = 200;
/// A page ends once its records have this many bytes; a single record has up to 1 MiB.
const PAGE_BYTES: usize = 4 << 20;

#[derive(Serialize)]
pub(super) struct Source {
    name: SourceId,
    #[serde(flatten)]
    status: SourceStatus,
}

#[derive(Serialize)]
struct SourceList {
    sources: Vec<Source>,
    log_waits_for: Option<String>,
}

/// `GET /v1/sources`: each source by name, and why the log accepts no events at present.
pub(super) async fn sources(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Result<Response, ApiError> {
    caller.sees_everything()?;
    let list = SourceList { sources: source_list(&app.state.sources), log_waits_for: app.state.log.waits_for() };
    Ok(Json(list).into_response())
}

pub(super) fn source_list(board: &StatusBoard) -> Vec<Source> {
    board.snapshot().into_iter().map(|(name, status)| Source { name, status }).collect()
}

#[derive(Serialize)]
struct Record {
    number: u64,
    source: SourceId,
    location: Arc<str>,
    index: u64,
    code: &'static str,
    reason: String,
    observed: Time,
    size: usize,
    /// `utf-8`: `record` is the text itself. `escaped`: the record is not UTF-8; bytes that are not printable ASCII are
    /// written as `\xNN`, a backslash as `\\`.
    encoding: &'static str,
    record: String,
}

#[derive(Serialize)]
struct RecordPage {
    records: Vec<Record>,
    next: Option<String>,
}

impl From<Quarantined> for Record {
    fn from(Quarantined { number, rejected }: Quarantined) -> Self {
        let (encoding, record) = match std::str::from_utf8(&rejected.bytes) {
            Ok(text) => ("utf-8", text.to_owned()),
            Err(_) => ("escaped", escape(&rejected.bytes)),
        };
        Self {
            number,
            source: rejected.origin.source,
            location: rejected.origin.location,
            index: rejected.origin.index,
            code: rejected.code,
            reason: rejected.reason,
            observed: rejected.observed,
            size: rejected.bytes.len(),
            encoding,
            record,
        }
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing into a string can't fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text
}

/// `GET /v1/quarantine`: records that could not be understood, oldest first.
pub(super) async fn quarantine(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    caller.sees_everything()?;
    let mut params = Params::parse(&uri)?;
    let after = params.number("page_token", 0, u64::MAX)?.unwrap_or(0);
    let limit = params.number("limit", 1, MAX_RECORDS_PER_PAGE)?.unwrap_or(RECORDS_PER_PAGE);
    params.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let log = Arc::clone(&app.state.log);
    let found = blocking(move || log.quarantine(after, limit + 1)).await?;
    let total = found.len();
    let mut bytes = 0;
    let fits = |record: &Quarantined| {
        let first = bytes == 0;
        bytes += record.rejected.bytes.len().max(1);
        first || bytes <= PAGE_BYTES
    };
    let records: Vec<Record> = found.into_iter().take(limit).take_while(fits).map(Record::from).collect();
    let next = records.last().filter(|_| records.len() < total).map(|record| record.number.to_string());
    Ok(Json(RecordPage { records, next }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_escaped_without_loss() {
        assert_eq!(escape(b"{\"a\\\":\xff\n}"), r#"{"a\\":\xff\x0a}"#);
    }
}
