//! What is new about a change.

use std::fmt;

use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde::{Deserialize, Deserializer};

/// In which respects a change is the first of its kind, as far as remembered: a set of facets. In JSON an array of
/// their names.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Novelty(u8);

/// Limits of the memory for novelty, and its learning period: `[novelty]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoveltyLimits {
    /// How long, in days, something must be known before anything about it counts as new.
    pub learning_days: u32,
    /// Most facts to remember, of about 25 bytes each: five to ten per principal, plus one per address it comes from.
    /// With 0, novelty is off.
    pub facts: usize,
}

impl Default for NoveltyLimits {
    fn default() -> Self {
        Self { learning_days: 14, facts: 800_000 }
    }
}

impl Novelty {
    /// The first change by this principal in this account.
    pub const PRINCIPAL: Self = Self(1);
    /// This principal's first change from this address.
    pub const IP: Self = Self(1 << 1);
    /// Anyone's first change from this address.
    pub const IP_ANYWHERE: Self = Self(1 << 2);
    /// This principal's first change of this type of asset.
    pub const ASSET_TYPE: Self = Self(1 << 3);
    /// This principal's first change by this method.
    pub const METHOD: Self = Self(1 << 4);
    /// This account's first change in this region.
    pub const REGION: Self = Self(1 << 5);
    /// At an hour or on a weekday at which this principal rarely changes anything.
    pub const HOURS: Self = Self(1 << 6);
    /// All facets.
    pub const ANY: Self = Self((1 << 7) - 1);

    /// All facets with their names, in the order of their bits.
    pub const FACETS: [(&'static str, Self); 7] = [
        ("principal", Self::PRINCIPAL),
        ("ip", Self::IP),
        ("ip_anywhere", Self::IP_ANYWHERE),
        ("asset_type", Self::ASSET_TYPE),
        ("method", Self::METHOD),
        ("region", Self::REGION),
        ("hours", Self::HOURS),
    ];

    /// The facet with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::FACETS.iter().find(|(facet, _)| *facet == name).map(|(_, facet)| *facet)
    }

    /// The names of the facets in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::FACETS.iter().filter(move |(_, facet)| self.meets(*facet)).map(|(name, _)| *name)
    }

    /// Adds facets.
    pub fn insert(&mut self, facets: Self) {
        self.0 |= facets.0;
    }

    /// Whether the two sets have a facet in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The set as one bit per facet, for storage.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The reverse of [`bits`](Self::bits).
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Novelty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Serialize for Novelty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names = serializer.serialize_seq(None)?;
        self.names().try_for_each(|name| names.serialize_element(name))?;
        names.end()
    }
}

impl<'de> Deserialize<'de> for Novelty {
    /// Ignores unknown names, which a later version may have written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut novelty = Self::default();
        names.iter().filter_map(|name| Self::named(name)).for_each(|facet| novelty.insert(facet));
        Ok(novelty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn facets_stand_by_their_names() {
        let mut novelty = Novelty::METHOD;
        novelty.insert(Novelty::IP);
        assert_eq!(serde_json::to_string(&novelty).unwrap(), r#"["ip","method"]"#);
        assert_eq!(serde_json::from_str::<Novelty>(r#"["later","ip"]"#).unwrap(), Novelty::IP);
        assert!(novelty.meets(Novelty::IP) && !novelty.meets(Novelty::REGION) && Novelty::default().bits() == 0);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bits in 0..=Novelty::ANY.0) {
            let novelty = Novelty::from_bits(bits);
            let text = serde_json::to_string(&novelty).unwrap();
            prop_assert_eq!(serde_json::from_str::<Novelty>(&text).unwrap(), novelty);
            prop_assert_eq!(Novelty::from_bits(novelty.bits()), novelty);
        }
    }
}
