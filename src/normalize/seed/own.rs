//! Items that Catchment itself wrote: assets from `/v1/assets`, and events.

use std::sync::Arc;

use jsonptr::PointerBuf;
use serde_json::{Map, Value};

use super::super::catalog::Catalog;
use super::SeedFault;
use super::item::{member, text, time};
use crate::model::{Action, AssetKind, AssetName, AssetRef, Confidence, Draft, DraftAction, Seed, Step, Time};

/// Parses an asset as returned by `GET /v1/assets` with `include=configuration`, and by `GET /v1/assets/{name}`.
pub(super) fn asset(catalog: &Catalog, told: &Map<String, Value>) -> Result<Seed, SeedFault> {
    let when = told.get("changed").and_then(time);
    let aliases = told.get("aliases").and_then(Value::as_array).into_iter().flatten();
    let aliases: Vec<_> = aliases.filter_map(Value::as_str).map(AssetName::from_text).collect();
    seed(catalog, told, told, when, &aliases)
}

/// Parses an event: the asset as it was after it.
pub(super) fn event(catalog: &Catalog, told: &Map<String, Value>) -> Result<Seed, SeedFault> {
    let data = told.get("data").and_then(Value::as_object);
    let asset = data.and_then(|data| data.get("asset")).and_then(Value::as_object);
    let (Some(data), Some(asset)) = (data, asset) else {
        return Err(SeedFault::rejected("unknown_seed", "a CloudEvent without an asset in its data"));
    };
    seed(catalog, asset, data, told.get("time").and_then(time), &[])
}

fn seed(
    catalog: &Catalog,
    asset: &Map<String, Value>,
    state: &Map<String, Value>,
    when: Option<Time>,
    aliases: &[AssetName],
) -> Result<Seed, SeedFault> {
    let told = Value::Object(asset.clone());
    let text_of = |name: &str| {
        let missing = || SeedFault::rejected("unknown_seed", format!("an asset without its {name:?}"));
        text(&told, &[name]).ok_or_else(missing)
    };
    let as_of =
        when.ok_or_else(|| SeedFault::rejected("unknown_seed", "an asset without the time of its last change"))?;
    let gone = state.get("configuration_state").and_then(Value::as_str) == Some("deleted");
    let configuration = state.get("configuration").filter(|configuration| configuration.is_object());
    let mut steps = Vec::new();
    match configuration {
        Some(configuration) if !gone => steps.push(Step::Replace(configuration.into())),
        None if !gone => {
            let reason = "an asset without its configuration; ask for it with include=configuration";
            return Err(SeedFault::rejected("no_configuration", reason));
        }
        _ => {}
    }
    let (id, arn) = (text_of("id")?, member(asset, "arn").and_then(Value::as_str).map(str::to_owned));
    steps.extend(aliases.iter().map(|alias| Step::Rename { id: id.clone(), alias: alias.clone(), arn: arn.clone() }));
    let partial = state.get("configuration_state").and_then(Value::as_str) != Some("complete");
    Ok(Seed {
        as_of,
        draft: Draft {
            action: if gone { DraftAction::Known(Action::Delete) } else { DraftAction::Upsert },
            asset: AssetRef {
                kind: kind(catalog, &text_of("provider")?, &text_of("provider_type")?, &text_of("type")?)?,
                name: AssetName::from_text(&text_of("name")?),
                arn_is_told: arn.is_some(),
                arn,
                account: text_of("account")?,
                region: text_of("region")?,
                id,
            },
            steps,
            partial,
            associations: Vec::new(),
            rule: "seed/own".into(),
            confidence: Confidence::High,
        },
    })
}

/// The asset type as defined by the rules in force; an unknown one as the item states it.
fn kind(catalog: &Catalog, provider: &str, provider_type: &str, neutral: &str) -> Result<Arc<AssetKind>, SeedFault> {
    let (provider, known) = match provider {
        "aws" => ("aws", catalog.aws.assets.get(provider_type).map(|asset| Arc::clone(&asset.kind))),
        "azure" => ("azure", catalog.azure.known_kind(provider_type)),
        other => {
            return Err(SeedFault::rejected("unknown_seed", format!("an asset of the unknown provider {other:?}")));
        }
    };
    let as_told = || AssetKind {
        provider,
        provider_type: provider_type.to_owned(),
        neutral_type: neutral.to_owned(),
        display: Vec::new(),
        tags: PointerBuf::from_tokens(["tags"]),
        uid: Vec::new(),
        sets: Vec::new(),
    };
    Ok(known.unwrap_or_else(|| Arc::new(as_told())))
}
