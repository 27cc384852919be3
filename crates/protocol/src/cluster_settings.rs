//! Settings that must be equal on every node of a cluster. Every Hello carries them.
//!
//! The default n, like the layout, decides where keys live: frames from a node with a different
//! value are refused ([`crate::wire::Header`]). The settings here change what a cluster promises
//! but not where its keys are: nodes that differ keep running, and report the difference until an
//! operator fixes it.

use serde::{Deserialize, Serialize};

use crate::bucket::Properties;

/// The settings that are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// `deletes.grace_ms`. While it differs nothing is reaped: each node's proof assumes its own
    /// value.
    pub grace_ms: u64,
    /// `[defaults]`.
    pub defaults: Properties,
    /// `limits.value_bytes_max`.
    pub value_bytes_max: u64,
    /// `limits.object_bytes_max`.
    pub object_bytes_max: u64,
    /// `limits.siblings_max`.
    pub siblings_max: u64,
}

impl ClusterSettings {
    /// The settings in which a peer differs, each with this node's value and the peer's.
    pub fn differences(&self, theirs: &Self) -> Vec<String> {
        let (mine, their) = (&self.defaults, &theirs.defaults);
        let pairs = [
            ("deletes.grace_ms", self.grace_ms.to_string(), theirs.grace_ms.to_string()),
            ("defaults.r", format!("{:?}", mine.r), format!("{:?}", their.r)),
            ("defaults.w", format!("{:?}", mine.w), format!("{:?}", their.w)),
            (
                "defaults.conflicts",
                format!("{:?}", mine.conflicts),
                format!("{:?}", their.conflicts),
            ),
            ("defaults.sloppy", mine.sloppy.to_string(), their.sloppy.to_string()),
            (
                "limits.value_bytes_max",
                self.value_bytes_max.to_string(),
                theirs.value_bytes_max.to_string(),
            ),
            (
                "limits.object_bytes_max",
                self.object_bytes_max.to_string(),
                theirs.object_bytes_max.to_string(),
            ),
            ("limits.siblings_max", self.siblings_max.to_string(), theirs.siblings_max.to_string()),
        ];
        let differ = pairs.into_iter().filter(|(_, mine, theirs)| mine != theirs);
        differ.map(|(name, mine, theirs)| format!("{name}: {mine} here, {theirs} there")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_names_the_setting_and_both_values() {
        let mine = ClusterSettings { grace_ms: 1000, ..ClusterSettings::default() };
        assert!(mine.differences(&mine).is_empty());
        let defaults = Properties { sloppy: false, ..Properties::default() };
        let theirs = ClusterSettings { grace_ms: 2000, defaults, ..mine };
        assert_eq!(
            mine.differences(&theirs),
            ["deletes.grace_ms: 1000 here, 2000 there", "defaults.sloppy: true here, false there"]
        );
    }
}
