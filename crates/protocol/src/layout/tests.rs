//! Placement: its bounds, what moves, and what must never change.

use super::*;

fn members(nodes: usize, zones: usize) -> Vec<Member> {
    let name = |i: usize| NodeId::parse(&format!("n{}", i + 1)).unwrap();
    let member = |i: usize| Member::new(name(i), format!("z{}", i % zones), 1);
    (0..nodes).map(member).collect()
}

fn layout(nodes: usize, zones: usize) -> Layout {
    Layout::new(1, 1024, members(nodes, zones)).unwrap()
}

#[test]
fn every_list_names_every_node_once() {
    for nodes in [1, 2, 3, 5, 9] {
        let layout = layout(nodes, 1);
        for partition in 0..1024 {
            let list = layout.preference_list(Partition(partition));
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), nodes);
        }
    }
}

#[test]
fn no_node_holds_more_than_five_percent_above_its_share() {
    for nodes in 2..12usize {
        let layout = layout(nodes, 1);
        for n in 1..=nodes as u16 {
            let fair = 1024.0 * f64::from(n) / nodes as f64;
            for member in layout.members() {
                let load = layout.load(member.node, n) as f64;
                assert!(load <= (fair * 1.05).ceil(), "{nodes} nodes, n={n}: {load} of {fair}");
            }
        }
    }
}

#[test]
fn replicas_go_to_distinct_zones_first() {
    let layout = layout(9, 3);
    for partition in 0..1024 {
        let zones: BTreeSet<_> = layout
            .homes(Partition(partition), 3)
            .iter()
            .map(|node| &layout.members().iter().find(|m| m.node == *node).unwrap().zone)
            .collect();
        assert_eq!(zones.len(), 3);
    }
}

#[test]
fn weights_are_followed() {
    let mut members = members(4, 1);
    members[0].weight = 2;
    let layout = Layout::new(1, 1024, members).unwrap();
    let heavy = layout.load(layout.members()[0].node, 1);
    assert!((380..=431).contains(&heavy), "{heavy} of 1024, fair is 410");
}

#[test]
fn a_joining_node_moves_little() {
    let (before, after) = (layout(5, 1), layout(6, 1));
    let moved = (0..1024)
        .filter(|p| before.homes(Partition(*p), 1) != after.homes(Partition(*p), 1))
        .count();
    assert!(moved < 1024 / 6 * 2, "{moved} of 1024 first homes moved");
}

#[test]
fn a_replacement_in_the_same_seat_moves_nothing_else() {
    let before = layout(6, 3);
    let (old, new) = (NodeId::parse("n2").unwrap(), NodeId::parse("x9").unwrap());
    let mut replaced = members(6, 3);
    replaced[1].node = new;
    let after = Layout::new(2, 1024, replaced.clone()).unwrap();
    for partition in (0..1024).map(Partition) {
        let list = before.preference_list(partition).iter();
        let expected: Vec<_> = list.map(|node| if *node == old { new } else { *node }).collect();
        assert_eq!(after.preference_list(partition), expected);
    }
    replaced[1].seat = new;
    let moved = Layout::new(2, 1024, replaced).unwrap();
    assert!(!after.has_same_placement(&moved), "a seat of its own is elsewhere on the ring");
    assert_ne!(after.hash(), moved.hash());
    assert_ne!(after.hash(), before.hash());
}

/// Data is stored where these lists say: they must never change.
#[test]
fn placement_is_the_same_in_every_release() {
    let layout = layout(5, 2);
    let list = |p| {
        let names: Vec<_> =
            layout.preference_list(Partition(p)).iter().map(NodeId::as_str).collect();
        names.join(" ")
    };
    assert_eq!(layout.hash().to_string(), "c0286ab0f5562e46");
    assert_eq!(
        [list(0), list(17), list(1023)],
        ["n1 n2 n3 n5 n4", "n2 n1 n4 n3 n5", "n1 n4 n5 n3 n2"]
    );
}

#[test]
fn impossible_layouts_are_named() {
    assert_eq!(Layout::new(1, 1024, vec![]).err(), Some(LayoutError::NodeCount(0)));
    assert_eq!(Layout::new(1, 1000, members(1, 1)).err(), Some(LayoutError::Partitions(1000)));
    let twice = vec![members(1, 1)[0].clone(), members(1, 1)[0].clone()];
    let n1 = NodeId::parse("n1").unwrap();
    assert_eq!(Layout::new(1, 64, twice).err(), Some(LayoutError::DuplicateNode(n1)));
    let mut seats = members(3, 1);
    seats[2].seat = n1;
    assert_eq!(Layout::new(1, 64, seats).err(), Some(LayoutError::DuplicateSeat(n1)));
}
