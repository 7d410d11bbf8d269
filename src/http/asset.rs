//! One asset: `GET /v1/assets/{name}`, its `/history` and its `/blame`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::value::RawValue;

use super::access::Caller;
use super::assets::{AssetBody, internal, page_size};
use super::error::ApiError;
use super::events::project;
use super::params::Params;
use super::stream::parse_projection;
use super::{App, Shared};
use crate::history::{AsOf, Blame, Field};
use crate::hub::blocking;
use crate::inventory::Held;
use crate::model::{AssetName, Cursor, Seq, Time};

const EVENTS_PER_PAGE: u64 = 50;
const MAX_EVENTS_PER_PAGE: u64 = 500;

#[derive(Serialize)]
struct HistoryPage {
    asset: AssetName,
    events: Vec<Box<RawValue>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct BlameBody<'a> {
    asset: &'a AssetName,
    as_of: Option<Time>,
    /// Values without an event were set before this time.
    since: Option<Time>,
    fields: Vec<Field>,
}

/// `GET /v1/assets/{name}`, `/v1/assets/{name}/history` and `/v1/assets/{name}/blame`.
pub(super) async fn one(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let path = uri.path().strip_prefix("/v1/assets/").unwrap_or_default();
    if let Some(name) = path.strip_suffix("/history") {
        history(&app, &caller, &parse_name(name)?, &uri).await
    } else if let Some(name) = path.strip_suffix("/blame") {
        blame(&app, &caller, parse_name(name)?, &uri).await
    } else {
        asset(&app, &caller, parse_name(path)?, &uri).await
    }
}

/// Parses an asset name from the path, either literal or percent-encoded as a whole. Names have percent-encoded parts
/// of their own, so a literal one must not be decoded.
fn parse_name(path: &str) -> Result<AssetName, ApiError> {
    if let Some(rest) = path.strip_prefix("asset:/") {
        // Some proxies merge slashes.
        return Ok(AssetName::from_text(&format!("asset://{}", rest.trim_start_matches('/'))));
    }
    let name = percent_decode_str(path).decode_utf8();
    name.map(|name| AssetName::from_text(&name)).map_err(|_| ApiError::AssetNotFound { name: path.to_owned() })
}

async fn asset(app: &App, caller: &Caller, name: AssetName, uri: &Uri) -> Result<Response, ApiError> {
    let mut params = Params::parse(uri)?;
    let as_of = as_of(app, &mut params)?;
    params.finish()?;
    let Some(time) = as_of else {
        let found = app.state.inventory.get(&name);
        let found = seen(caller, &name, found.ok_or_else(|| not_found(&name))?)?;
        return Ok(Json(caller.asset(AssetBody::new(&found, true)?)?).into_response());
    };
    let (past, asked) = (app.state.history.clone(), name.clone());
    let held = known_then(blocking(move || past.as_of(&asked, time)).await?, &name, time)?;
    let held = seen(caller, &name, held)?;
    Ok(Json(caller.asset(AssetBody::new(&held, true)?.at(time))?).into_response())
}

/// An asset outside of the credential's scope gets the same answer as one that does not exist.
fn seen(caller: &Caller, name: &AssetName, held: Arc<Held>) -> Result<Arc<Held>, ApiError> {
    if caller.sees_asset(&held)? { Ok(held) } else { Err(not_found(name)) }
}

fn not_found(name: &AssetName) -> ApiError {
    ApiError::AssetNotFound { name: name.to_string() }
}

fn known_then<T>(found: AsOf<T>, name: &AssetName, time: Time) -> Result<T, ApiError> {
    match found {
        AsOf::Known(found) => Ok(found),
        AsOf::NotYet(since) => Err(ApiError::AssetNotKnownThen { name: name.to_string(), time, since }),
        AsOf::Never => Err(not_found(name)),
    }
}

/// The parameter `as_of`.
fn as_of(app: &App, params: &mut Params) -> Result<Option<Time>, ApiError> {
    Ok(params.moment("as_of")?.map(|moment| moment.resolve((app.state.clock)())))
}

async fn blame(app: &App, caller: &Caller, name: AssetName, uri: &Uri) -> Result<Response, ApiError> {
    let mut params = Params::parse(uri)?;
    let as_of = as_of(app, &mut params)?;
    params.finish()?;
    if !caller.sees_every_member() {
        return Err(ApiError::OutOfScope);
    }
    let (past, asked) = (app.state.history.clone(), name.clone());
    let time = as_of.unwrap_or_else(|| (app.state.clock)());
    let blame = known_then(blocking(move || past.blame(&asked, as_of)).await?, &name, time)?;
    let Blame { held, fields, since } = blame;
    let held = seen(caller, &name, held)?;
    Ok(Json(BlameBody { asset: held.name(), as_of, since, fields }).into_response())
}

async fn history(app: &App, caller: &Caller, name: &AssetName, uri: &Uri) -> Result<Response, ApiError> {
    let mut params = Params::parse(uri)?;
    let projection = caller.project(parse_projection(&mut params)?);
    let before = params.cursor("page_token")?;
    let limit = page_size(&mut params, EVENTS_PER_PAGE, MAX_EVENTS_PER_PAGE)?;
    params.finish()?;
    let epoch = app.state.hub.epoch();
    if before.is_some_and(|before| before.epoch != epoch) {
        return Err(ApiError::bad_parameter(
            "page_token",
            "belongs to a log that was replaced; start over without page_token",
        ));
    }
    let known = app.state.inventory.get(name);
    let name = known.as_ref().map_or(name, |asset| asset.name()).clone();
    let before_first = before.is_none();
    let (log, asset, before) = (Arc::clone(&app.state.log), name.clone(), before.map(|before| before.seq));
    let mut positions = blocking(move || log.history(&asset, before, limit + 1)).await?;
    if positions.is_empty() && known.is_none() {
        return Err(not_found(&name));
    }
    let more = positions.len() > limit;
    positions.truncate(limit);
    let next = positions.last().filter(|_| more).map(|seq: &Seq| Cursor { epoch, seq: *seq }.to_string());
    let mut events = Vec::with_capacity(positions.len());
    for (_, json) in app.state.hub.events(positions).await? {
        // Also those of an asset that is gone: each event says of itself where it belongs.
        if !caller.sees_event(&json)? {
            continue;
        }
        let json = project(json, projection.as_deref())?;
        let event: Box<RawValue> = serde_json::from_slice(&json).map_err(internal)?;
        events.push(event);
    }
    if events.is_empty() && before_first && !caller.0.scope().is_everything() {
        return Err(not_found(&name));
    }
    Ok(Json(HistoryPage { asset: name, events, next }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_in_every_spelling_of_a_url() {
        let name = "asset://aws/1/-/logs/log-group/%2Faws%2Flambda";
        let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let half_encoded = name.replace('%', "%25").replace('/', "%2F");
        for path in [name, &name.replacen("//", "/", 1), &encoded, &half_encoded] {
            assert_eq!(parse_name(path).unwrap().as_str(), name, "{path}");
        }
        assert!(parse_name("%FF").is_err());
    }
}
