//! What a node remembers of records across restarts, crashes and damage.

use proptest::prelude::*;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::successor::Addresses;
use quorate_protocol::record::{DiskId, Reason, RecordMember};
use quorate_protocol::time::WallTime;

use super::*;
use crate::testing::MemoryFiles;

fn name(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}

fn first() -> ClusterRecord {
    let member = |text: &str, disk| RecordMember {
        node: name(text),
        disk: DiskId(disk),
        seat: name(text),
        zone: text.to_owned(),
        weight: 1,
        peer_addr: format!("{text}:1"),
        client_addr: None,
    };
    ClusterRecord::first("c", 1, 64, vec![member("n1", 1), member("n2", 2)]).unwrap()
}

/// A chain of so many records.
fn chain(count: usize) -> Vec<Arc<ClusterRecord>> {
    let mut chain = vec![Arc::new(first())];
    while chain.len() < count {
        let parent = &chain[chain.len() - 1];
        let peer_addr = format!("n1:{}", 1 + parent.epoch());
        let new = [(name("n1"), Addresses { peer_addr, client_addr: None })].into();
        let reason = Reason { by: name("n1"), at: WallTime(0), note: "x".repeat(200) };
        let child = parent.readdress(&new, reason).unwrap();
        chain.push(Arc::new(child));
    }
    chain
}

/// What a node remembers that learned the whole chain, and its files.
fn learned(chain: &[Arc<ClusterRecord>]) -> (Vec<Arc<ClusterRecord>>, MemoryFiles) {
    let files = MemoryFiles::default();
    let history = History::new(chain[0].clone());
    for record in &chain[1..] {
        history.add(&files, record.clone());
    }
    (history.all(&files), files)
}

#[test]
fn it_survives_a_restart_and_is_bounded() {
    for count in [1, 2, 5, HISTORY_MAX, HISTORY_MAX + 9] {
        let chain = chain(count);
        let (before, files) = learned(&chain);
        assert_eq!(before, chain[count.saturating_sub(HISTORY_MAX)..]);
        let after = History::new(chain[count - 1].clone());
        assert_eq!(after.all(&files), before, "{count}");
    }
}

#[test]
fn a_crash_before_it_is_stored_loses_nothing() {
    let chain = chain(5);
    let (_, files) = learned(&chain[..4]);
    let after = History::new(chain[4].clone());
    assert_eq!(after.all(&files), chain);
    // What was skipped is missing, and nothing else.
    let (_, files) = learned(&chain[..3]);
    let after = History::new(chain[4].clone());
    assert_eq!(after.all(&files), [&chain[..3], &chain[4..]].concat());
    after.add(&files, Arc::new(chain[4].refresh(name("n1"), DiskId(9), reason()).unwrap()));
    assert_eq!(after.all(&files).len(), 5);
}

fn reason() -> Reason {
    Reason { by: name("n1"), at: WallTime(0), note: String::new() }
}

#[test]
fn records_of_another_chain_are_left_out() {
    let chain = chain(4);
    let (_, files) = learned(&chain);
    let other = chain[1].refresh(name("n1"), DiskId(9), reason()).unwrap();
    let after = History::new(Arc::new(other.clone()));
    let epochs: Vec<u64> = after.all(&files).iter().map(|record| record.epoch()).collect();
    assert_eq!(epochs, [1, 2, 3]);
    let later = other.refresh(name("n2"), DiskId(10), reason()).unwrap();
    let after = History::new(Arc::new(later.clone()));
    assert_eq!(after.all(&files), [Arc::new(later)], "record 3 of the file is not its parent");
}

#[test]
fn a_file_never_gets_longer_than_it_may() {
    let chain = chain(40);
    let one = chain[39].encode().len();
    let many: Vec<_> = std::iter::repeat_n(chain[39].clone(), FILE_BYTES_MAX / one + 9).collect();
    let bytes = encoded(many.iter());
    assert!(bytes.len() < FILE_BYTES_MAX + FILE_BYTES_MAX / 64, "{}", bytes.len());
    assert!(decoded(&bytes).unwrap().len() >= HISTORY_MAX);
}

proptest! {
    #[test]
    fn a_damaged_file_costs_its_answers_only(at in any::<prop::sample::Index>(), bit in 0..8u8, cut: bool) {
        let chain = chain(4);
        let (_, files) = learned(&chain);
        let mut bytes = files.read(HISTORY_FILE).unwrap();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1u8 << bit,
        }
        files.replace(HISTORY_FILE, &bytes).unwrap();
        let after = History::new(chain[3].clone());
        prop_assert_eq!(after.all(&files), vec![chain[3].clone()]);
        let next = Arc::new(chain[3].refresh(name("n1"), DiskId(9), reason()).unwrap());
        after.add(&files, next.clone());
        prop_assert_eq!(History::new(next.clone()).all(&files), vec![chain[3].clone(), next]);
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let body = [&xxh3_64(&bytes).to_le_bytes()[..], &bytes].concat();
        let files = MemoryFiles::default();
        files.replace(HISTORY_FILE, &body).unwrap();
        let current = Arc::new(first());
        prop_assert_eq!(History::new(current.clone()).all(&files), vec![current]);
    }
}
