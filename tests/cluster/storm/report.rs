//! The table of a storm: what struck, what clients and operator were told, and what was found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Plan;
use super::changes::Changes;
use super::final_check::Disks;
use super::restored::Restored;
use crate::record::Findings;

/// The result of a storm.
pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) struck: Vec<(&'static str, usize)>,
    pub(crate) operations: usize,
    pub(crate) acks: usize,
    pub(crate) failures: usize,
    pub(crate) elements: usize,
    pub(crate) removed: usize,
    pub(crate) ended: usize,
    /// How many counters and typed sets there were.
    pub(crate) typed: usize,
    /// Changes that a subscriber got, pages that it lost, and cursors of it that expired.
    pub(crate) followed: (usize, usize, usize),
    /// Entries that the index had in the end.
    pub(crate) indexed: usize,
    pub(crate) converged_in: Duration,
    pub(crate) disks: Disks,
    pub(crate) found: Findings,
    /// How the requests of clients failed.
    pub(crate) reasons: BTreeMap<String, usize>,
    pub(crate) layouts: Option<Layouts>,
    /// What was restored, if all was lost: everything else is about what is there since.
    pub(crate) restored: Option<Restored>,
    /// The peak memory of a node, in MiB, and the most files that one had open.
    pub(crate) usage_max: (u64, usize),
}

/// What became of the layout.
pub(crate) struct Layouts {
    pub(crate) changes: Changes,
    /// How requests of the operator ended.
    pub(crate) answers: BTreeMap<String, usize>,
    /// How long the last change took, once all was healed.
    pub(crate) ended_in: Duration,
    pub(crate) members: usize,
}

impl Report {
    /// Whether no promise was broken.
    pub(crate) fn is_clean(&self) -> bool {
        let Findings { lost, phantom, resurrected, details, twins: _ } = &self.found;
        lost + phantom + resurrected == 0 && details.is_empty() && self.disks.hints == 0
    }

    /// The first findings, one per line.
    pub(crate) fn details(&self) -> String {
        const TOLD: usize = 20;
        let details = &self.found.details;
        let more = details.len().saturating_sub(TOLD);
        let told: Vec<&str> = details.iter().take(TOLD).map(String::as_str).collect();
        format!("{}\n({more} more)", told.join("\n"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "-".repeat(56);
        writeln!(f, "{rule}\n{}\n{rule}", self.plan)?;
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<40}{value:>16}");
        for (kind, count) in &self.struck {
            line(&format!("fault: {kind}"), count)?;
        }
        if let Some(Layouts { changes, answers, ended_in, members }) = &self.layouts {
            for (op, count) in changes.counts() {
                line(&format!("record decided: {op}"), &count)?;
            }
            for (answer, count) in answers {
                line(&format!("operator, {answer}"), count)?;
            }
            line("members at the end", members)?;
            line("a change took, s, median / most", changes)?;
            line(
                "the last change, after all healed, s",
                &format!("{:.1}", ended_in.as_secs_f64()),
            )?;
        }
        if let Some(restored) = &self.restored {
            line("backups made", &restored.made)?;
            line("backups that came to nothing", &restored.failed)?;
            line("restored: backup", &restored.name)?;
            line("  its window, ms", &(restored.window.ended_at - restored.window.began_at))?;
            line("  elements acknowledged before it", &restored.elements)?;
            line("  keys deleted before it", &restored.deleted)?;
            line("dots minted after the restore", &restored.dots)?;
        }
        line("operations", &self.operations)?;
        line("  acknowledged", &self.acks)?;
        line("  failed", &self.failures)?;
        for (reason, count) in &self.reasons {
            line(&format!("  failed request, {reason}"), count)?;
        }
        line("elements acknowledged", &self.elements)?;
        line("elements removed, acknowledged", &self.removed)?;
        line("keys deleted for good, acknowledged", &self.ended)?;
        line("counters and typed sets", &self.typed)?;
        let (changes, lost, expired) = &self.followed;
        line("changes that a subscriber got", changes)?;
        line("  pages of them that it lost", lost)?;
        line("  cursors that had expired", expired)?;
        line("entries of the index", &self.indexed)?;
        line("elements lost", &self.found.lost)?;
        line("elements phantom", &self.found.phantom)?;
        line("siblings resurrected", &self.found.resurrected)?;
        line("twins of retried writes", &self.found.twins)?;
        line("replicas compared byte for byte", &self.disks.compared)?;
        line("keys whose replicas differ", &self.disks.differing)?;
        line("rows on nodes that do not own them", &self.disks.strays)?;
        line("Merkle roots compared", &self.disks.trees)?;
        line("Merkle roots that differ", &self.disks.trees_differing)?;
        line("hints left", &self.disks.hints)?;
        line("tombstones left", &self.disks.tombstones)?;
        line("memory of a node, MiB at most", &self.usage_max.0)?;
        line("files open in a node, at most", &self.usage_max.1)?;
        line("other findings", &self.found.details.len())?;
        line("time to converge, s", &format!("{:.1}", self.converged_in.as_secs_f64()))?;
        write!(f, "{rule}")
    }
}
