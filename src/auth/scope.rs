//! A credential's scope: a filter that is ANDed to every request, and members that are hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hub::{Filter, FilterError, Projection, ProjectionError};

/// A scope as written: filter parameters (`account`, `asset_type`, …) with values as in a request for events; and
/// `hide`, the members to remove, in the form of `omit`. An empty one permits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScopeText(pub BTreeMap<String, String>);

/// The key for hidden members.
const HIDE: &str = "hide";

/// An invalid scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A key is not a filter parameter.
    #[error("a scope has no {name:?}; it has {HIDE} and {}", Filter::PARAMETERS.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// The value of a filter parameter is invalid.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A hidden member is unknown or required.
    #[error("{HIDE}: {}", .0.reason)]
    Hide(#[from] ProjectionError),
}

/// A compiled scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    filter: Option<Arc<Filter>>,
    hidden: Option<Arc<Projection>>,
}

impl ScopeText {
    /// Compiles the scope. `type_prefix` is the prefix of event types.
    ///
    /// # Errors
    /// When a name is unknown or a value can't be met by any event.
    pub fn compile(&self, type_prefix: &str) -> Result<Scope, ScopeError> {
        let known: BTreeSet<&str> = Filter::PARAMETERS.into_iter().chain([HIDE]).collect();
        if let Some(name) = self.0.keys().find(|name| !known.contains(name.as_str())) {
            return Err(ScopeError::Unknown { name: name.clone() });
        }
        let filter = Filter::parse(type_prefix, |name| self.0.get(name).cloned())?;
        let hidden = Projection::parse(self.0.get(HIDE).map(String::as_str), None)?;
        Ok(Scope { filter: (filter != Filter::default()).then(|| Arc::new(filter)), hidden: hidden.map(Arc::new) })
    }
}

impl Scope {
    /// Whether everything is visible. Only then are resources that belong to no asset: sources, quarantine, metrics.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.filter.is_none() && self.hidden.is_none()
    }

    /// The filter for visible events; `None`: all.
    #[must_use]
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }

    /// The projection that removes hidden members; `None`: there are none.
    #[must_use]
    pub fn hidden(&self) -> Option<&Arc<Projection>> {
        self.hidden.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::View;
    use crate::hub::testing::event;

    fn scope(parts: &[(&str, &str)]) -> Result<Scope, ScopeError> {
        let text = parts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ScopeText(text).compile("io.catchment")
    }

    #[test]
    fn an_empty_scope_is_everything_and_any_other_is_not() {
        assert!(scope(&[]).unwrap().is_everything());
        assert!(!scope(&[("account", "111122223333")]).unwrap().is_everything());
        assert!(!scope(&[("hide", "raw")]).unwrap().is_everything());
    }

    #[test]
    fn it_passes_what_its_filter_passes() {
        let head = event(1).head;
        let inside = scope(&[("account", &head.account)]).unwrap();
        let event = View::new(&head, b"{}");
        assert!(inside.filter().unwrap().matches(&event));
        let outside = scope(&[("account", "999999999999")]).unwrap();
        assert!(!outside.filter().unwrap().matches(&event));
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let told = |parts: &[(&str, &str)]| scope(parts).unwrap_err().to_string();
        assert!(told(&[("acount", "1")]).contains("no \"acount\""));
        assert!(told(&[("account", "")]).starts_with("account: "));
        assert!(told(&[("hide", "rwa")]).starts_with("hide: "));
        assert!(told(&[("hide", "id")]).starts_with("hide: "));
    }
}
