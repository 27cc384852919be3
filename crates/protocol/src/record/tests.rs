//! Records that are made up, damaged and taken through random chains of steps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::successor::{Addresses, SuccessorError, check_successor};
use super::*;
use crate::layout::LayoutError;

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// A member of an own disk and seat.
pub(crate) fn member(name: &str, zone: &str) -> RecordMember {
    RecordMember {
        node: node(name),
        disk: DiskId::of_name("c", node(name)),
        seat: node(name),
        zone: zone.to_owned(),
        weight: 1,
        peer_addr: format!("{name}.example:7000"),
        client_addr: None,
    }
}

/// n1 to n`count` in zones of their own.
pub(crate) fn members(count: usize) -> Vec<RecordMember> {
    (1..=count).map(|i| member(&format!("n{i}"), &format!("z{i}"))).collect()
}

pub(crate) fn reason() -> Reason {
    Reason { by: node("n1"), at: WallTime(5), note: String::new() }
}

pub(crate) fn first(count: usize) -> ClusterRecord {
    ClusterRecord::first("c", 1, 64, members(count)).unwrap()
}

fn names(list: &[RecordMember]) -> String {
    list.iter().map(|member| member.node.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_change_is_begin_finish_release() {
    let one = first(3);
    assert_eq!((one.phase(), one.majority(), one.parent()), (Phase::Stable, 2, RecordHash::NONE));
    let mut next = members(4);
    next.remove(1);
    let begun = one.begin(next, &[], reason()).unwrap();
    assert_eq!((begun.phase(), names(begun.stable()).as_str()), (Phase::Moving, "n1 n2 n3"));
    let standing = |record: &ClusterRecord, name: &str| {
        record.standing(node(name), DiskId::of_name("c", node(name)))
    };
    assert_eq!(standing(&begun, "n1"), Standing::StableAndNext);
    assert_eq!(standing(&begun, "n2"), Standing::Stable);
    assert_eq!(standing(&begun, "n4"), Standing::Joining);
    assert_eq!(standing(&begun, "n5"), Standing::Stranger);
    let known = DiskId::of_name("c", node("n1"));
    assert_eq!(begun.standing(node("n1"), DiskId(7)), Standing::OtherDisk { known });
    assert_eq!(begun.acceptors(), one.acceptors(), "the old members decide how it ends");
    let finished = begun.finish(reason()).unwrap();
    assert_eq!((finished.phase(), finished.epoch()), (Phase::Releasing, 3));
    assert_eq!(standing(&finished, "n2"), Standing::Leaving);
    assert_eq!(names(finished.stable()), "n1 n3 n4");
    let released = finished.release(node("n2"), reason()).unwrap();
    assert_eq!((released.phase(), standing(&released, "n2")), (Phase::Stable, Standing::Stranger));
    for pair in [&one, &begun, &finished, &released].windows(2) {
        assert_eq!(check_successor(pair[0], pair[1]), Ok(()));
    }
    let skipped = check_successor(&one, &finished);
    assert_eq!(skipped, Err(SuccessorError::Epoch { parent: 1, child: 3 }));
}

#[test]
fn an_oath_outlives_an_abort_and_ends_with_the_disk() {
    let one = first(3);
    let n3 = one.stable()[2].disk;
    let mut next = members(4);
    next.remove(2);
    let begun = one.begin(next, &[n3], reason()).unwrap();
    assert_eq!(begun.standing(node("n3"), n3), Standing::Gone);
    assert!(!begun.may_vote(n3) && begun.acceptors().contains(&n3));
    assert_eq!(names(begun.finish(reason()).unwrap().leaving()), "", "the dead hand nothing over");
    let refreshed = begun.refresh(node("n3"), DiskId(9), reason());
    assert_eq!(refreshed, Err(SuccessorError::GoneNode(node("n3"))));
    let aborted = begun.abort(&BTreeSet::new(), reason()).unwrap();
    assert_eq!((aborted.gone(), names(aborted.leaving()).as_str()), (&[n3][..], "n4"));
    let lost = begun.abort(&[node("n4")].into(), reason()).unwrap();
    assert_eq!((check_successor(&begun, &lost), lost.phase()), (Ok(()), Phase::Stable));
    let mut heavier = members(3);
    heavier[0].weight = 2;
    assert_eq!(lost.begin(heavier, &[], reason()), Err(SuccessorError::Oath(n3)));
    let refreshed = lost.refresh(node("n3"), DiskId(9), reason()).unwrap();
    assert_eq!((check_successor(&lost, &refreshed), refreshed.gone()), (Ok(()), &[][..]));
    assert_eq!(refreshed.standing(node("n3"), DiskId(9)), Standing::Stable);
}

#[test]
fn steps_that_do_not_fit_are_named() {
    let one = first(3);
    let begun = one.begin(members(4), &[], reason()).unwrap();
    assert_eq!(one.finish(reason()), Err(SuccessorError::NotMoving));
    assert_eq!(one.abort(&BTreeSet::new(), reason()), Err(SuccessorError::NotMoving));
    assert_eq!(begun.begin(members(5), &[], reason()), Err(SuccessorError::Moving));
    let invalid = |error| Err(SuccessorError::Invalid(error));
    assert_eq!(one.begin(members(3), &[], reason()), invalid(RecordError::NothingMoves));
    let gone: Vec<DiskId> = one.stable()[1..].iter().map(|member| member.disk).collect();
    let next = vec![member("n1", "z1"), member("n4", "z4")];
    let too_many = RecordError::GoneMajority { gone: 2, stable: 3 };
    assert_eq!(one.begin(next, &gone, reason()), invalid(too_many));
    let mut wiped = members(4);
    wiped[0].disk = DiskId(9);
    assert_eq!(one.begin(wiped, &[], reason()), invalid(RecordError::Differs(node("n1"))));
    let n1 = one.stable()[0].disk;
    assert_eq!(one.refresh(node("n2"), n1, reason()), Err(SuccessorError::KnownDisk(n1)));
    assert_eq!(one.release(node("n2"), reason()), Err(SuccessorError::NotLeaving(node("n2"))));
    let same = [(node("n1"), Addresses { peer_addr: "n1.example:7000".into(), client_addr: None })];
    assert_eq!(one.readdress(&same.into(), reason()), Err(SuccessorError::NothingChanges));
    assert_eq!(one.stable_layout().version(), 1);
    let left = one.begin(members(2), &[], reason()).unwrap().finish(reason()).unwrap();
    let back = left.begin(members(3), &[], reason());
    assert_eq!(back, invalid(RecordError::LeavingMember(node("n3"))));
}

/// A record that says it is one step and is another, or more than one.
#[test]
fn a_record_that_is_not_its_step_is_refused() {
    let one = first(3);
    let begun = one.begin(members(4), &[], reason()).unwrap();
    let change = |record: &ClusterRecord, change: &dyn Fn(&mut Fields)| {
        let mut fields = Fields::clone(&record.fields);
        change(&mut fields);
        ClusterRecord::checked(fields).unwrap()
    };
    for op in [Op::Finish, Op::Abort, Op::Release, Op::Refresh, Op::Readdress] {
        let other = change(&begun, &|fields| fields.cause.op = op);
        assert!(check_successor(&one, &other).is_err(), "{op:?}");
    }
    let more = change(&begun, &|fields| fields.stable[0].weight = 2);
    assert_eq!(check_successor(&one, &more), Err(SuccessorError::NotTheStep(Op::Begin)));
    let partitions = change(&begun, &|fields| fields.partitions = 128);
    let error = SuccessorError::Partitions { parent: 64, child: 128 };
    assert_eq!(check_successor(&one, &partitions), Err(error));
    let cluster = change(&begun, &|fields| fields.cluster_id = "d".to_owned());
    assert_eq!(check_successor(&one, &cluster), Err(SuccessorError::Cluster));
    let parent = change(&begun, &|fields| fields.parent = RecordHash(3));
    assert!(matches!(check_successor(&one, &parent), Err(SuccessorError::Parent { .. })));
    let first = change(&begun, &|fields| fields.cause.op = Op::Form);
    assert_eq!(check_successor(&one, &first), Err(SuccessorError::First));
}

#[test]
fn the_first_record_is_the_same_everywhere() {
    let mut turned = members(3);
    turned.reverse();
    assert_eq!(ClusterRecord::first("c", 1, 64, turned).unwrap(), first(3));
    assert_eq!(DiskId::of_name("c", node("n1")).to_string(), "19b4db0f709a4f5c68e3b268b1de6f6c");
    assert_eq!(first(3).hash().to_string(), "a8f072fe7ef6b0d3d312727cd0105048");
    let error = ClusterRecord::first("c", 1, 64, Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "stable: a layout has 1 to 255 nodes, this one has 0");
}

#[test]
fn the_greatest_record_fits() {
    let long = |i: usize, start: &str| RecordMember {
        node: node(&format!("{start}{i:015}")),
        disk: DiskId(u128::MAX - (i * 2) as u128 - u128::from(start == "a")),
        seat: node(&format!("{start}{i:015}")),
        zone: "z".repeat(64),
        weight: 100,
        peer_addr: format!("{}:65535", "h".repeat(ADDRESS_BYTES_MAX - 6)),
        client_addr: Some(format!("{}:65535", "h".repeat(ADDRESS_BYTES_MAX - 6))),
    };
    let stable: Vec<_> = (0..255).map(|i| long(i, "a")).collect();
    let leaving: Vec<_> = (0..255).map(|i| long(i, "b")).collect();
    let mut record = ClusterRecord::first(&"c".repeat(64), u64::MAX, 1, stable.clone()).unwrap();
    let fields = Arc::make_mut(&mut record.fields);
    fields.next = Some(stable);
    fields.leaving = leaving;
    fields.gone = vec![DiskId(u128::MAX); 127];
    fields.cause.reason.note = "n".repeat(NOTE_BYTES_MAX);
    assert!(record.encode().len() <= RECORD_BYTES_MAX, "{} bytes", record.encode().len());
}

#[test]
fn damaged_records_are_named() {
    let bytes = first(3).encode();
    assert_eq!(ClusterRecord::decode(&[]), Err(RecordError::Encoding));
    assert_eq!(ClusterRecord::decode(&[2]), Err(RecordError::Format(2)));
    assert_eq!(ClusterRecord::decode(&[&bytes[..], b"x"].concat()), Err(RecordError::Encoding));
    let max = RECORD_BYTES_MAX;
    let error = RecordError::TooLong { bytes: max + 1, max };
    assert_eq!(ClusterRecord::decode(&vec![1; max + 1]), Err(error));
    let wrong = |change: &dyn Fn(&mut Fields)| {
        let mut record = first(3);
        change(Arc::make_mut(&mut record.fields));
        ClusterRecord::decode(&record.encode()).unwrap_err()
    };
    assert_eq!(
        wrong(&|f| f.stable.swap(0, 1)),
        RecordError::Order { list: "stable", node: node("n1") }
    );
    assert_eq!(wrong(&|f| f.stable[0].peer_addr = "n1".into()), RecordError::Address(node("n1")));
    assert_eq!(
        wrong(&|f| f.stable[0].client_addr = Some("a b:1".into())),
        RecordError::Address(node("n1"))
    );
    assert_eq!(
        wrong(&|f| f.stable[1].disk = f.stable[0].disk),
        RecordError::SameDisk(node("n1"), node("n2"))
    );
    let layout = |error| RecordError::Layout { list: "stable", error };
    assert_eq!(
        wrong(&|f| f.stable[1].seat = node("n1")),
        layout(LayoutError::DuplicateSeat(node("n1")))
    );
    assert_eq!(wrong(&|f| f.stable[1].weight = 0), layout(LayoutError::Weight(node("n2"))));
    assert_eq!(wrong(&|f| f.partitions = 3), layout(LayoutError::Partitions(3)));
    assert_eq!(wrong(&|f| f.cluster_id = "a b".into()), RecordError::ClusterId);
    assert_eq!(wrong(&|f| f.gone = vec![DiskId(1)]), RecordError::GoneMember(DiskId(1)));
    assert_eq!(wrong(&|f| f.cause.reason.note = "\n".into()), RecordError::Note);
    assert_eq!(
        wrong(&|f| f.leaving = vec![f.stable[0].clone()]),
        RecordError::LeavingMember(node("n1"))
    );
}

/// One random step; numbers are taken modulo the number of choices.
fn step(
    record: &ClusterRecord,
    (kind, a, b): (u8, u8, u8),
) -> Result<ClusterRecord, SuccessorError> {
    let name = node(&format!("n{}", 1 + a % 8));
    let disk = DiskId(u128::from(a) << 8 | u128::from(b));
    match kind % 7 {
        6 => record.recover(&[name, node("n1")].into_iter().take(1 + usize::from(b) % 2).collect()),
        0 => {
            let mut next = record.stable().to_vec();
            let added = RecordMember { disk, ..member(name.as_str(), &format!("z{}", b % 3)) };
            match next.iter().position(|member| member.node == name) {
                Some(at) if next.len() > 1 => drop(next.remove(at)),
                Some(_) | None => next.push(added),
            }
            let is_left = |m: &&RecordMember| next.iter().all(|other| other.node != m.node);
            let left = record.stable().iter().filter(is_left).map(|member| member.disk);
            let gone: Vec<DiskId> = left.filter(|_| b % 2 == 0).collect();
            record.begin(next, &gone, reason())
        }
        1 => record.finish(reason()),
        2 => record.abort(&(b % 2 == 0).then_some(name).into_iter().collect(), reason()),
        3 => record.release(name, reason()),
        4 => record.refresh(name, disk, reason()),
        _ => {
            let peer_addr = format!("host:{}", 1 + u16::from(b));
            let addresses = Addresses { peer_addr, client_addr: Some("client:1".to_owned()) };
            record.readdress(&BTreeMap::from([(name, addresses)]), reason())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(2000)
    })]

    /// Whatever a step makes is valid, follows its parent and no other record, and survives its encoding.
    #[test]
    fn chains_of_steps_hold_together(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..60),
    ) {
        let mut chain = vec![first(3)];
        for choice in steps {
            let parent = &chain[chain.len() - 1];
            let Ok(child) = step(parent, choice) else { continue };
            prop_assert_eq!(check_successor(parent, &child), Ok(()));
            prop_assert_eq!(ClusterRecord::decode(&child.encode()), Ok(child.clone()));
            let taken = postcard::to_stdvec(&child).unwrap();
            prop_assert_eq!(postcard::from_bytes::<ClusterRecord>(&taken).unwrap(), child.clone());
            for other in &chain[..chain.len() - 1] {
                prop_assert!(check_successor(other, &child).is_err());
            }
            let alive = child.acceptors().into_iter().filter(|disk| child.may_vote(*disk));
            prop_assert!(alive.count() >= child.majority(), "nothing can be decided after {:?}", child);
            // A change can always be ended, both ways.
            if child.next().is_some() {
                prop_assert!(child.finish(reason()).is_ok());
                prop_assert!(child.abort(&BTreeSet::new(), reason()).is_ok());
            }
            chain.push(child);
        }
    }

    /// Damaged bytes are refused or give a valid record; nothing else.
    #[test]
    fn hostile_bytes_are_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = first(3).begin(members(5), &[], reason()).unwrap().encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(record) = ClusterRecord::decode(&bytes) {
            prop_assert_eq!(ClusterRecord::decode(&record.encode()), Ok(record));
        }
        prop_assert!(ClusterRecord::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(ClusterRecord::decode(&bytes).is_err());
        prop_assert!(ClusterRecord::decode(&[&[1][..], &bytes].concat()).is_err());
    }
}

