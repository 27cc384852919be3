//! The state that a node reports to its peers, in every protocol version.

use bytes::BytesMut;

use super::cluster::Formation;
use super::head::{Field, Unreadable};
use crate::cluster_settings::ClusterSettings;
use crate::generation::Start;
use crate::received::Holdings;
use crate::time::WallTime;

/// A node's state as it reports it to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The cluster's formation, if the node has recorded one.
    pub formation: Option<Formation>,
    /// Whether it has received all its partitions.
    pub ready: bool,
    /// What it holds of each partition.
    pub holdings: Holdings,
    /// Whether it takes writes.
    pub writable: bool,
    /// The hash of its bucket table.
    pub buckets_hash: u64,
    /// Its release.
    pub release: String,
    /// Its start.
    pub start: Start,
    /// The settings that must be equal on all nodes.
    pub common: ClusterSettings,
    /// Since when, by its wall clock, its record of its peers' starts has had no gap.
    pub remembers_since: WallTime,
    /// Its wall clock, uncorrected (see [`crate::skew`]).
    pub clock: WallTime,
    /// Whether it waits for an operator's decision about data that it does not trust by itself.
    pub waits: bool,
    /// In a reply: it remembered an earlier start of the sender, and the sender resumes from there.
    pub attests: bool,
    /// The longest frame it accepts, in bytes: an object that would not fit is not written, since
    /// it could not be replicated to this node.
    pub frame_bytes_max: u64,
    /// Where clients reach it, host and port; empty if it does not know.
    pub client_addr: String,
    /// How many bytes of hints it keeps for others. From protocol version 8 on; `None` if the sender's
    /// stream is of a lower one.
    pub hint_bytes: Option<u64>,
}

/// From this protocol version on it says how many bytes of hints there are.
const WITH_HINT_BYTES: u16 = 8;

impl Field for Box<Status> {
    fn put(&self, protocol: u16, out: &mut BytesMut) {
        // Without `..`, so that a new field cannot be forgotten here.
        let Status {
            formation,
            ready,
            holdings,
            writable,
            buckets_hash,
            release,
            start,
            common,
            remembers_since,
            clock,
            waits,
            attests,
            frame_bytes_max,
            client_addr,
            hint_bytes,
        } = &**self;
        formation.put(protocol, out);
        ready.put(protocol, out);
        holdings.put(protocol, out);
        writable.put(protocol, out);
        buckets_hash.put(protocol, out);
        release.put(protocol, out);
        start.put(protocol, out);
        common.put(protocol, out);
        remembers_since.put(protocol, out);
        clock.put(protocol, out);
        waits.put(protocol, out);
        attests.put(protocol, out);
        frame_bytes_max.put(protocol, out);
        client_addr.put(protocol, out);
        if protocol >= WITH_HINT_BYTES {
            hint_bytes.put(protocol, out);
        }
    }

    fn take(protocol: u16, input: &mut &[u8]) -> Result<Self, Unreadable> {
        Ok(Box::new(Status {
            formation: Field::take(protocol, input)?,
            ready: Field::take(protocol, input)?,
            holdings: Field::take(protocol, input)?,
            writable: Field::take(protocol, input)?,
            buckets_hash: Field::take(protocol, input)?,
            release: Field::take(protocol, input)?,
            start: Field::take(protocol, input)?,
            common: Field::take(protocol, input)?,
            remembers_since: Field::take(protocol, input)?,
            clock: Field::take(protocol, input)?,
            waits: Field::take(protocol, input)?,
            attests: Field::take(protocol, input)?,
            frame_bytes_max: Field::take(protocol, input)?,
            client_addr: Field::take(protocol, input)?,
            hint_bytes: match protocol >= WITH_HINT_BYTES {
                true => Field::take(protocol, input)?,
                false => None,
            },
        }))
    }
}
