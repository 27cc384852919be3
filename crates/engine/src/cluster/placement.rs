//! The layout by which this node's rows were placed.
//!
//! A row is stored where the layout put it when it was written. Under another layout nodes would
//! consider themselves home replicas of keys they never received, and answer that those were never
//! written. Until rows move with a change of the layout, a node of a formed cluster starts only if
//! every key has the same preference list as before. The record of the layout is written when the
//! cluster is formed, or by the first start that finds none. Addresses are not part of it, and a
//! change that moves no key is allowed.

use quorate_protocol::layout::{Layout, Member};
use quorate_protocol::name::NodeId;
use quorate_storage::Store;
use serde::{Deserialize, Serialize};

use crate::node::errors::StartError;
use crate::node::record;

const LAYOUT_RECORD: &str = "layout";

/// What determines where keys are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    version: u64,
    partitions: u32,
    members: Vec<PlacedMember>,
}

/// A node as it is recorded. Every release reads these three fields: a layout that is configured has every
/// node in the seat of its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlacedMember {
    node: NodeId,
    zone: String,
    weight: u16,
}

/// Checks that the layout places keys as the recorded one does; records it if there is no record. A
/// store that is refused is closed.
///
/// # Errors
/// [`StartError::OtherLayout`] if it does not.
pub fn check(store: &Store, layout: &Layout) -> Result<(), StartError> {
    let placed: Placed = match record::load(store, LAYOUT_RECORD)? {
        Some(placed) => placed,
        None => return Ok(remember(store, layout)?),
    };
    if placed == of(layout) {
        return Ok(());
    }
    let member =
        |placed: &PlacedMember| Member::new(placed.node, placed.zone.clone(), placed.weight);
    let members = placed.members.iter().map(member).collect();
    let recorded = Layout::new(placed.version, placed.partitions, members);
    let recorded = recorded.map_err(|_| StartError::Record(LAYOUT_RECORD))?;
    if !layout.has_same_placement(&recorded) {
        let (recorded, configured) = (format!("{recorded:?}"), format!("{layout:?}"));
        drop(store.close()); // nothing was changed in it: the next start finds it as this one did
        let differences = differences(&placed.members, &of(layout).members);
        return Err(StartError::OtherLayout { recorded, configured, differences });
    }
    tracing::info!(
        recorded = ?recorded,
        configured = ?layout,
        "the layout was changed in a way that moves no key"
    );
    Ok(remember(store, layout)?)
}

/// Records the layout by which rows are placed from now on, durably.
///
/// # Errors
/// The store's.
pub fn remember(store: &Store, layout: &Layout) -> Result<(), quorate_storage::Error> {
    record::put(store, LAYOUT_RECORD, &of(layout))
}

fn of(layout: &Layout) -> Placed {
    let placed = |member: &Member| PlacedMember {
        node: member.node,
        zone: member.zone.clone(),
        weight: member.weight,
    };
    let members = layout.members().iter().map(placed).collect();
    Placed { version: layout.version(), partitions: layout.partitions(), members }
}

/// The differences between two layouts, in words.
fn differences(recorded: &[PlacedMember], configured: &[PlacedMember]) -> String {
    let mut differences = Vec::new();
    let find = |members: &[PlacedMember], of: &PlacedMember| {
        members.iter().find(|member| member.node == of.node).cloned()
    };
    for was in recorded {
        match find(configured, was) {
            None => differences.push(format!("{} is missing", was.node)),
            Some(is) => {
                if is.zone != was.zone {
                    let (node, was, is) = (was.node, &was.zone, &is.zone);
                    differences.push(format!("{node} was in zone {was:?} and is in {is:?}"));
                }
                if is.weight != was.weight {
                    let (node, was, is) = (was.node, was.weight, is.weight);
                    differences.push(format!("{node} had weight {was} and has {is}"));
                }
            }
        }
    }
    let is_new = |is: &&PlacedMember| find(recorded, is).is_none();
    differences
        .extend(configured.iter().filter(is_new).map(|member| format!("{} is new", member.node)));
    differences.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use quorate_storage::Options;

    use super::*;

    fn layout(version: u64, members: &[(&str, &str, u16)]) -> Layout {
        let member = |&(node, zone, weight): &(&str, &str, u16)| {
            Member::new(NodeId::parse(node).unwrap(), zone.to_owned(), weight)
        };
        Layout::new(version, 64, members.iter().map(member).collect()).unwrap()
    }

    fn open(dir: &Path) -> Store {
        let node = NodeId::parse("n1").unwrap();
        Store::open(dir, Options { disk_free_bytes_min: 0, ..Options::new(node, "c", 64) }).unwrap()
    }

    #[test]
    fn a_layout_that_moves_keys_is_refused_by_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let three = [("n1", "a", 1), ("n2", "b", 1), ("n3", "c", 1)];
        let store = open(dir.path());
        check(&store, &layout(1, &three)).unwrap();
        check(&store, &layout(1, &three)).unwrap();
        drop(store);
        let four = [&three[..], &[("n4", "d", 1)]].concat();
        let heavy = [("n1", "a", 9), ("n2", "b", 1), ("n3", "c", 1)];
        let rezoned = [("n1", "a", 1), ("n2", "a", 1), ("n3", "c", 1)];
        for (other, what) in [
            (&four[..], "n4 is new"),
            (&three[..2], "n3 is missing"),
            (&heavy[..], "n1 had weight 1 and has 9"),
            (&rezoned[..], "n2 was in zone \"b\" and is in \"a\""),
        ] {
            for version in [1, 2] {
                let error = check(&open(dir.path()), &layout(version, other)).unwrap_err();
                assert!(matches!(error, StartError::OtherLayout { .. }), "{error}");
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        check(&open(dir.path()), &layout(1, &three)).expect("and the record is unchanged");
    }

    #[test]
    fn a_record_of_any_release_is_read() {
        // Version 1, 64 partitions, one member: n1 in zone a with weight 1.
        let bytes = b"\x01\x40\x01\x02n1\x01a\x01";
        let placed = of(&layout(1, &[("n1", "a", 1)]));
        assert_eq!(record::encoded(&placed), bytes);
        assert_eq!(postcard::from_bytes::<Placed>(bytes).unwrap(), placed);
    }

    #[test]
    fn what_moves_no_key_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        check(&store, &layout(1, &[("n1", "a", 1), ("n2", "b", 1)])).unwrap();
        let renamed = [("n1", "x", 1), ("n2", "y", 1)];
        check(&store, &layout(2, &renamed)).expect("two zones by other names");
        let bytes = store.meta(LAYOUT_RECORD).unwrap().unwrap();
        assert_eq!(postcard::from_bytes::<Placed>(&bytes).unwrap(), of(&layout(2, &renamed)));
    }
}
