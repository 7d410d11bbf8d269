//! Eviction of the assets that changed longest ago.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;

use super::Inventory;
use crate::model::AssetName;

/// Keeps the sum of sizes below a limit: first in, first out, where a touch moves an asset back to the end.
#[derive(Debug)]
pub(super) struct Evictor {
    max_bytes: usize,
    bytes: usize,
    /// Size in bytes and number of the last touch, by asset.
    held: HashMap<AssetName, (usize, u64)>,
    /// Touches in order; only an asset's last one counts.
    touches: VecDeque<(AssetName, u64)>,
    next: u64,
}

impl Evictor {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, held: HashMap::new(), touches: VecDeque::new(), next: 0 }
    }

    /// Sets the size of an asset that did not change.
    pub(super) fn resize(&mut self, name: &AssetName, size: usize) {
        if let Some((old, _)) = self.held.get_mut(name) {
            self.bytes = self.bytes - *old + size;
            *old = size;
        }
    }

    /// Notes that an asset changed and now takes `size` bytes. Returns the assets to forget for it.
    pub(super) fn touch(&mut self, name: AssetName, size: usize) -> Vec<AssetName> {
        self.next += 1;
        self.touches.push_back((name.clone(), self.next));
        self.bytes += size;
        if let Some((old, _)) = self.held.insert(name, (size, self.next)) {
            self.bytes -= old;
        }
        let mut forgotten = Vec::new();
        // The asset just touched stays, however large it is.
        while self.bytes > self.max_bytes && self.held.len() > 1 {
            let Some((name, touch)) = self.touches.pop_front() else { break };
            if self.held.get(&name).is_some_and(|(_, last)| *last == touch) {
                if let Some((size, _)) = self.held.remove(&name) {
                    self.bytes -= size;
                }
                forgotten.push(name);
            }
        }
        if self.touches.len() > 2 * self.held.len() + 1024 {
            self.touches.retain(|(name, touch)| self.held.get(name).is_some_and(|(_, last)| last == touch));
        }
        forgotten
    }
}

impl Inventory {
    /// Forgets an asset, with its later names and its changes.
    pub(super) fn forget(&self, name: &AssetName) {
        let slot = self.assets.remove(name).map(|(_, slot)| slot);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).forget(name);
        // Only the asset itself tells its later names. Few have any, and a packed one has to be unpacked for them.
        if !self.aliases.is_empty()
            && let Some(held) = slot.and_then(|slot| slot.held(Some(name)))
        {
            self.drop_aliases(&held, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_longest_ago_goes_first() {
        let name = |text: &str| AssetName::from_text(text);
        let mut evictor = Evictor::new(30);
        assert!(evictor.touch(name("a"), 10).is_empty());
        assert!(evictor.touch(name("b"), 10).is_empty());
        assert!(evictor.touch(name("a"), 10).is_empty());
        assert!(evictor.touch(name("c"), 10).is_empty());
        assert_eq!(evictor.touch(name("d"), 10), [name("b")]);
        assert_eq!(evictor.touch(name("e"), 100), [name("a"), name("c"), name("d")]);
        for _ in 0..10_000 {
            evictor.touch(name("e"), 5);
        }
        assert!(evictor.touches.len() < 2_000, "touches of one asset do not pile up");
    }
}
