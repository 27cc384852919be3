//! Plans by hand and at random.

use proptest::prelude::*;

use super::*;
use crate::layout::Partition;
use crate::record::Op;
use crate::record::successor::check_successor;
use crate::record::tests::{first, member, members, node, reason};

fn add(name: &str, zone: &str) -> Change {
    let RecordMember { node, disk, zone, weight, peer_addr, client_addr, .. } = member(name, zone);
    Change::Add(NewNode { node, disk, zone, weight, peer_addr, client_addr })
}

fn remove(name: &str) -> Change {
    Change::Remove { node: node(name) }
}

fn replace(old: &str, new: &str) -> Change {
    let RecordMember { node: name, disk, peer_addr, client_addr, .. } = member(new, "");
    let new = Replacement { node: name, disk, zone: None, weight: None, peer_addr, client_addr };
    Change::Replace { old: node(old), new }
}

fn set(name: &str, weight: Option<u16>, zone: Option<&str>, peer_addr: Option<&str>) -> Change {
    let (zone, peer_addr) = (zone.map(str::to_owned), peer_addr.map(str::to_owned));
    Change::Set { node: node(name), weight, zone, peer_addr }
}

/// Everybody is up and waiting, n is 3.
fn facts() -> Facts {
    let all: Vec<RecordMember> = members(12);
    Facts {
        n_in_use: [1, 3].into(),
        waiting: all.iter().map(|member| (member.node, member.disk)).collect(),
        ..Facts::default()
    }
}

fn planned(base: &ClusterRecord, changes: &[Change]) -> Result<Plan, PlanError> {
    plan(base, changes, &BTreeSet::new(), &facts())
}

fn record(members: Vec<RecordMember>) -> ClusterRecord {
    ClusterRecord::first("c", 1, 256, members).unwrap()
}

fn warning_names(plan: &Plan) -> Vec<&'static str> {
    plan.warnings.iter().map(Warning::name).collect()
}

#[test]
fn a_fourth_node_gets_a_quarter() {
    let base = record(members(3));
    let mut facts = facts();
    facts.held.insert(node("n1"), Held { bytes: 256_000, rows: 256 });
    let plan = plan(&base, &[add("n4", "z4")], &BTreeSet::new(), &facts).unwrap();
    assert_eq!((plan.is_joint, plan.base, plan.warnings.len()), (true, base.hash(), 0));
    assert_eq!(plan.refusals, []);
    let n4 = plan.load[3];
    assert_eq!((n4.node, n4.before, n4.fair), (node("n4"), 0, 192));
    assert_eq!(plan.moves.least, n4.after);
    assert!((180..=202).contains(&n4.after), "{n4:?}");
    let replicas = plan.moves.replicas;
    assert!(replicas >= n4.after && replicas <= n4.after + 10, "{:?}", plan.moves);
    assert_eq!((plan.moves.bytes, plan.moves.rows), (Some(replicas * 1000), Some(replicas)));
    let begun = plan.to_record(&base, reason()).unwrap();
    assert_eq!((check_successor(&base, &begun), begun.cause().op), (Ok(()), Op::Begin));
    assert_eq!(result_of(&begun), plan.result);
}

#[test]
fn a_replacement_moves_what_the_other_had_and_nothing_else() {
    let base = record(members(5));
    let gone = [node("n3")].into();
    let plan = plan(&base, &[replace("n3", "n9")], &gone, &facts()).unwrap();
    assert_eq!(plan.moves.replicas, plan.moves.least);
    assert_eq!(plan.load[2].before, plan.load[5].after);
    let n9 = &plan.members[4];
    assert_eq!((n9.seat, n9.zone.as_str(), n9.weight), (node("n3"), "z3", 1));
    assert_eq!(plan.gone, [base.stable()[2].disk]);
    assert_eq!(warning_names(&plan), ["writes_of_gone_lost"]);
    let text = plan.warnings[0].to_string();
    assert!(text.starts_with("what only n3 acknowledged") && text.contains("partitions have no"));
    let begun = plan.to_record(&base, reason()).unwrap();
    assert_eq!((check_successor(&base, &begun), result_of(&begun)), (Ok(()), plan.result));

    // The name is free again, the seat is not.
    let after = begun.finish(reason()).unwrap();
    let back = RecordMember { disk: DiskId(77), ..member("n3", "z3") };
    let new = NewNode {
        node: back.node,
        disk: back.disk,
        zone: back.zone,
        weight: 1,
        peer_addr: back.peer_addr,
        client_addr: None,
    };
    let plan = planned(&after, &[Change::Add(new)]).unwrap();
    let seats: Vec<_> = plan.members.iter().map(|m| (m.node.to_string(), m.seat)).collect();
    assert_eq!((seats[2].0.as_str(), seats[2].1), ("n3", node("n9")));
}

