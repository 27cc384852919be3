//! What a metric is.

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from zero at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were in each of some ranges.
    Histogram,
    /// Always 1: what it says is in its labels.
    Info,
}

impl Kind {
    /// Its name in the formats of Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// One metric, with all its labels' values.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    /// Its full name. Counters end in `_total`, those of [`Kind::Info`] in `_info`; before that
    /// comes the unit, if it has one.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The names of its labels, which [`LABELS`] explains.
    pub labels: &'static [&'static str],
    /// What it counts, in one line without a full stop at the end.
    pub help: &'static str,
    /// What an operator makes of it; empty if the help says enough.
    pub meaning: &'static str,
}

impl Desc {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels: &[], help, meaning: "" }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Gauge, ..Self::counter(name, help) }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Histogram, ..Self::counter(name, help) }
    }

    /// A metric whose message is in its labels.
    pub const fn info(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Info, ..Self::counter(name, help) }
    }

    /// With labels of these names.
    pub const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// With what an operator makes of it, in whole sentences.
    pub const fn means(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }

    /// Its name without the suffix of its kind.
    pub fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }

    /// Its unit, by its name: `seconds`, `bytes`, or none.
    pub fn unit(&self) -> Option<&'static str> {
        let has = |unit: &&str| self.stem().strip_suffix(unit).is_some_and(|s| s.ends_with('_'));
        ["seconds", "bytes"].into_iter().find(has)
    }
}

/// Metrics that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// What to know about all of them, in whole sentences.
    pub about: &'static str,
    /// The metrics.
    pub metrics: &'static [Desc],
}

/// What the labels mean and which values they have.
pub const LABELS: [(&str, &str); 19] = [
    ("cache", "`row` (whole home rows) or `block` (RocksDB's blocks, blobs and memtables)"),
    ("direction", "`sent` or `received`; of disks `read` or `written`"),
    ("durability", "`fsync` or `buffered`: the setting of that name"),
    ("job", "a background job; `GET /jobs` says what each does"),
    (
        "kind",
        "of store calls `inline` or `offloaded`, of stalls `delay` or `stop`; of datagrams what became of \
         them",
    ),
    ("level", "level of RocksDB's tree, from `0`"),
    ("node", "this node's name"),
    (
        "operation",
        "`get`, `put` and `delete` of a key; `siblings` (inspecting and listing conflicts), `resolve`, \
         `keys`, `buckets`; `other` for everything else",
    ),
    ("peer", "another node's name"),
    (
        "phase",
        "part of a request: `mint`, `local_write`, `sync`, `quorum_write`, `quorum_read`; see the metric. Of \
         the layout `stable`, `moving` (two are in force) or `releasing` (nodes that left hand over)",
    ),
    ("reason", "why tombstones are not reaped, or why a request was refused; see the metric"),
    (
        "result",
        "of requests `ok`, `siblings` (300: a conflict was shown), `not_found`, `precondition_failed` \
         (409, 412), `client_error` (other 4xx), `key_full` (too many siblings, too large, clock full), \
         `no_quorum`, `overloaded`, `unavailable` (not formed, not ready, stopping, no room for hints), \
         `no_space` (507), `failed` (an internal error, or a replica that failed); of rounds `complete` \
         or `incomplete`; of traced operations `exported`, `dropped` or `failed`",
    ),
    ("role", "of an acknowledgement: `home` (a home replica) or `fallback` (it keeps a hint)"),
    (
        "side",
        "of a frame of another epoch: `peer` (its sender was behind) or `self` (this node was)",
    ),
    ("target", "the node that hints are for"),
    ("use", "of a certificate `client` or `peer`: the port that shows it"),
    ("version", "the release"),
    ("zone", "this node's failure domain"),
    ("le", "upper bound of a bucket"),
];
