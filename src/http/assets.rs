//! The inventory: `GET /v1/assets`, `/v1/assets/{name}`, `/v1/assets/{name}/history`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::events::project;
use super::params::Params;
use super::stream::parse_projection;
use super::{App, Shared};
use crate::hub::{AssetTypes, OneOf, blocking};
use crate::inventory::{ConfigurationState, Held, Outline};
use crate::model::{AssetName, Cursor, Seq, Time};

const ASSETS_PER_PAGE: u64 = 100;
const MAX_ASSETS_PER_PAGE: u64 = 1_000;
const EVENTS_PER_PAGE: u64 = 50;
const MAX_EVENTS_PER_PAGE: u64 = 500;

/// As the event's `asset` object, followed by what the inventory adds.
#[derive(Serialize)]
struct AssetBody<'a> {
    name: &'a AssetName,
    r#type: &'a str,
    provider: &'a str,
    provider_type: &'a str,
    id: &'a str,
    arn: Option<&'a str>,
    display_name: Option<&'a str>,
    account: &'a str,
    region: &'a str,
    tags: &'a Value,
    /// Left out, or null for an asset without.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<Option<&'a RawValue>>,
    configuration_state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    last_event: &'a str,
    aliases: &'a [AssetName],
}

#[derive(Serialize)]
struct AssetPage<'a> {
    assets: Vec<AssetBody<'a>>,
    next: Option<&'a AssetName>,
}

#[derive(Serialize)]
struct HistoryPage {
    asset: AssetName,
    events: Vec<Box<RawValue>>,
    next: Option<String>,
}

impl<'a> AssetBody<'a> {
    fn new(held: &'a Held, with_configuration: bool) -> Result<Self, ApiError> {
        let configuration = || held.configuration.as_deref().map(serde_json::from_slice).transpose().map_err(internal);
        Ok(Self {
            name: &held.name,
            r#type: &held.neutral_type,
            provider: &held.provider,
            provider_type: &held.provider_type,
            id: &held.id,
            arn: held.arn.as_deref(),
            display_name: held.display_name.as_deref(),
            account: &held.account,
            region: &held.region,
            tags: &held.tags,
            configuration: if with_configuration { Some(configuration()?) } else { None },
            configuration_state: held.state,
            first_seen: held.first_seen,
            changed: held.changed,
            last_event: &held.last_event,
            aliases: &held.aliases,
        })
    }
}

/// What `GET /v1/assets` lists.
struct AssetFilter {
    asset_type: Option<AssetTypes>,
    provider: Option<OneOf>,
    account: Option<OneOf>,
    region: Option<OneOf>,
    prefix: Option<String>,
}

impl AssetFilter {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let asset_type = params.take("type").map(|list| AssetTypes::parse("type", &list)).transpose()?;
        let mut one_of = |name| params.take(name).map(|list| OneOf::parse(name, &list)).transpose();
        Ok(Self {
            asset_type,
            provider: one_of("provider")?,
            account: one_of("account")?,
            region: one_of("region")?,
            prefix: params.text("prefix")?,
        })
    }

    fn matches(&self, asset: &Outline<'_>) -> bool {
        let one_of = |list: &Option<OneOf>, text: &str| list.as_ref().is_none_or(|list| list.contains(text));
        self.asset_type.as_ref().is_none_or(|types| types.contains(asset.neutral_type))
            && one_of(&self.provider, asset.provider)
            && one_of(&self.account, asset.account)
            && one_of(&self.region, asset.region)
            && self.prefix.as_ref().is_none_or(|prefix| asset.name.as_str().starts_with(prefix))
    }
}