#[test]
fn addresses_change_without_moving() {
    let base = record(members(3));
    let plan = planned(&base, &[set("n2", None, None, Some("other:1"))]).unwrap();
    assert_eq!((plan.is_joint, plan.moves.replicas), (false, 0));
    let record = plan.to_record(&base, reason()).unwrap();
    assert_eq!((check_successor(&base, &record), record.cause().op), (Ok(()), Op::Readdress));
    assert_eq!(result_of(&record), plan.result);
    let both = [set("n2", None, None, Some("other:1")), add("n4", "z4")];
    let plan = planned(&base, &both).unwrap();
    let record = plan.to_record(&base, reason()).unwrap();
    assert_eq!((check_successor(&base, &record), record.cause().op), (Ok(()), Op::Begin));
    assert_eq!(record.stable()[1].peer_addr, "other:1", "it counts at once");
    assert_eq!(result_of(&record), plan.result);
}

#[test]
fn what_gets_worse_is_warned_of() {
    let base = record(members(3));
    let plan = planned(&base, &[remove("n3")]).unwrap();
    assert_eq!(warning_names(&plan), ["too_few_nodes"]);
    let plan = planned(&base, &[set("n3", None, Some("z1"), None)]).unwrap();
    assert_eq!(warning_names(&plan), ["zone_shared"]);
    let Warning::ZoneShared { partitions, before, of } = &plan.warnings[0] else { panic!() };
    assert_eq!((*partitions, *before, *of), (256, 0, 256));
    let zones = ["a", "a", "b", "b", "c", "c"].iter().enumerate();
    let zoned = record(zones.map(|(i, zone)| member(&format!("n{}", i + 1), zone)).collect());
    let plan = planned(&zoned, &[remove("n6")]).unwrap();
    assert!(warning_names(&plan).contains(&"overloaded_node"), "{:?}", plan.warnings);
    assert!(plan.warnings.iter().any(|w| w.to_string().starts_with("n5 gets 256 replicas, 154")));
    // A node that removes itself and comes back under another name, with a seat of its own.
    let plan = planned(&record(members(9)), &[remove("n4"), add("n10", "z4")]).unwrap();
    assert!(plan.moves.replicas > plan.moves.least, "{:?}", plan.moves);
    let one = record(members(1));
    assert_eq!(
        warning_names(&planned(&one, &[add("n2", "z2")]).unwrap()),
        [""; 0],
        "it gets better"
    );
}

#[test]
fn what_must_not_be_is_refused() {
    let base = record(members(5));
    let mut facts = facts();
    facts.up.insert(node("n3"));
    facts.waiting.clear();
    let gone = [node("n3")].into();
    let plan = plan(&base, &[replace("n3", "n9")], &gone, &facts).unwrap();
    let names: Vec<_> = plan.refusals.iter().map(Refusal::name).collect();
    assert_eq!(names, ["node_up", "not_waiting"]);
    assert!(plan.refusals.iter().all(|refusal| refusal.to_string().contains("n")));
    let begun = planned(&base, &[add("n6", "z6")]).unwrap().to_record(&base, reason()).unwrap();
    let plan = planned(&begun, &[add("n7", "z7")]).unwrap();
    assert_eq!(plan.refusals, [Refusal::LayoutMoving { epoch: 2 }]);
    assert_eq!(plan.load.len(), 7, "it starts from what will come");
}

