//! The processes that asked to join, as far as this node was asked. Nothing is recorded: whoever still wants
//! to join asks again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::name::NodeId;
use quorate_protocol::record::DiskId;
use quorate_protocol::time::Uptime;

/// How many processes are remembered.
pub const WAITING_MAX: usize = 64;
/// A process is forgotten so long after it last asked, in milliseconds.
pub const FORGOTTEN_MS: u64 = 30_000;

/// A process that asked to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Where peers reach it.
    pub peer_addr: String,
    /// Where clients reach it, if that is known.
    pub client_addr: Option<String>,
    /// Its zone, as it is configured.
    pub zone: String,
    /// Its weight, as it is configured.
    pub weight: u16,
    /// When it asked first.
    pub since: Uptime,
}

/// All processes that asked lately: at most [`WAITING_MAX`].
#[derive(Debug, Default)]
pub struct WaitingList {
    /// With the time at which each last asked.
    all: Mutex<BTreeMap<(NodeId, DiskId), (Waiting, Uptime)>>,
}

impl WaitingList {
    /// A process asks. Returns whether it is remembered: not if there are too many.
    pub fn asked(&self, waiting: Waiting, now: Uptime) -> bool {
        let mut all = self.lock();
        all.retain(|_, (_, asked)| is_recent(*asked, now));
        let key = (waiting.node, waiting.disk);
        let since = match all.get(&key) {
            Some((known, _)) => known.since,
            None if all.len() >= WAITING_MAX => return false,
            None => now,
        };
        all.insert(key, (Waiting { since, ..waiting }, now));
        true
    }

    /// The processes that asked lately, ordered by name and disk.
    pub fn all(&self, now: Uptime) -> Vec<Waiting> {
        let all = self.lock();
        let recent = all.values().filter(|(_, asked)| is_recent(*asked, now));
        recent.map(|(waiting, _)| waiting.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, DiskId), (Waiting, Uptime)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_recent(asked: Uptime, now: Uptime) -> bool {
    now.since(asked) < FORGOTTEN_MS
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn waiting(name: &str, disk: u128) -> Waiting {
        Waiting {
            node: NodeId::parse(name).unwrap(),
            disk: DiskId(disk),
            peer_addr: format!("{name}:1"),
            client_addr: None,
            zone: name.to_owned(),
            weight: 1,
            since: Uptime(0),
        }
    }

    #[test]
    fn whoever_does_not_ask_again_is_forgotten() {
        let list = WaitingList::default();
        assert!(list.asked(waiting("n4", 4), Uptime(100)));
        assert!(list.asked(waiting("n5", 5), Uptime(200)));
        assert!(list.asked(Waiting { weight: 7, ..waiting("n4", 4) }, Uptime(20_000)));
        let all = list.all(Uptime(20_000));
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].since, all[0].weight),
            (Uptime(100), 7),
            "the last words, the first time"
        );
        let left = list.all(Uptime(200 + FORGOTTEN_MS));
        assert_eq!(left.iter().map(|it| it.disk).collect::<Vec<_>>(), [DiskId(4)]);
        assert!(list.all(Uptime(90_000)).is_empty());
    }

    #[test]
    fn it_is_bounded_and_makes_room_again() {
        let list = WaitingList::default();
        for disk in 0..WAITING_MAX as u128 {
            assert!(list.asked(waiting("n4", disk), Uptime(0)));
        }
        assert!(!list.asked(waiting("n4", 1000), Uptime(1)));
        assert!(list.asked(waiting("n4", 0), Uptime(1)), "it is known");
        assert_eq!(list.all(Uptime(1)).len(), WAITING_MAX);
        assert!(list.asked(waiting("n4", 1000), Uptime(FORGOTTEN_MS)), "the others are forgotten");
        assert_eq!(list.all(Uptime(FORGOTTEN_MS)).len(), 2);
    }
}