#[test]
fn a_recovery_is_the_same_on_every_disk_that_is_left() {
    let lost = |names: &[&str]| names.iter().map(|name| node(name)).collect::<BTreeSet<_>>();
    let whole = first(5);
    let left = whole.recover(&lost(&["n2", "n3", "n5"])).unwrap();
    assert_eq!(left, whole.recover(&lost(&["n5", "n3", "n2"])).unwrap());
    assert_eq!((left.epoch(), names(left.stable())), (2, "n1 n4".to_owned()));
    let Cause { op, reason: why } = left.cause();
    assert_eq!((*op, why.by, why.note.as_str()), (Op::Recover, node("n1"), "without n2 n3 n5"));
    assert_eq!((check_successor(&whole, &left), left.majority()), (Ok(()), 2));
    assert_eq!(whole.voters_without(&lost(&["n2", "n3", "n5"])), 2);
    assert_eq!(whole.recover(&lost(&["n9"])), Err(SuccessorError::NotMember(node("n9"))));
    assert_eq!(whole.recover(&BTreeSet::new()), Err(SuccessorError::NothingChanges));
    assert!(matches!(
        whole.recover(&lost(&["n1", "n2", "n3", "n4", "n5"])),
        Err(SuccessorError::Invalid(_))
    ));
    // A change under way is given up, and an oath is kept.
    let next = whole.stable()[..4].iter().cloned().chain([member("n6", "z6")]).collect();
    let gone = whole.stable()[4].disk;
    let joint = whole.begin(next, &[gone], reason()).unwrap();
    let left = joint.recover(&lost(&["n2", "n3"])).unwrap();
    assert_eq!(
        (names(left.stable()), names(left.leaving())),
        ("n1 n4".to_owned(), "n6".to_owned())
    );
    assert_eq!((left.next(), left.gone(), left.phase()), (None, &[][..], Phase::Releasing));
    assert_eq!(check_successor(&joint, &left), Ok(()));
    // Only what is lost may be missing.
    let mut forged = left.fields.as_ref().clone();
    forged.leaving.clear();
    forged.stable[0].weight = 9;
    let forged = ClusterRecord { fields: forged.into() };
    assert!(check_successor(&joint, &forged).is_err());
    // Very many names are no longer than a note may be.
    let many = first(200);
    let all: BTreeSet<NodeId> = many.stable()[1..].iter().map(|member| member.node).collect();
    let alone = many.recover(&all).unwrap();
    assert_eq!(ClusterRecord::decode(&alone.encode()), Ok(alone));
}

