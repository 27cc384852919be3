//! What a node counts of other epochs than the one in force.

use quorate_protocol::placement::Epoch;

use crate::metrics::counter::Counter;

/// What was received, or had to be done again, because two nodes were in different epochs.
#[derive(Debug, Default)]
pub struct Layout {
    /// Frames of an older epoch than this node's.
    pub outdated_peer: Counter,
    /// Frames of a newer epoch than this node's, or of another record of the same one.
    pub outdated_self: Counter,
    /// Reads and writes that began again.
    pub restarts: Counter,
}

impl Layout {
    /// A frame of another epoch than the one in force was not executed.
    pub(crate) fn refused(&self, sent_in: Epoch, in_force: Epoch) {
        match sent_in.number < in_force.number {
            true => self.outdated_peer.add(1),
            false => self.outdated_self.add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::layout::LayoutHash;

    use super::*;

    #[test]
    fn the_older_side_is_the_outdated_one() {
        let epoch = |number| Epoch { number, hash: LayoutHash(number) };
        let layout = Layout::default();
        layout.refused(epoch(1), epoch(2));
        layout.refused(epoch(3), epoch(2));
        layout.refused(epoch(1), epoch(5));
        assert_eq!((layout.outdated_peer.get(), layout.outdated_self.get()), (2, 1));
    }
}
