//! What was used lately, within bounds.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// A map that keeps what was used lately: at least half of `entries_max` entries, at most all.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
    entries_max: usize,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// An empty one; `entries_max` is 2 at least.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { new: HashMap::new(), old: HashMap::new(), entries_max }
    }

    /// An entry, which has been used thereby.
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(found) = self.new.get(key) {
            return Some(found.clone());
        }
        let (key, found) = self.old.remove_entry(key)?;
        self.insert(key, found.clone());
        Some(found)
    }

    /// Adds or replaces an entry. Those that were not used for longest make room for it.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.new.len() >= (self.entries_max / 2).max(1) && !self.new.contains_key(&key) {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }

    /// Forgets an entry.
    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.new.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_is_used_and_stays_within_its_bound() {
        let mut recent = Recent::new(100);
        recent.insert("used".to_owned(), 0);
        for other in 0..10_000 {
            recent.insert(other.to_string(), other);
            assert_eq!(recent.get("used"), Some(0), "after {other}");
            assert!(recent.new.len() + recent.old.len() <= 100);
        }
        assert_eq!(
            (recent.get("9999"), recent.get("9"), recent.get("none")),
            (Some(9999), None, None)
        );
        recent.remove("used");
        assert_eq!(recent.get("used"), None);
    }
}
