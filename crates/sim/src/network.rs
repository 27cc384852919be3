//! The network between nodes: delay, loss, duplication, reordering, and links that are cut.
//!
//! A cut applies in one or both directions and ends by itself after a while. Links are independent,
//! and messages on a link overtake each other, as they do over several lanes.

use std::collections::BTreeMap;

use quorate_protocol::name::NodeId;
use quorate_protocol::time::Uptime;

use crate::dice::Dice;
use crate::setup::Faults;

/// What happens to a message.
pub(crate) enum Fate {
    /// It arrives after these delays in milliseconds, once or twice.
    Arrives(Vec<u64>),
    /// No node will ever know.
    Lost,
    /// The link is cut; the sender may notice.
    Cut,
}

/// All links.
#[derive(Default)]
pub(crate) struct Network {
    /// Cut links (from, to) and when each heals.
    cut: BTreeMap<(NodeId, NodeId), Uptime>,
    healed: bool,
}

impl Network {
    /// Decides what happens to a message. `twice` says whether it may be duplicated.
    pub(crate) fn fate(
        &self,
        dice: &mut Dice,
        faults: &Faults,
        link: (NodeId, NodeId),
        now: Uptime,
        twice: bool,
    ) -> Fate {
        if self.healed {
            return Fate::Arrives(vec![dice.between(1, 3)]);
        }
        if self.cut.get(&link).is_some_and(|until| now < *until) {
            return Fate::Cut;
        }
        if dice.percent(faults.loss) {
            return Fate::Lost;
        }
        let mut delay = || {
            if dice.percent(faults.stragglers) {
                dice.between(faults.delay_ms_max, faults.straggler_ms_max)
            } else {
                dice.between(1, faults.delay_ms_max)
            }
        };
        let (first, second) = (delay(), delay());
        let copies = if twice && dice.percent(faults.duplication) { 2 } else { 1 };
        Fate::Arrives([first, second][..copies].to_vec())
    }

    /// Cuts a link until `until`.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId, until: Uptime) {
        self.cut.insert((from, to), until);
    }

    /// Ends all faults for good.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.healed = true;
    }
}
