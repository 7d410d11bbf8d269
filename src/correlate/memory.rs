//! A bounded map that evicts the oldest entries.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::hash::Hash;

/// A bounded map.
#[derive(Debug)]
pub(super) struct Memory<V, K = String> {
    prefix: &'static str,
    limit: usize,
    values: HashMap<K, V>,
    /// Keys in order of first insertion.
    order: VecDeque<K>,
}

impl<V, K: Clone + Display + Eq + Hash> Memory<V, K> {
    /// `prefix` distinguishes its keys in the log.
    pub(super) fn new(prefix: &'static str, limit: usize) -> Self {
        Self { prefix, limit, values: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(key)
    }

    /// Inserts or replaces a value. Returns its key in the log, and that of the value evicted for it, if any.
    pub(super) fn insert(&mut self, key: K, value: V) -> (String, Option<String>) {
        let in_log = format!("{}{key}", self.prefix);
        if self.values.insert(key.clone(), value).is_some() {
            return (in_log, None);
        }
        self.order.push_back(key);
        let over = if self.order.len() > self.limit { self.order.pop_front() } else { None };
        let forgotten = over.map(|oldest| {
            self.values.remove(&oldest);
            format!("{}{oldest}", self.prefix)
        });
        (in_log, forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_first_and_a_later_word_takes_no_room() {
        let mut memory = Memory::<_>::new("x/", 2);
        assert_eq!(memory.insert("a".into(), 1), ("x/a".into(), None));
        assert_eq!(memory.insert("b".into(), 2), ("x/b".into(), None));
        assert_eq!(memory.insert("a".into(), 3), ("x/a".into(), None));
        assert_eq!(memory.insert("c".into(), 4), ("x/c".into(), Some("x/a".into())));
        assert_eq!((memory.get("a"), memory.get("b"), memory.get("c")), (None, Some(&2), Some(&4)));
    }
}
