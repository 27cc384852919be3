//! What happens within a read or write at the nodes that drive it: how long its phases take, who
//! acknowledged, what was hedged and repaired.

use std::time::{Duration, Instant};

use quorate_protocol::get::Answer;
use quorate_protocol::object::Object;
use quorate_protocol::put::Acks;
use quorate_storage::{DurationCounts, Durations};

use crate::metrics::counter::Counter;
use crate::metrics::desc::{Desc, Section};
use crate::metrics::text::Writer;

const PHASES: Desc = Desc::histogram(
    "quorate_phase_duration_seconds",
    "Time of one part of a read or write, by phase",
)
.by(&["phase"])
.means(
    "`mint`: the coordinator waits for the row's lock, reads the row, gives the write its dot and stores \
     it. `local_write`: the part of that (and of storing what other coordinators send) within RocksDB, \
     where write stalls show. `sync`: from there until the coordinator's own copy is durable. \
     `quorum_write`: from there until W nodes have acknowledged. `quorum_read`: from a read's start until \
     R replicas have answered, or too few can. A slow disk shows in `sync`, a slow peer or network in the \
     two of quorums alone.",
);
const ACKS: Desc = Desc::counter(
    "quorate_write_acks_total",
    "Acknowledgements that acknowledged writes had when their client was answered",
)
.by(&["role"])
.means("Any of `fallback` means sloppy quorums: home replicas were down or slow.");
const FORWARDED: Desc = Desc::counter(
    "quorate_writes_forwarded_total",
    "Writes handed to another node to coordinate, each attempt",
)
.means("Clients that send to a home replica (see `GET /ring/partitions`) save this step.");
const CONFLICTS: Desc = Desc::counter(
    "quorate_write_conflicts_total",
    "Acknowledged writes after which the coordinator held more than one sibling",
)
.means("Clients write concurrently, or write without a context.");
const HEDGES: Desc =
    Desc::counter("quorate_read_hedges_total", "Reads for which a further replica was asked early")
        .means("At most one read in ten: near that, a replica is slow.");
const REPAIRS: Desc = Desc::counter(
    "quorate_read_repairs_total",
    "Objects sent to home replicas that a read found stale",
)
.means(
    "Some after a failure is normal. If it lasts, replicas miss writes: look at hints and peers.",
);
const SIBLINGS: Desc = Desc::histogram(
    "quorate_read_siblings",
    "Siblings, tombstones included, that a read found; keys never written are not counted",
)
.means("More than 1 is a conflict. A growing tail means that conflicts are not resolved.");

/// The metrics written here.
pub const SECTION: Section = Section {
    title: "Quorums",
    about: "Reads are counted at their entry node, writes at their coordinator.",
    metrics: &[PHASES, ACKS, FORWARDED, CONFLICTS, HEDGES, REPAIRS, SIBLINGS],
};

/// Bounds of the histogram of siblings.
const SIBLING_BOUNDS: [usize; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128];

/// What happens within reads and writes.
#[derive(Debug, Default)]
pub struct Operations {
    mint: Durations,
    sync: Durations,
    quorum_write: Durations,
    quorum_read: Durations,
    acks_home: Counter,
    acks_fallback: Counter,
    /// Writes handed to another node, each attempt.
    pub forwarded: Counter,
    conflicts: Counter,
    /// Reads that were hedged.
    pub hedges: Counter,
    /// Objects sent as read repair.
    pub read_repairs: Counter,
    siblings: [Counter; SIBLING_BOUNDS.len() + 1],
    siblings_sum: Counter,
}

impl Operations {
    /// A write that began then has been minted and stored; it counts as stored now.
    pub fn minted(&self, began: Instant) -> Instant {
        let now = Instant::now();
        self.mint.record(now.saturating_duration_since(began));
        now
    }

    /// The coordinator's copy of a write, stored then, is durable.
    pub fn synced(&self, stored: Instant) {
        self.sync.record(stored.elapsed());
    }

    /// A write, stored then, is acknowledged. `sloppy`: whether acknowledgements of fallbacks
    /// count.
    pub fn acknowledged(&self, stored: Instant, acks: &Acks, sloppy: bool, held: &Object) {
        self.quorum_write.record(stored.elapsed());
        let fallbacks = if sloppy { acks.hints } else { 0 };
        self.acks_home.add(u64::from(acks.counted.saturating_sub(fallbacks)));
        self.acks_fallback.add(u64::from(acks.hints));
        self.conflicts.add(u64::from(held.siblings.len() > 1));
    }

    /// A write, stored then, could not be acknowledged.
    pub fn not_acknowledged(&self, stored: Instant) {
        self.quorum_write.record(stored.elapsed());
    }

    /// A read that took so long was answered.
    pub fn read(&self, took: Duration, answer: Option<&Answer>) {
        self.quorum_read.record(took);
        if let Some(Answer::Read(object)) = answer
            && !object.siblings.is_empty()
        {
            let siblings = object.siblings.len();
            let bucket = SIBLING_BOUNDS.iter().position(|bound| siblings <= *bound);
            self.siblings[bucket.unwrap_or(SIBLING_BOUNDS.len())].add(1);
            self.siblings_sum.add(siblings as u64);
        }
    }

    /// `local_write`: how long the store's batches took, if that is known.
    pub fn write(&self, out: &mut Writer, local_write: Option<&DurationCounts>) {
        let mut phases = out.metric(&PHASES);
        phases.durations(&["mint"], &self.mint.counts());
        if let Some(counts) = local_write {
            phases.durations(&["local_write"], counts);
        }
        phases.durations(&["sync"], &self.sync.counts());
        phases.durations(&["quorum_write"], &self.quorum_write.counts());
        phases.durations(&["quorum_read"], &self.quorum_read.counts());
        let mut acks = out.metric(&ACKS);
        acks.value(&["home"], self.acks_home.get());
        acks.value(&["fallback"], self.acks_fallback.get());
        out.one(&FORWARDED, self.forwarded.get());
        out.one(&CONFLICTS, self.conflicts.get());
        out.one(&HEDGES, self.hedges.get());
        out.one(&REPAIRS, self.read_repairs.get());
        let buckets: Vec<u64> = self.siblings.iter().map(Counter::get).collect();
        let bounds = SIBLING_BOUNDS.iter().map(usize::to_string);
        out.metric(&SIBLINGS).histogram(&[], bounds, &buckets, self.siblings_sum.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    fn text(operations: &Operations) -> String {
        let mut out = Writer::new(Format::Text);
        operations.write(&mut out, None);
        out.finish()
    }

    #[test]
    fn fallbacks_count_towards_home_only_where_they_were_counted() {
        let operations = Operations::default();
        let acks = Acks { counted: 2, hints: 1, ..Acks::default() };
        let held = Object::default();
        operations.acknowledged(Instant::now(), &acks, true, &held);
        operations.acknowledged(Instant::now(), &acks, false, &held);
        let text = text(&operations);
        assert!(text.contains("acks_total{role=\"home\"} 3\n"), "{text}");
        assert!(text.contains("acks_total{role=\"fallback\"} 2\n"), "{text}");
    }

    #[test]
    fn a_read_of_nothing_adds_no_siblings() {
        let operations = Operations::default();
        let took = Duration::from_micros(70);
        operations.read(took, Some(&Answer::Read(Default::default())));
        operations.read(took, None);
        let text = text(&operations);
        assert!(text.contains("quorate_read_siblings_count 0\n"), "{text}");
        assert!(text.contains("_count{phase=\"quorum_read\"} 2\n"), "{text}");
    }
}
