//! The state of an asset, kept in the form in which the log stores it.

mod older;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ConfigurationState;
use crate::json::{Arena, Json, JsonText, written};
use crate::model::{AssetName, Time};

/// An asset as the inventory holds it: in its stored form, so that logging, packing and restoring it are copies of
/// bytes. It is never changed, but replaced by another one made of its [`Fields`].
#[derive(Clone, Debug)]
pub struct Held {
    name: AssetName,
    state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    aliases: Vec<AssetName>,
    /// A part of `stored`, as the configuration is.
    tags: JsonText,
    configuration: Option<Bytes>,
    stored: Bytes,
}

/// What is known about an asset besides its name and its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fields<'a> {
    // What assets of a type have in common comes first, in one piece, so that it compresses well. The tags are last,
    // so that they are found without reading what comes before.
    /// `aws` or `azure`.
    pub provider: &'a str,
    /// The provider's type.
    pub provider_type: &'a str,
    /// The neutral type.
    pub neutral_type: &'a str,
    /// The account.
    pub account: &'a str,
    /// The region, `-` for global ones.
    pub region: &'a str,
    /// How much of the configuration is known.
    pub state: ConfigurationState,
    /// The ARN comes from a record; it is not composed.
    pub arn_is_told: bool,
    /// The ARN or other full name.
    pub arn: Option<&'a str>,
    /// The provider's id; the newest one after renames.
    pub id: &'a str,
    /// A unique id that distinguishes it from earlier and later assets of the same name: the provider's own, else the
    /// id of the event that created it; `None` if neither is known.
    pub uid: Option<&'a str>,
    /// Later names, from renames.
    #[serde(borrow)]
    pub aliases: Vec<&'a str>,
    /// The last seed, if there was one.
    pub seeded: Option<Seeded>,
    /// The event time of the first event.
    pub first_seen: Time,
    /// The event time of the last change.
    pub changed: Time,
    /// The id of the last event.
    pub last_event: &'a str,
    /// The display name.
    pub display_name: Option<&'a str>,
    /// The tags, as a JSON object.
    pub tags: &'a str,
}

/// The place of a seed among the asset's events: the log need not contain an event for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeded {
    /// The time as of which it describes the asset.
    pub as_of: Time,
    /// How much of the configuration was known then.
    pub state: ConfigurationState,
    /// The first event after it.
    pub next: Option<String>,
}

/// The fields by which lists select assets.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// The first name.
    pub name: &'a AssetName,
    /// The neutral type.
    pub neutral_type: &'a str,
    /// `aws` or `azure`.
    pub provider: &'a str,
    /// The account.
    pub account: &'a str,
    /// The region, `-` for global ones.
    pub region: &'a str,
    /// How much of the configuration is known.
    pub state: ConfigurationState,
    /// The event time of the last change.
    pub changed: Time,
}

/// An error when a stored asset is read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The head of an older form is not valid JSON, or lacks members.
    #[error("a stored asset can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The bytes were written by a later version or another program, or are truncated.
    #[error("a stored asset can't be read: its format is unknown or it is truncated")]
    Format,
    /// A packed asset can't be decompressed.
    #[error("an asset kept in memory can't be decompressed")]
    Unpack,
}

/// The first byte of the stored form. The name, the fields (both in the Postcard wire format) and the configuration as
/// JSON follow.
const FORMAT: u8 = 2;

impl Held {
    /// An asset with these fields and this configuration, as JSON; `None` if it is deleted.
    #[must_use]
    pub fn new(name: AssetName, fields: &Fields<'_>, configuration: Option<&[u8]>) -> Self {
        Self::write(name, fields, |text| text.extend_from_slice(configuration.unwrap_or_default()))
    }

    /// The same, of a parsed configuration.
    pub(super) fn of(name: AssetName, fields: &Fields<'_>, configuration: Option<Json<'_>>) -> Self {
        Self::write(name, fields, |text| configuration.into_iter().for_each(|document| document.write(text)))
    }

    fn write(name: AssetName, fields: &Fields<'_>, configuration: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut from = 0;
        let stored = written(|stored| {
            stored.push(FORMAT);
            // Texts and numbers written to memory: this can't fail.
            *stored = postcard::to_extend(&(name.as_str(), fields), std::mem::take(stored)).unwrap_or_default();
            from = stored.len();
            configuration(stored);
        });
        Self::with(name, fields, from, stored)
    }

    /// Reads the [stored form](Self::stored) of this version or an older one. The asset's name is read too, unless it is
    /// given.
    pub(super) fn restore(stored: Bytes, name: Option<&AssetName>) -> Result<Self, RestoreError> {
        let Some((&FORMAT, rest)) = stored.split_first() else { return older::restore(&stored) };
        let read = postcard::take_from_bytes::<(&str, Fields<'_>)>(rest);
        let ((text, fields), configuration) = read.map_err(|_| RestoreError::Format)?;
        let name = name.map_or_else(|| AssetName::from_text(text), AssetName::clone);
        Ok(Self::with(name, &fields, stored.len() - configuration.len(), stored.clone()))
    }

    /// `from` is where the configuration begins in the stored form; the tags end there.
    fn with(name: AssetName, fields: &Fields<'_>, from: usize, stored: Bytes) -> Self {
        Self {
            name,
            state: fields.state,
            first_seen: fields.first_seen,
            changed: fields.changed,
            aliases: fields.aliases.iter().map(|alias| AssetName::from_text(alias)).collect(),
            tags: JsonText::trusted(stored.slice(from.saturating_sub(fields.tags.len())..from)),
            configuration: Some(stored.slice(from..)).filter(|json| !json.is_empty()),
            stored,
        }
    }

    /// Its first name.
    #[must_use]
    pub fn name(&self) -> &AssetName {
        &self.name
    }

    /// How much of the configuration is known.
    #[must_use]
    pub fn state(&self) -> ConfigurationState {
        self.state
    }

    /// The event time of the first event.
    #[must_use]
    pub fn first_seen(&self) -> Time {
        self.first_seen
    }

    /// The event time of the last change.
    #[must_use]
    pub fn changed(&self) -> Time {
        self.changed
    }

    /// Later names, from renames.
    #[must_use]
    pub fn aliases(&self) -> &[AssetName] {
        &self.aliases
    }

    /// The tags, as a JSON object.
    #[must_use]
    pub fn tags(&self) -> &JsonText {
        &self.tags
    }

    /// The configuration as JSON; `None` if deleted.
    #[must_use]
    pub fn configuration(&self) -> Option<&Bytes> {
        self.configuration.as_ref()
    }

    /// The other fields, and these.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        // It was read or written before: this can't fail.
        postcard::from_bytes::<(&str, _)>(self.stored.get(1..).unwrap_or_default()).unwrap_or_default().1
    }

    /// The fields by which lists select assets.
    #[must_use]
    pub fn outline(&self) -> Outline<'_> {
        let Fields { neutral_type, provider, account, region, .. } = self.fields();
        Outline { name: &self.name, neutral_type, provider, account, region, state: self.state, changed: self.changed }
    }

    /// The stored form, for the log.
    #[must_use]
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// Approximate size in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 400;
        FIXED + self.stored.len() + 2 * self.name.as_str().len()
    }

    /// The parsed configuration.
    pub(super) fn document<'a>(&self, arena: &'a Arena) -> Option<Json<'a>> {
        self.configuration.as_ref().map(|json| Json::stored(json, arena))
    }

    /// Whether the asset exists, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        self.state != ConfigurationState::Deleted
    }
}
