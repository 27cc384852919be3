//! What the runs of a search are about.

use clap::ValueEnum;

/// What a run is about: some faults and little else, at a pace at which they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Focus {
    /// A disk is copied, and comes back as it was.
    Copies,
    /// Links between nodes are cut, and what is on its way arrives late; deletes are reaped meanwhile.
    Links,
    /// The bucket's n changes again and again.
    Counts,
    /// Nothing fails; requests meet.
    Requests,
    /// Nodes join, leave and are replaced all the time.
    Layouts,
    /// Typed values, under any faults.
    Types,
    /// Values that expire, under any faults.
    Expiry,
    /// Subscribers that follow what changes, under any faults.
    Feeds,
    /// Values are found by an index, under any faults.
    Indexes,
}

impl Focus {
    /// What a run may be about by chance. Typed values have clients of their own in any run.
    pub(crate) const BY_CHANCE: [Self; 5] =
        [Self::Copies, Self::Links, Self::Counts, Self::Requests, Self::Layouts];
}