/// Each node makes the first record from its own configuration, in which others may be reached elsewhere.
#[test]
fn first_records_of_other_addresses_are_one() {
    let at = |host: &str| {
        let member = |name: &str| {
            let node = NodeId::parse(name).unwrap();
            let (zone, peer_addr) = ("z".to_owned(), format!("{host}:{}", &name[1..]));
            let disk = DiskId::of_name("c", node);
            RecordMember { node, disk, seat: node, zone, weight: 1, peer_addr, client_addr: None }
        };
        ClusterRecord::first("c", 1, 8, ["n1", "n2", "n3"].map(member).to_vec()).unwrap()
    };
    let (here, there) = (at("127.0.0.1"), at("localhost"));
    assert_eq!(here.hash(), there.hash());
    let reason = Reason { by: NodeId::parse("n1").unwrap(), at: WallTime(1), note: String::new() };
    let two = here.stable()[..2].to_vec();
    let removes_n3 = here.begin(two, &[], reason.clone()).unwrap();
    assert_eq!(check_successor(&there, &removes_n3), Ok(()));
    let n2 = NodeId::parse("n2").unwrap();
    let refreshes = here.refresh(n2, DiskId(9), reason).unwrap();
    assert_eq!(check_successor(&there, &refreshes), Ok(()));
    assert_ne!(removes_n3.hash(), refreshes.hash());
}
