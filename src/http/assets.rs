//! The inventory, page by page: `GET /v1/assets`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Shared;
use super::access::{Caller, Shown};
use super::error::ApiError;
use super::params::Params;
use crate::hub::{AssetTypes, AssetView, Filter, OneOf, blocking};
use crate::inventory::{ConfigurationState, Held, Outline};
use crate::json::{Arena, JsonText};
use crate::model::{AssetName, AssetObject, Time};

const ASSETS_PER_PAGE: u64 = 100;
const MAX_ASSETS_PER_PAGE: u64 = 1_000;

/// The `asset` object of events, followed by what the inventory adds.
#[derive(Serialize)]
pub(super) struct AssetBody<'a> {
    #[serde(flatten)]
    asset: AssetObject<'a>,
    /// Absent unless requested; null for an asset without a known configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<Option<&'a RawValue>>,
    configuration_state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    last_event: &'a str,
    aliases: &'a [AssetName],
    /// The time of a past state; absent for the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Time>,
}

#[derive(Serialize)]
struct AssetPage<'a> {
    assets: Vec<Shown<AssetBody<'a>>>,
    next: Option<&'a AssetName>,
}

impl<'a> AssetBody<'a> {
    pub(super) fn new(held: &'a Held, with_configuration: bool) -> Result<Self, ApiError> {
        let configuration = || held.configuration().map(|json| serde_json::from_slice(json)).transpose();
        let fields = held.fields();
        Ok(Self {
            asset: AssetObject {
                name: held.name(),
                r#type: fields.neutral_type,
                provider: fields.provider,
                provider_type: fields.provider_type,
                id: fields.id,
                uid: fields.uid,
                arn: fields.arn,
                display_name: fields.display_name,
                account: fields.account,
                region: fields.region,
                tags: held.tags(),
            },
            configuration: with_configuration.then(configuration).transpose().map_err(internal)?,
            configuration_state: held.state(),
            first_seen: held.first_seen(),
            changed: held.changed(),
            last_event: fields.last_event,
            aliases: held.aliases(),
            as_of: None,
        })
    }

    /// Marks the body as the state at a past time.
    pub(super) fn at(self, time: Time) -> Self {
        Self { as_of: Some(time), ..self }
    }
}

/// The filter parameters of `GET /v1/assets`.
struct AssetFilter {
    asset_type: Option<AssetTypes>,
    provider: Option<OneOf>,
    account: Option<OneOf>,
    region: Option<OneOf>,
    prefix: Option<String>,
    /// Tag keys, and `key=value` pairs.
    tag: Option<OneOf>,
    changed_since: Option<Time>,
}

impl AssetFilter {
    fn parse(params: &mut Params, now: Time) -> Result<Self, ApiError> {
        let asset_type = params.take("type").map(|list| AssetTypes::parse("type", &list)).transpose()?;
        let mut one_of = |name| params.take(name).map(|list| OneOf::parse(name, &list)).transpose();
        Ok(Self {
            asset_type,
            provider: one_of("provider")?,
            account: one_of("account")?,
            region: one_of("region")?,
            tag: one_of("tag")?,
            prefix: params.text("prefix")?,
            changed_since: params.moment("changed_since")?.map(|moment| moment.resolve(now)),
        })
    }

    fn matches(&self, asset: &Outline<'_>) -> bool {
        let one_of = |list: &Option<OneOf>, text: &str| list.as_ref().is_none_or(|list| list.contains(text));
        self.asset_type.as_ref().is_none_or(|types| types.contains(asset.neutral_type))
            && one_of(&self.provider, asset.provider)
            && one_of(&self.account, asset.account)
            && one_of(&self.region, asset.region)
            && self.prefix.as_ref().is_none_or(|prefix| asset.name.as_str().starts_with(prefix))
            && self.changed_since.is_none_or(|since| asset.changed >= since)
    }
}

/// Whether one of the tags matches, by its key or by key and value.
fn has_tag(tags: &JsonText, wanted: &OneOf) -> bool {
    let arena = Arena::new();
    tags.value(&arena).as_object().unwrap_or_default().iter().any(|(key, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        wanted.contains(key) || wanted.contains(&format!("{key}={value}"))
    })
}

pub(super) fn in_scope(asset: &Outline<'_>, scope: Option<&Filter>) -> bool {
    scope.is_none_or(|scope| {
        scope.matches_asset(&AssetView {
            name: asset.name.as_str(),
            asset_type: asset.neutral_type,
            provider: asset.provider,
            account: asset.account,
            region: asset.region,
        })
    })
}

/// `GET /v1/assets`.
pub(super) async fn list(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut params = Params::parse(&uri)?;
    let filter = AssetFilter::parse(&mut params, (app.state.clock)())?;
    let after = params.text("page_token")?.map(|token| AssetName::from_text(&token));
    let limit = page_size(&mut params, ASSETS_PER_PAGE, MAX_ASSETS_PER_PAGE)?;
    let with_configuration = match params.text("include")?.as_deref() {
        None => false,
        Some("configuration") => true,
        Some(other) => {
            return Err(ApiError::bad_parameter("include", format!("{other:?} is not configuration, the only value")));
        }
    };
    params.finish()?;
    let (inventory, scope) = (Arc::clone(&app.state.inventory), caller.assets()?.cloned());
    let page = move || {
        let mut found = Vec::new();
        inventory.walk(
            after.as_ref(),
            &|asset| filter.matches(asset) && in_scope(asset, scope.as_deref()),
            &mut |asset| {
                if filter.tag.as_ref().is_none_or(|wanted| has_tag(asset.tags(), wanted)) {
                    found.push(asset);
                }
                // One more than asked for, to know whether there is a next page.
                found.len() <= limit
            },
        );
        Ok(found)
    };
    let mut found = blocking(page).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|asset| asset.name());
    let shown = |asset| caller.asset(AssetBody::new(asset, with_configuration)?);
    let assets = found.iter().map(|asset| shown(asset)).collect::<Result<_, _>>()?;
    Ok(Json(AssetPage { assets, next }).into_response())
}

pub(super) fn page_size(params: &mut Params, default: u64, max: u64) -> Result<usize, ApiError> {
    let limit = params.number("limit", 1, max)?.unwrap_or(default);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

pub(super) fn internal(error: serde_json::Error) -> ApiError {
    ApiError::Internal { cause: error.to_string() }
}
