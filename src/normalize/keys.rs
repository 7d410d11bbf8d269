//! A map by names of members. Nearly all names that are looked up are not in it, which is detected without hashing.

use crate::model::FastMap;

/// Values by member name.
#[derive(Clone, Debug)]
pub(super) struct Keys<V> {
    by_name: FastMap<Box<str>, V>,
    /// For each first letter (case ignored), a bit for each length of a name with it.
    lengths: [u64; 32],
}

impl<V> Default for Keys<V> {
    fn default() -> Self {
        Self { by_name: FastMap::default(), lengths: [0; 32] }
    }
}

impl<V> Keys<V> {
    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.may_have(name).then(|| self.by_name.get(name))?
    }

    /// False if the map surely does not contain the name, in whatever case.
    pub(super) fn may_have(&self, name: &str) -> bool {
        self.lengths.get(first_letter(name)).is_some_and(|known| known & length_bit(name) != 0)
    }
}

impl<N: Into<Box<str>>, V> FromIterator<(N, V)> for Keys<V> {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut keys = Self::default();
        for (name, value) in entries {
            let name = name.into();
            if let Some(known) = keys.lengths.get_mut(first_letter(&name)) {
                *known |= length_bit(&name);
            }
            keys.by_name.insert(name, value);
        }
        keys
    }
}

fn first_letter(name: &str) -> usize {
    usize::from(name.as_bytes().first().copied().unwrap_or_default() & 0x1f)
}

fn length_bit(name: &str) -> u64 {
    1 << name.len().min(63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_in_it_is_found(names in prop::collection::hash_set("[a-cA-C]{0,3}|\\PC{0,80}", 0..8), other in "[a-cA-C]{0,3}") {
            let keys: Keys<()> = names.iter().map(|name| (name.as_str(), ())).collect();
            for name in &names {
                prop_assert!(keys.get(name).is_some() && keys.may_have(&name.to_ascii_uppercase()));
            }
            prop_assert_eq!(keys.get(&other).is_some(), names.contains(&other));
        }
    }
}