#[test]
fn changes_that_make_no_sense_are_named() {
    let base = first(3);
    let error = |changes: &[Change]| planned(&base, changes).unwrap_err();
    assert_eq!(error(&[]), PlanError::NothingChanges);
    assert_eq!(error(&[set("n1", Some(1), None, None)]), PlanError::NothingChanges);
    assert_eq!(error(&[remove("n9")]), PlanError::NotMember(node("n9")));
    assert_eq!(error(&[add("n2", "z")]), PlanError::AlreadyMember(node("n2")));
    assert_eq!(error(&[replace("n1", "n2")]), PlanError::AlreadyMember(node("n2")));
    assert_eq!(error(&[replace("n1", "n1")]), PlanError::NamedTwice(node("n1")));
    assert_eq!(error(&[remove("n1"), add("n1", "z")]), PlanError::NamedTwice(node("n1")));
    assert_eq!(error(&vec![remove("n1"); 511]), PlanError::TooMany(511));
    let all = [remove("n1"), remove("n2"), remove("n3")];
    assert_eq!(error(&all), PlanError::Layout(LayoutError::NodeCount(0)));
    let heavy = LayoutError::Weight(node("n1"));
    assert_eq!(error(&[set("n1", Some(101), None, None)]), PlanError::Layout(heavy));
    let nowhere = error(&[set("n1", None, None, Some("nowhere"))]);
    assert!(nowhere.to_string().contains("n1: an address"), "{nowhere}");
    let gone = |names: &[&str], changes: &[Change]| {
        let gone = names.iter().map(|name| node(name)).collect();
        plan(&base, changes, &gone, &facts()).unwrap_err()
    };
    assert_eq!(gone(&["n9"], &[add("n4", "z")]), PlanError::NotMember(node("n9")));
    assert_eq!(gone(&["n1"], &[add("n4", "z")]), PlanError::GoneStays(node("n1")));
    let two = gone(&["n1", "n2"], &[replace("n1", "n4"), replace("n2", "n5")]);
    assert!(two.to_string().contains("2 of 3 stable disks are gone"), "{two}");
    let left = planned(&base, &[remove("n3")]).unwrap().to_record(&base, reason()).unwrap();
    let left = left.finish(reason()).unwrap();
    let back = planned(&left, &[add("n3", "z3")]).unwrap_err();
    assert_eq!(back, PlanError::StillLeaving(node("n3")));
}