/// `GET /v1/assets`.
pub(super) async fn list(State(app): State<Shared>, uri: Uri) -> Result<Response, ApiError> {
    let mut params = Params::parse(&uri)?;
    let filter = AssetFilter::parse(&mut params)?;
    let after = params.text("page_token")?.map(|token| AssetName::from_text(&token));
    let limit = page_size(&mut params, ASSETS_PER_PAGE, MAX_ASSETS_PER_PAGE)?;
    let with_configuration = match params.text("include")?.as_deref() {
        None => false,
        Some("configuration") => true,
        Some(other) => return Err(ApiError::bad_parameter("include", format!("{other:?} is not configuration"))),
    };
    params.finish()?;
    let inventory = Arc::clone(&app.state.inventory);
    let page = move || {
        let mut found = Vec::new();
        inventory.walk(after.as_ref(), &|asset| filter.matches(asset), &mut |asset| {
            found.push(asset);
            // One more than asked for, to know whether there is a next page.
            found.len() <= limit
        });
        Ok(found)
    };
    let mut found = blocking(page).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|asset| &asset.name);
    let assets = found.iter().map(|asset| AssetBody::new(asset, with_configuration)).collect::<Result<_, _>>()?;
    Ok(Json(AssetPage { assets, next }).into_response())
}

/// `GET /v1/assets/{name}` and `GET /v1/assets/{name}/history`.
pub(super) async fn asset_or_history(State(app): State<Shared>, uri: Uri) -> Result<Response, ApiError> {
    let path = uri.path().strip_prefix("/v1/assets/").unwrap_or_default();
    match path.strip_suffix("/history") {
        Some(name) => history(&app, &parse_name(name)?, &uri).await,
        None => asset(&app, &parse_name(path)?, &uri),
    }
}

/// The name out of a path: as it is, or percent-encoded as a whole. Names contain percent-encoded parts themselves, so
/// a name that stands there as it is must not be decoded.
fn parse_name(path: &str) -> Result<AssetName, ApiError> {
    if let Some(rest) = path.strip_prefix("asset:/") {
        // Some proxies merge slashes.
        return Ok(AssetName::from_text(&format!("asset://{}", rest.trim_start_matches('/'))));
    }
    let name = percent_decode_str(path).decode_utf8();
    name.map(|name| AssetName::from_text(&name)).map_err(|_| ApiError::AssetNotFound { name: path.to_owned() })
}

fn asset(app: &App, name: &AssetName, uri: &Uri) -> Result<Response, ApiError> {
    Params::parse(uri)?.finish()?;
    let found = app.state.inventory.get(name).ok_or_else(|| ApiError::AssetNotFound { name: name.to_string() })?;
    Ok(Json(AssetBody::new(&found, true)?).into_response())
}

async fn history(app: &App, name: &AssetName, uri: &Uri) -> Result<Response, ApiError> {
    let mut params = Params::parse(uri)?;
    let projection = parse_projection(&mut params)?;
    let before = params.cursor("page_token")?;
    let limit = page_size(&mut params, EVENTS_PER_PAGE, MAX_EVENTS_PER_PAGE)?;
    params.finish()?;
    let epoch = app.state.hub.epoch();
    if before.is_some_and(|before| before.epoch != epoch) {
        return Err(ApiError::bad_parameter("page_token", "belongs to a log that was replaced; begin anew"));
    }
    let known = app.state.inventory.get(name);
    let name = known.as_ref().map_or(name, |asset| &asset.name).clone();
    let (log, asset, before) = (Arc::clone(&app.state.log), name.clone(), before.map(|before| before.seq));
    let mut positions = blocking(move || log.history(&asset, before, limit + 1)).await?;
    if positions.is_empty() && known.is_none() {
        return Err(ApiError::AssetNotFound { name: name.to_string() });
    }
    let more = positions.len() > limit;
    positions.truncate(limit);
    let next = positions.last().filter(|_| more).map(|seq: &Seq| Cursor { epoch, seq: *seq }.to_string());
    let mut events = Vec::with_capacity(positions.len());
    for (_, json) in app.state.hub.events(positions).await? {
        let json = project(json, projection.as_deref())?;
        let event: Box<RawValue> = serde_json::from_slice(&json).map_err(internal)?;
        events.push(event);
    }
    Ok(Json(HistoryPage { asset: name, events, next }).into_response())
}

fn page_size(params: &mut Params, default: u64, max: u64) -> Result<usize, ApiError> {
    let limit = params.number("limit", 1, max)?.unwrap_or(default);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn internal(error: serde_json::Error) -> ApiError {
    ApiError::Internal { cause: error.to_string() }
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
