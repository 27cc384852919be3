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

/// The lists, chosen in the plainest way.
fn lists_by_definition(partitions: u32, members: &[Member]) -> Vec<NodeId> {
    let zone_of = |place: &u16| &members[usize::from(*place)].zone;
    let zone_count = members.iter().map(|m| &m.zone).collect::<BTreeSet<_>>().len();
    let walks = ring_walks(partitions, members);
    let mut lists: Vec<Vec<u16>> = vec![Vec::new(); partitions as usize];
    for position in 0..members.len() {
        let bounds = load_bounds(partitions, members, position + 1);
        for at in 0..lists.len() {
            let load = |place: &u16| lists.iter().flatten().filter(|it| *it == place).count();
            let used: BTreeSet<_> = lists[at].iter().map(zone_of).collect();
            let left: Vec<u16> = walks[at]
                .iter()
                .filter(|it| !lists[at].contains(it))
                .filter(|it| used.len() == zone_count || !used.contains(zone_of(it)))
                .copied()
                .collect();
            let room = left.iter().find(|it| load(it) < bounds[usize::from(**it)]);
            let least =
                || left.iter().min_by_key(|it| load(it).saturating_sub(bounds[usize::from(**it)]));
            let chosen = *room.or_else(least).unwrap();
            lists[at].push(chosen);
        }
    }
    lists.concat().into_iter().map(|place| members[usize::from(place)].node).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(60)
    })]

    #[test]
    fn lists_are_those_of_the_definition(
        kinds in proptest::collection::vec((0..4u8, 1..5u16), 1..9),
        partitions in 0..6u32,
    ) {
        let member = |(at, (zone, weight)): (usize, &(u8, u16))| {
            let node = NodeId::parse(&format!("n{at}")).unwrap();
            Member::new(node, format!("z{zone}"), *weight)
        };
        let members: Vec<Member> = kinds.iter().enumerate().map(member).collect();
        let partitions = 1 << partitions;
        proptest::prop_assert_eq!(place(partitions, &members), lists_by_definition(partitions, &members));
    }
}
