//! What a subscriber wants to see, compiled once and then asked for every event.

use std::sync::Arc;

use super::cel::{Expression, Field, Requirement, View};
use crate::model::{Action, EventHead, Novelty, Time};

/// A set of texts, one of which must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OneOf(Vec<Box<str>>);

impl OneOf {
    /// Whether the text is in the set.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.0.binary_search_by(|one| one.as_ref().cmp(text)).is_ok()
    }
}

/// A set of asset types: exact ones, and families such as `network.*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AssetTypes {
    whole: OneOf,
    /// `network.` for `network.*`.
    families: Vec<Box<str>>,
}

impl AssetTypes {
    /// Parses a comma-separated list.
    ///
    /// # Errors
    /// When an element is empty, or has a `*` elsewhere than as its whole last word.
    pub fn parse(parameter: &'static str, list: &str) -> Result<Self, FilterError> {
        let (mut whole, mut families) = (Vec::new(), Vec::new());
        for item in split(parameter, list)? {
            match item.strip_suffix('*') {
                Some(family) if family.len() > 1 && family.ends_with('.') && !family.contains('*') => {
                    families.push(family.into());
                }
                None if !item.contains('*') => whole.push(item.into_boxed_str()),
                _ => {
                    let reason = format!("{item:?}: a * stands only after a dot at the end, as in network.*");
                    return Err(FilterError { parameter, reason });
                }
            }
        }
        whole.sort_unstable();
        families.sort_unstable();
        Ok(Self { whole: OneOf(whole), families })
    }

    fn keys(&self) -> Vec<Key<'_>> {
        let mut keys = Key::all(KeyField::Is(Field::AssetType), self.whole.texts());
        keys.extend(Key::all(KeyField::Family, self.families.iter().map(AsRef::as_ref)));
        keys
    }

    /// Whether the type is in the set.
    #[must_use]
    pub fn contains(&self, asset_type: &str) -> bool {
        self.whole.contains(asset_type) || self.families.iter().any(|family| asset_type.starts_with(family.as_ref()))
    }
}

/// A set of assets: exact names, and prefixes that end in `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AssetNames {
    whole: OneOf,
    prefixes: Vec<Box<str>>,
}

impl AssetNames {
    fn parse(parameter: &'static str, list: &str) -> Result<Self, FilterError> {
        let items = split(parameter, list)?;
        if let Some(item) = items.iter().find(|item| !item.starts_with("asset://")) {
            let reason = format!("{item:?} is no asset name: they begin with asset://");
            return Err(FilterError { parameter, reason });
        }
        let (mut prefixes, mut whole): (Vec<_>, Vec<_>) =
            items.into_iter().map(String::into_boxed_str).partition(|item| item.ends_with('/'));
        whole.sort_unstable();
        prefixes.sort_unstable();
        Ok(Self { whole: OneOf(whole), prefixes })
    }

    fn keys(&self) -> Vec<Key<'_>> {
        let mut keys = Key::all(KeyField::Is(Field::Asset), self.whole.texts());
        keys.extend(Key::all(KeyField::AssetPrefix, self.prefixes.iter().map(AsRef::as_ref)));
        keys
    }

    fn contains(&self, name: &str) -> bool {
        self.whole.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_ref()))
    }
}

/// An invalid filter parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {reason}")]
pub struct FilterError {
    /// The parameter's name.
    pub parameter: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The members of an asset that filters match.
#[derive(Clone, Copy, Debug)]
pub struct AssetView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its neutral type.
    pub asset_type: &'a str,
    /// `aws` or `azure`.
    pub provider: &'a str,
    /// Its account or subscription.
    pub account: &'a str,
    /// Its region.
    pub region: &'a str,
}

/// A conjunction of conditions; one that is not given matches everything. [`Filter::default`] matches every event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    actions: Option<Vec<Action>>,
    asset_type: Option<AssetTypes>,
    provider: Option<OneOf>,
    account: Option<OneOf>,
    region: Option<OneOf>,
    asset: Option<AssetNames>,
    principal: Option<OneOf>,
    method: Option<OneOf>,
    novelty: Option<Novelty>,
    condition: Option<Arc<Expression>>,
    /// A further filter that must match too: the scope of a credential.
    within: Option<Arc<Filter>>,
    /// Events of this time and later.
    pub since: Option<Time>,
    /// Events before this time.
    pub until: Option<Time>,
}

