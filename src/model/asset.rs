//! Asset names, and the actions on an asset.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::json::JsonText;

/// What happened to an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It was created.
    Create,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
}

impl Action {
    /// `create`, `update` or `delete`: the last word of an event's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// The `asset` object of an event and of `/v1/assets`; members in the order of the published schema.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AssetObject<'a> {
    /// The stable name.
    pub name: &'a AssetName,
    /// The neutral type, such as `network.security_group`.
    pub r#type: &'a str,
    /// `aws`, `azure`.
    pub provider: &'a str,
    /// The provider's type, such as `AWS::EC2::SecurityGroup`.
    pub provider_type: &'a str,
    /// The provider's id.
    pub id: &'a str,
    /// Distinguishes it from earlier and later assets of the same name; `None` if unknown.
    pub uid: Option<&'a str>,
    /// Its ARN, if it has one.
    pub arn: Option<&'a str>,
    /// Its display name, such as its `Name` tag.
    pub display_name: Option<&'a str>,
    /// The account, subscription or tenant.
    pub account: &'a str,
    /// The region, `-` for global assets.
    pub region: &'a str,
    /// An object: the value of each tag by its key.
    pub tags: &'a JsonText,
}

/// Percent-encodes everything except the `pchar`s of RFC 3986 section 3.3 that need no encoding. The semicolon is
/// encoded: in a name it separates the id from the number that distinguishes assets with a reused id.
const NOT_PCHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The stable name of an asset, a URI: `asset://<provider>/<account>/<region or ->/<service/kind/id>`.
///
/// Derived only from what every record about the asset contains, so that all of them lead to the same name. Contains no
/// type name, so that renaming a type changes no asset's name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetName(Arc<str>);

impl AssetName {
    /// Joins the parts. `tail` is already encoded ([`AssetName::encode`] for each of its variable parts).
    #[must_use]
    pub fn new(provider: &str, account: &str, region: &str, tail: &str) -> Self {
        let mut name = String::with_capacity(16 + provider.len() + account.len() + region.len() + tail.len());
        name.extend(["asset://", provider, "/"].into_iter().chain(Self::encode(account)));
        name.extend(["/"].into_iter().chain(Self::encode(region)).chain(["/", tail]));
        Self(name.into())
    }

    /// Takes a printed name as it is, unchecked: an invalid name is simply not found.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// Percent-encodes one part of a tail, `/` included.
    #[must_use]
    pub fn encode(part: &str) -> PercentEncode<'_> {
        // An empty path segment would make the name ambiguous.
        utf8_percent_encode(if part.is_empty() { "-" } else { part }, NOT_PCHAR)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AssetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_percent_encoded() {
        let tail = format!("logs/log-group/{}", AssetName::encode("/aws/lambda/é x"));
        let name = AssetName::new("aws", "123837392027", "", &tail);
        assert_eq!(name.as_str(), "asset://aws/123837392027/-/logs/log-group/%2Faws%2Flambda%2F%C3%A9%20x");
    }
}
