//! Mentions of other assets in an asset's configuration: ARNs, ids with a known prefix, and values of keys that imply a
//! type.

use std::collections::HashMap;
use std::sync::Arc;

use jsonptr::PointerBuf;
use serde::Deserialize;

use super::eval::Place;
use super::keys::Keys;
use super::plan::{AssetPlan, Glob};
use super::references::{References, Referred};
use super::rule::Relation;
use crate::json::{Json, Members};
use crate::model::{AssetName, AssetRef, Association, FastMap, RelationChange};

/// Number of texts examined in one configuration. If there are more, added and removed ones are not marked.
const MOST: usize = 256;
/// Maximum length of an ARN: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>
const LONGEST: usize = 2_048;

/// How a mention relates the asset to the other one, from `normalizers/aws/associations.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MentionRules {
    /// Keys whose values are not searched.
    #[serde(default)]
    ignored: Vec<Glob>,
    /// Relations by the key of the mention; the first match wins.
    #[serde(default)]
    keys: Vec<KeyRule>,
    /// Relations by the provider type of the mentioned asset.
    #[serde(default)]
    types: FastMap<String, Relation>,
    /// Keys whose values are ids of one provider type, though their form does not show it.
    #[serde(default)]
    ids: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRule {
    key: Glob,
    relation: Relation,
}

/// The rules, with their types resolved.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    ignored: Vec<Glob>,
    keys: Vec<KeyRule>,
    types: FastMap<String, Relation>,
    /// By key, in camel and in Pascal case.
    ids: Keys<Arc<AssetPlan>>,
}

impl Mentions {
    /// Resolves the types that the rules name. The error is a key under `ids` whose type no rule file defines.
    pub(super) fn new(rules: MentionRules, assets: &HashMap<Box<str>, Arc<AssetPlan>>) -> Result<Self, String> {
        let mut ids = Vec::with_capacity(2 * rules.ids.len());
        for (key, provider_type) in rules.ids {
            let Some(asset) = assets.get(provider_type.as_str()) else { return Err(key) };
            let mut letters = key.chars();
            let pascal: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
            ids.extend([(pascal, Arc::clone(asset)), (key, Arc::clone(asset))]);
        }
        Ok(Self { ignored: rules.ignored, keys: rules.keys, types: rules.types, ids: ids.into_iter().collect() })
    }

    /// The associations that a configuration mentions, besides those from a rule in `told`. If the configuration before
    /// is known, they are marked as added, and removed ones are included.
    pub(super) fn associations(
        &self,
        references: &References,
        asset: &AssetRef,
        before: Option<Json<'_>>,
        after: Json<'_>,
        told: &[Association],
    ) -> Vec<Association> {
        let now = self.texts(asset, after);
        let then = before.map(|before| self.texts(asset, before));
        let comparable = then.as_ref().filter(|then| then.len() < MOST && now.len() < MOST);
        // A rule knows the place of an asset better.
        let by_rule = |referred: &Referred| told.iter().any(|association| association.id == referred.id);
        let mut known = Known(vec![asset.name.clone()]);
        let (mut found, mut held) = (Vec::new(), Vec::new());
        let texts_then = sorted(comparable.into_iter().flatten());
        for mention in &now {
            let Some((referred, relation)) = self.referred(references, asset, mention) else { continue };
            if texts_then.binary_search(&mention.text).is_ok() {
                held.push(referred.name.clone());
            }
            if !by_rule(&referred) && known.is_new(&referred) {
                found.push(Association {
                    at: Some(mention.at()),
                    ..referred.association(relation.as_str().into(), None)
                });
            }
        }
        let Some(then) = comparable else { return found };
        let texts_now = sorted(&now);
        let gone = then.iter().filter(|mention| texts_now.binary_search(&mention.text).is_err());
        let mut removed = Vec::new();
        for mention in gone {
            let Some((referred, relation)) = self.referred(references, asset, mention) else { continue };
            // Another spelling of the same asset, as an id instead of an ARN, is no change.
            held.push(referred.name.clone());
            if !by_rule(&referred) && known.is_new(&referred) {
                let change = Some(RelationChange::Removed);
                removed.push(Association {
                    at: Some(mention.at()),
                    ..referred.association(relation.as_str().into(), change)
                });
            }
        }
        for association in &mut found {
            association.change = (!held.contains(&association.name)).then_some(RelationChange::Added);
        }
        found.append(&mut removed);
        found
    }