impl Filter {
    /// The parameters that [`parse`](Filter::parse) looks up.
    pub const PARAMETERS: [&'static str; 10] =
        ["type", "asset_type", "provider", "account", "region", "asset", "principal", "method", "novelty", "where"];

    /// Compiles the parameters that `parameter` returns: `where` is an [`Expression`], each other one a comma-separated
    /// list (`\,` is a comma within an element). `type_prefix` is the prefix of event types: `io.catchment`.
    ///
    /// # Errors
    /// Naming the parameter, when a list has an empty element or one that no event can match, or the expression can't
    /// be compiled.
    pub fn parse(
        type_prefix: &str,
        mut parameter: impl FnMut(&'static str) -> Option<String>,
    ) -> Result<Self, FilterError> {
        let actions = parameter("type").map(|list| parse_actions("type", &list, type_prefix)).transpose()?;
        let asset_type = parameter("asset_type").map(|list| AssetTypes::parse("asset_type", &list)).transpose()?;
        let asset = parameter("asset").map(|list| AssetNames::parse("asset", &list)).transpose()?;
        let novelty = parameter("novelty").map(|list| parse_novelty("novelty", &list)).transpose()?;
        let condition = parameter("where")
            .map(|text| Expression::compile(&text))
            .transpose()
            .map_err(|error| FilterError { parameter: "where", reason: error.to_string() })?
            .map(Arc::new);
        let mut one_of = |name| parameter(name).map(|list| OneOf::parse(name, &list)).transpose();
        Ok(Self {
            actions,
            asset_type,
            provider: one_of("provider")?,
            account: one_of("account")?,
            region: one_of("region")?,
            asset,
            principal: one_of("principal")?,
            method: one_of("method")?,
            novelty,
            condition,
            within: None,
            since: None,
            until: None,
        })
    }

    /// Restricts the filter to events that match another one too.
    #[must_use]
    pub fn within(self, other: Option<&Arc<Self>>) -> Self {
        Self { within: other.cloned(), ..self }
    }

    /// Whether the event matches.
    #[must_use]
    pub fn matches(&self, event: &View<'_>) -> bool {
        self.within.as_ref().is_none_or(|within| within.matches(event))
            && self.matches_head(event.head())
            && self.condition.as_ref().is_none_or(|condition| condition.matches(event))
    }

    /// Whether it has an expression, which can read any member of an event.
    #[must_use]
    pub fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Whether it has conditions on assets only, and none on changes: who, how, when.
    #[must_use]
    pub fn is_about_assets(&self) -> bool {
        let Self { actions, principal, method, novelty, condition, within, since, until, .. } = self;
        let asks_more = actions.is_some() || principal.is_some() || method.is_some() || novelty.is_some();
        !asks_more
            && condition.is_none()
            && since.is_none()
            && until.is_none()
            && within.as_ref().is_none_or(|within| within.is_about_assets())
    }

    /// Whether an asset matches the conditions on assets, see [`is_about_assets`](Self::is_about_assets).
    #[must_use]
    pub fn matches_asset(&self, asset: &AssetView<'_>) -> bool {
        let one_of = |list: &Option<OneOf>, text: &str| list.as_ref().is_none_or(|list| list.contains(text));
        self.within.as_ref().is_none_or(|within| within.matches_asset(asset))
            && self.asset_type.as_ref().is_none_or(|types| types.contains(asset.asset_type))
            && one_of(&self.provider, asset.provider)
            && one_of(&self.account, asset.account)
            && one_of(&self.region, asset.region)
            && self.asset.as_ref().is_none_or(|assets| assets.contains(asset.name))
    }

    /// The keys to index the filter by: every matching event has at least one of them. They are those of the most
    /// selective condition; none if no condition can be indexed.
    pub(super) fn keys(&self) -> Vec<Key<'_>> {
        let keys = self.own_keys();
        match &self.within {
            Some(within) if keys.is_empty() => within.keys(),
            _ => keys,
        }
    }

    fn own_keys(&self) -> Vec<Key<'_>> {
        let required = self.condition.as_ref().map(|condition| condition.requirements()).unwrap_or_default();
        let given = [
            (Field::Principal, &self.principal),
            (Field::Account, &self.account),
            (Field::Region, &self.region),
            (Field::Method, &self.method),
            (Field::Provider, &self.provider),
        ];
        let given = given.into_iter().filter_map(|(field, list)| Some((field, list.as_ref()?.texts())));
        let required = required.into_iter().map(|Requirement { field, texts }| (field, texts));
        let exact = given.chain(required).filter(|(_, texts)| !texts.is_empty());
        let mut keys: Vec<Vec<Key<'_>>> = exact.map(|(field, texts)| Key::all(KeyField::Is(field), texts)).collect();
        if let Some(assets) = &self.asset {
            keys.push(assets.keys());
        }
        if let Some(types) = &self.asset_type {
            keys.push(types.keys());
        }
        if let Some(actions) = &self.actions {
            keys.push(Key::all(KeyField::Is(Field::Action), actions.iter().map(|action| action.as_str())));
        }
        // Of several keys the broadest counts.
        let rank = |keys: &Vec<Key<'_>>| keys.iter().map(|key| key.field.rank()).max();
        keys.into_iter().min_by_key(rank).unwrap_or_default()
    }

