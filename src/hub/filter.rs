//! What a subscriber wants to see, compiled once and then asked for every event.

use crate::model::{Action, EventHead, Time};

/// Texts of which one must be met.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OneOf(Vec<Box<str>>);

impl OneOf {
    /// Whether the text is one of them.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.0.binary_search_by(|one| one.as_ref().cmp(text)).is_ok()
    }
}

/// Asset types: whole ones, and families such as `network.*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AssetTypes {
    whole: OneOf,
    /// `network.` for `network.*`.
    families: Vec<Box<str>>,
}

impl AssetTypes {
    /// Compiles a comma list.
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
        Ok(Self { whole: OneOf(whole), families })
    }

    /// Whether the type is one of them.
    #[must_use]
    pub fn contains(&self, asset_type: &str) -> bool {
        self.whole.contains(asset_type) || self.families.iter().any(|family| asset_type.starts_with(family.as_ref()))
    }
}

/// Assets: whole names, and prefixes that end in `/`.
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
        let (prefixes, mut whole): (Vec<_>, Vec<_>) =
            items.into_iter().map(String::into_boxed_str).partition(|item| item.ends_with('/'));
        whole.sort_unstable();
        Ok(Self { whole: OneOf(whole), prefixes })
    }

    fn contains(&self, name: &str) -> bool {
        self.whole.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_ref()))
    }
}

/// A filter parameter that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {reason}")]
pub struct FilterError {
    /// The parameter's name.
    pub parameter: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// All of its parts must be met; a part that is not given is met by everything. [`Filter::default`] passes all.
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
    /// Events of this time and later.
    pub since: Option<Time>,
    /// Events before this time.
    pub until: Option<Time>,
}

impl Filter {
    /// The parameters that [`parse`](Filter::parse) asks for.
    pub const PARAMETERS: [&'static str; 8] =
        ["type", "asset_type", "provider", "account", "region", "asset", "principal", "method"];

    /// Compiles the parameters that `parameter` knows, each a comma list (`\,` is a comma within an element).
    /// `type_prefix` is what event types begin with: `io.catchment`.
    ///
    /// # Errors
    /// Naming the parameter, when a list has an empty element or one that can't be met by any event.
    pub fn parse(
        type_prefix: &str,
        mut parameter: impl FnMut(&'static str) -> Option<String>,
    ) -> Result<Self, FilterError> {
        let actions = parameter("type").map(|list| parse_actions("type", &list, type_prefix)).transpose()?;
        let asset_type = parameter("asset_type").map(|list| AssetTypes::parse("asset_type", &list)).transpose()?;
        let asset = parameter("asset").map(|list| AssetNames::parse("asset", &list)).transpose()?;
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
            since: None,
            until: None,
        })
    }

    /// Whether the event passes.
    #[must_use]
    pub fn matches(&self, head: &EventHead) -> bool {
        let one_of = |list: &Option<OneOf>, text: &str| list.as_ref().is_none_or(|list| list.contains(text));
        self.since.is_none_or(|since| head.time >= since)
            && self.until.is_none_or(|until| head.time < until)
            && self.actions.as_ref().is_none_or(|actions| actions.contains(&head.action))
            && self.asset_type.as_ref().is_none_or(|types| types.contains(&head.asset_type))
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

impl OneOf {
    /// Compiles a comma list.
    ///
    /// # Errors
    /// When an element is empty.
    pub fn parse(parameter: &'static str, list: &str) -> Result<Self, FilterError> {
        let mut items: Vec<_> = split(parameter, list)?.into_iter().map(String::into_boxed_str).collect();
        items.sort_unstable();
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
    split(parameter, list)?.into_iter().map(parse).collect()
}

/// The elements of a comma list. `\,` is a comma within one, any other backslash is itself.
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
        ] {
            let filter = parse(&[(parameter, value)]).unwrap();
            assert_eq!(filter.matches(&head), expected, "{parameter}={value}");
        }
        let both = parse(&[("type", "update"), ("provider", "azure")]).unwrap();
        assert!(!both.matches(&head), "all parts must be met");
    }

    #[test]
    fn time_is_half_open() {
        let head = event(5).head;
        let (at, next) = (head.time, Time::from_millis(head.time.millis() + 1));
        let filter = |since, until| Filter { since, until, ..Filter::default() };
        assert!(filter(Some(at), Some(next)).matches(&head));
        assert!(!filter(Some(next), None).matches(&head));
        assert!(!filter(None, Some(at)).matches(&head));
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