/// Changes of different nodes among n1 to n12; the first three are members.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0..4u8, 1..4u8), 1..9).prop_map(|kinds| {
        let change = |(i, (kind, weight)): (usize, (u8, u8))| {
            let (name, zone) = (format!("n{}", i + 1), format!("z{}", i % 3));
            match (kind, i) {
                (_, 3..) => add(&name, &zone),
                (0, _) => remove(&name),
                (1, _) => replace(&name, &format!("n{}", i + 10)),
                (2, _) => set(&name, Some(weight.into()), Some(&zone), None),
                _ => set(&name, None, None, Some("other:1")),
            }
        };
        kinds.into_iter().enumerate().map(change).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(300)
    })]

    /// Two nodes that plan the same get the same, to the byte, in whatever order the changes came. What they
    /// know of the nodes does not change the result.
    #[test]
    fn plans_are_the_same_everywhere(
        changes in changes(),
        seed in any::<prop::sample::Index>(),
        is_up in any::<bool>(),
    ) {
        let base = record(members(3));
        let one = planned(&base, &changes);
        let mut turned = changes.clone();
        turned.rotate_left(seed.index(changes.len()));
        turned.reverse();
        let decoded = ClusterRecord::decode(&base.encode()).unwrap();
        let other = planned(&decoded, &turned);
        prop_assert_eq!(one.is_ok(), other.is_ok());
        let (Ok(one), Ok(other)) = (one, other) else { return Ok(()) };
        prop_assert_eq!(postcard::to_stdvec(&one).unwrap(), postcard::to_stdvec(&other).unwrap());
        let mut facts = facts();
        facts.n_in_use = [u16::from(is_up) + 1].into();
        facts.waiting.clear();
        let elsewhere = plan(&base, &changes, &BTreeSet::new(), &facts).unwrap();
        prop_assert_eq!(elsewhere.result, one.result);
    }

    /// The numbers, counted again by hand; the record, made and checked.
    #[test]
    fn numbers_and_record_fit(changes in changes()) {
        let base = record(members(3));
        let Ok(plan) = planned(&base, &changes) else { return Ok(()) };
        let child = plan.to_record(&base, reason()).unwrap();
        prop_assert_eq!(check_successor(&base, &child), Ok(()));
        prop_assert_eq!(result_of(&child), plan.result);
        let old = base.stable_layout();
        let new = child.next_layout().unwrap_or_else(|| child.stable_layout());
        let mut moved = 0;
        for partition in (0..256).map(Partition) {
            let before = old.homes(partition, 3);
            moved += new.homes(partition, 3).iter().filter(|home| !before.contains(home)).count();
        }
        prop_assert_eq!(plan.moves.replicas, moved as u64);
        prop_assert!(plan.moves.least <= plan.moves.replicas);
        for load in &plan.load {
            prop_assert_eq!(load.before, old.load(load.node, 3) as u64);
            prop_assert_eq!(load.after, new.load(load.node, 3) as u64);
            prop_assert!(load.fair <= 256);
        }
        let places = 256 * new.members().len().min(3) as u64;
        let fair: u64 = plan.load.iter().map(|load| load.fair).sum();
        prop_assert!(fair.abs_diff(places) <= plan.load.len() as u64, "{} of {}", fair, places);
        let is_named = |name: &str| {
            plan.warnings.iter().any(|w| w.name() == name && !w.to_string().is_empty())
        };
        prop_assert_eq!(is_named("too_few_nodes"), new.members().len() < 3);
        prop_assert_eq!(is_named("moves_too_much"), plan.moves.replicas * 2 > plan.moves.least * 3);
    }
}

fn refusal_names(plan: &Plan) -> Vec<&'static str> {
    plan.refusals.iter().map(Refusal::name).collect()
}

#[test]
fn a_cluster_may_have_fewer_nodes_than_n() {
    let planned = |nodes: usize, changes: &[Change]| {
        let base = record(members(nodes));
        plan(&base, changes, &BTreeSet::new(), &facts()).unwrap()
    };
    let grown = planned(1, &[add("n2", "z2"), add("n3", "z3")]);
    assert_eq!((refusal_names(&grown), &grown.warnings[..]), (vec![], &[][..]));
    assert_eq!((grown.moves.replicas, grown.moves.least), (2 * 256, 2 * 256));
    let shrunk = planned(3, &[remove("n3")]);
    assert_eq!(refusal_names(&shrunk), [""; 0]);
    assert_eq!(shrunk.warnings, [Warning::TooFewNodes { nodes: 2, n: 3 }]);
    assert_eq!(shrunk.moves.replicas, 0);
}

#[test]
fn every_member_must_be_up_and_know_records_unless_it_is_gone() {
    let base = record(members(3));
    let facts = Facts { down: [node("n3")].into(), old_release: [node("n2")].into(), ..facts() };
    let names = |changes: &[Change], gone: &[&str]| {
        let gone = gone.iter().map(|name| node(name)).collect();
        refusal_names(&plan(&base, changes, &gone, &facts).unwrap())
    };
    assert_eq!(names(&[add("n4", "z4")], &[]), ["node_down", "old_release"]);
    assert_eq!(names(&[replace("n3", "n4")], &["n3"]), ["old_release"]);
    let readdressed = set("n3", None, None, Some("other:1"));
    assert_eq!(names(&[readdressed], &[]), [""; 0], "nothing moves, so nobody is waited for");
}

#[test]
fn warnings_are_told_under_their_names() {
    let warning = Warning::MovesTooMuch { replicas: 4, least: 1 };
    assert!(Warning::NAMES.contains(&warning.name()));
    for (name, count) in Warning::NAMES.iter().map(|name| (name, 1)) {
        let found = include_str!("warnings.rs").matches(&format!("=> \"{name}\"")).count();
        assert_eq!(found, count, "{name}");
    }
}