    fn matches_head(&self, head: &EventHead) -> bool {
        let one_of = |list: &Option<OneOf>, text: &str| list.as_ref().is_none_or(|list| list.contains(text));
        self.since.is_none_or(|since| head.time >= since)
            && self.until.is_none_or(|until| head.time < until)
            && self.actions.as_ref().is_none_or(|actions| actions.contains(&head.action))
            && self.asset_type.as_ref().is_none_or(|types| types.contains(&head.asset_type))
            && self.novelty.is_none_or(|novelty| novelty.meets(head.novelty))
            && one_of(&self.provider, &head.provider)
            && one_of(&self.account, &head.account)
            && one_of(&self.region, &head.region)
            && one_of(&self.method, &head.method)
            && self.asset.as_ref().is_none_or(|assets| assets.contains(head.asset.as_str()))
            && self
                .principal
                .as_ref()
                .is_none_or(|principals| head.principals.iter().any(|principal| principals.contains(principal)))
    }
}

/// A key that an index files a filter under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'f> {
    pub(super) field: KeyField,
    pub(super) text: &'f str,
}

/// The field of an event that must have this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyField {
    Is(Field),
    /// A prefix of its asset's name that ends in `/`.
    AssetPrefix,
    /// A prefix of its asset type that ends in a dot.
    Family,
}

impl<'f> Key<'f> {
    fn all(field: KeyField, texts: impl IntoIterator<Item = &'f str>) -> Vec<Self> {
        texts.into_iter().map(|text| Self { field, text }).collect()
    }
}

impl KeyField {
    /// Lower for fields with more distinct values, which fewer events share.
    fn rank(self) -> u8 {
        match self {
            Self::Is(Field::Asset) => 0,
            Self::Is(Field::Principal) => 1,
            Self::Is(Field::Account) => 2,
            Self::AssetPrefix => 3,
            Self::Is(Field::AssetType) => 4,
            Self::Is(Field::Region) => 5,
            Self::Is(Field::Method) => 6,
            Self::Family => 7,
            Self::Is(Field::Action) => 8,
            Self::Is(Field::Provider) => 9,
        }
    }
}

impl OneOf {
    fn texts(&self) -> Vec<&str> {
        self.0.iter().map(AsRef::as_ref).collect()
    }

    /// Parses a comma-separated list.
    ///
    /// # Errors
    /// When an element is empty.
    pub fn parse(parameter: &'static str, list: &str) -> Result<Self, FilterError> {
        let mut items: Vec<_> = split(parameter, list)?.into_iter().map(String::into_boxed_str).collect();
        items.sort_unstable();
        items.dedup();
        Ok(Self(items))
    }
}

fn parse_actions(parameter: &'static str, list: &str, type_prefix: &str) -> Result<Vec<Action>, FilterError> {
    let parse = |item: String| {
        let word = item.strip_prefix(type_prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&item);
        match word.strip_prefix("asset.").unwrap_or(word) {
            // The short word alone, or after "asset."; with the prefix, "asset." must be there.
            short if word.len() != item.len() && short.len() == word.len() => None,
            "create" => Some(Action::Create),
            "update" => Some(Action::Update),
            "delete" => Some(Action::Delete),
            _ => None,
        }
        .ok_or_else(|| {
            let reason = format!("{item:?} is none of create, update, delete and {type_prefix}.asset.<one of these>");
            FilterError { parameter, reason }
        })
    };
    let mut actions = split(parameter, list)?.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    actions.sort_unstable_by_key(|action| action.as_str());
    actions.dedup();
    Ok(actions)
}