    fn referred(
        &self,
        references: &References,
        asset: &AssetRef,
        mention: &Mention<'_>,
    ) -> Option<(Referred, Relation)> {
        if asset.arn.as_deref() == Some(mention.text) || self.ignored.iter().any(|glob| glob.matches(mention.key)) {
            return None;
        }
        let sibling = |key: &str| mention.members?.get(key)?.as_str();
        let owner = ["ownerId", "userId"].into_iter().find_map(sibling).filter(|id| is_account(id));
        let place = Place {
            service: "",
            account: owner.unwrap_or(&asset.account),
            region: sibling("region").unwrap_or(&asset.region),
        };
        let referred = match references.find(mention.text, &place) {
            Some(referred) => referred,
            None if mention.text.starts_with("arn:") => return None,
            None => references.of_kind(self.ids.get(mention.key)?, mention.text, &[], &place)?,
        };
        // The region of a regional asset is unknown if it is mentioned by a global one.
        if referred.region == "-" && !referred.asset.global {
            return None;
        }
        let by_key = self.keys.iter().find(|rule| rule.key.matches(mention.key)).map(|rule| rule.relation);
        let by_type = || self.types.get(&referred.asset.kind.provider_type).copied();
        let relation = by_key.or_else(by_type).unwrap_or(Relation::Uses);
        Some((referred, relation))
    }

    /// The texts of a configuration that may refer to an asset, each once.
    fn texts<'v>(&self, asset: &AssetRef, document: Json<'v>) -> Vec<Mention<'v>> {
        let tags = document.at(&asset.kind.tags).and_then(Json::as_object);
        let mut walk = Walk { rules: self, tags, path: Vec::new(), found: Vec::new() };
        walk.value(document, "", None);
        walk.found
    }

    fn may_refer(&self, key: &str, text: &str) -> bool {
        if text.starts_with("arn:") {
            return text.len() <= LONGEST;
        }
        has_id_form(text) || (self.ids.get(key).is_some() && is_plain_id(text))
    }
}

/// The assets found so far: few enough for linear search.
struct Known(Vec<AssetName>);

impl Known {
    fn is_new(&mut self, referred: &Referred) -> bool {
        let is_new = !self.0.contains(&referred.name);
        if is_new {
            self.0.push(referred.name.clone());
        }
        is_new
    }
}

fn sorted<'m, 'v: 'm>(mentions: impl IntoIterator<Item = &'m Mention<'v>>) -> Vec<&'v str> {
    let mut texts: Vec<_> = mentions.into_iter().map(|mention| mention.text).collect();
    texts.sort_unstable();
    texts
}

/// A text that may refer to another asset.
struct Mention<'v> {
    text: &'v str,
    /// The key of the member that contains it, possibly within arrays.
    key: &'v str,
    members: Option<Members<'v>>,
    path: Vec<Token<'v>>,
}

impl Mention<'_> {
    fn at(&self) -> PointerBuf {
        let mut at = PointerBuf::root();
        for token in &self.path {
            match token {
                Token::Key(key) => at.push_back(*key),
                Token::Index(index) => at.push_back(*index),
            }
        }
        at
    }
}

#[derive(Clone, Copy)]
enum Token<'v> {
    Key(&'v str),
    Index(usize),
}

struct Walk<'w, 'v> {
    rules: &'w Mentions,
    tags: Option<Members<'v>>,
    path: Vec<Token<'v>>,
    found: Vec<Mention<'v>>,
}

impl<'v> Walk<'_, 'v> {
    fn is_found(&self, text: &str) -> bool {
        self.found.iter().any(|mention| mention.text == text)
    }

    fn value(&mut self, value: Json<'v>, key: &'v str, members: Option<Members<'v>>) {
        match value {
            Json::Text(text) if self.found.len() < MOST && self.rules.may_refer(key, text) && !self.is_found(text) => {
                self.found.push(Mention { text, key, members, path: self.path.clone() });
            }
            Json::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.path.push(Token::Index(index));
                    self.value(*element, key, members);
                    self.path.pop();
                }
            }
            Json::Object(inner) => {
                // Tags are free text, except the provider's own, which begin with `aws:`.
                let is_tags = self.tags.is_some_and(|tags| tags.is(inner));
                for (key, value) in inner.iter().filter(|(key, _)| !is_tags || key.starts_with("aws:")) {
                    self.path.push(Token::Key(key));
                    self.value(value, key, Some(inner));
                    self.path.pop();
                }
            }
            _ => {}
        }
    }
}

/// `subnet-0a1b2c3d`: letters, a hyphen, and at least eight hexadecimal digits.
fn has_id_form(text: &str) -> bool {
    const LONGEST_ID: usize = 48;
    if !(10..=LONGEST_ID).contains(&text.len()) {
        return false;
    }
    let digits = text.bytes().rev().take_while(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).count();
    digits >= 8
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text.as_bytes().get(text.len().wrapping_sub(digits + 1)) == Some(&b'-')
}

fn is_plain_id(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_.+=,@".contains(&letter))
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests;