fn parse_novelty(parameter: &'static str, list: &str) -> Result<Novelty, FilterError> {
    let mut wanted = Novelty::default();
    for item in split(parameter, list)? {
        let facet = if item == "any" { Some(Novelty::ANY) } else { Novelty::named(&item) };
        wanted.insert(facet.ok_or_else(|| {
            let known: Vec<_> = Novelty::ANY.names().collect();
            FilterError { parameter, reason: format!("{item:?} is none of any, {}", known.join(", ")) }
        })?);
    }
    Ok(wanted)
}

/// Splits a comma-separated list. `\,` is a comma within an element, any other backslash is literal.
pub(super) fn split(parameter: &'static str, list: &str) -> Result<Vec<String>, FilterError> {
    let mut items = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ',' => items.push(String::new()),
            character => {
                let escaped = if character == '\\' { characters.next_if_eq(&',') } else { None };
                if let Some(item) = items.last_mut() {
                    item.push(escaped.unwrap_or(character));
                }
            }
        }
    }
    if items.iter().any(String::is_empty) {
        return Err(FilterError { parameter, reason: "an element of the list is empty".to_owned() });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::event;
    use proptest::prelude::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<Filter, FilterError> {
        Filter::parse("io.catchment", |name| {
            parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_parameter_decides() {
        let mut head = event(1).head;
        head.action = Action::Update;
        head.asset_type = "network.security_group".to_owned();
        head.account = "123837392027".to_owned();
        head.principals = vec!["AROA:s".to_owned(), "jane@example.com".to_owned(), "a,b".to_owned()];
        head.method = "terraform".to_owned();
        head.novelty = Novelty::IP;
        let name = head.asset.as_str().to_owned();
        for (parameter, value, expected) in [
            ("type", "update", true),
            ("type", "asset.update,create", true),
            ("type", "io.catchment.asset.update", true),
            ("type", "delete", false),
            ("asset_type", "network.*", true),
            ("asset_type", "network.security_group", true),
            ("asset_type", "network.security_group.*", false),
            ("asset_type", "net.*,identity.user", false),
            ("provider", "aws", true),
            ("provider", "azure", false),
            ("account", "1,123837392027", true),
            ("account", "12383739202", false),
            ("region", "us-east-1", true),
            ("region", "-", false),
            ("asset", name.as_str(), true),
            ("asset", "asset://aws/123837392027/", true),
            ("asset", "asset://aws/12383739202/", false),
            ("asset", "asset://aws/123837392027", false),
            ("principal", "jane@example.com", true),
            ("principal", "a\\,b", true),
            ("principal", "a,b", false),
            ("method", "console,terraform", true),
            ("method", "cli", false),
            ("novelty", "method,ip", true),
            ("novelty", "any", true),
            ("novelty", "ip_anywhere,hours", false),
        ] {
            let filter = parse(&[(parameter, value)]).unwrap();
            assert_eq!(filter.matches_head(&head), expected, "{parameter}={value}");
        }
        let both = parse(&[("type", "update"), ("provider", "azure")]).unwrap();
        assert!(!both.matches_head(&head), "all parts must be met");
    }

    #[test]
    fn time_is_half_open() {
        let head = event(5).head;
        let (at, next) = (head.time, Time::from_millis(head.time.millis() + 1));
        let filter = |since, until| Filter { since, until, ..Filter::default() };
        assert!(filter(Some(at), Some(next)).matches_head(&head));
        assert!(!filter(Some(next), None).matches_head(&head));
        assert!(!filter(None, Some(at)).matches_head(&head));
    }

    #[test]
    fn what_no_event_can_meet_is_refused() {
        for (parameter, value) in [
            ("type", "created"),
            ("type", "com.example.asset.create"),
            ("type", "io.catchment.create"),
            ("type", ""),
            ("asset_type", "net*"),
            ("asset_type", "*"),
            ("asset_type", "*.group"),
            ("asset_type", ".*"),
            ("account", "1,,2"),
            ("asset", "sg-1"),
            ("method", ","),
            ("novelty", "IP"),
        ] {
            let error = parse(&[(parameter, value)]).unwrap_err();
            assert_eq!(error.parameter, parameter, "{parameter}={value}");
        }
    }

    proptest! {
        #[test]
        fn a_list_reads_back(items in prop::collection::vec("[a-z,:/@.-]{1,8}", 1..6)) {
            let list = items.iter().map(|item| item.replace(',', "\\,")).collect::<Vec<_>>().join(",");
            prop_assert_eq!(split("x", &list), Ok(items));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,40}") {
            for parameter in Filter::PARAMETERS {
                let _ = parse(&[(parameter, &text)]);
            }
        }
    }
}
