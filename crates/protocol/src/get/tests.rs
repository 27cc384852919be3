//! The GET machine against a naive model, with events in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::{Actor, Dot};
use crate::data_type::Part;
use crate::object::{Metadata, Sibling, WriteId};
use crate::quorum_sets::QuorumSet;
use crate::quorum_sets::tests::one_or_several;
use crate::stamp::Stamp;

/// A node answers truthfully (any number of times), fails in some way, or time passes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Answers(u8),
    /// A digest of what it held before or will hold later: another of the objects.
    Digest(u8, usize),
    Fails(u8, u8),
    Silent(u8),
    Later(u64),
}

fn node(number: u8) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

/// The object with these of three writes as siblings; the fourth bit is a write that supersedes
/// all.
fn object(writes: u8) -> Object {
    let mut object = Object::default();
    for at in (0..4u8).filter(|at| writes & (1 << at) != 0) {
        let dot = Dot { actor: Actor(u64::from(at) + 1), counter: 1 };
        object.clock.advance(dot);
        if at == 3 {
            object.siblings.clear();
        }
        object.siblings.push(Sibling {
            dot,
            part: Part::Value,
            value: None,
            metadata: Metadata::default(),
            stamp: Stamp::default(),
            expires: None,
            writer: node(0),
            write_id: WriteId([at; 16]),
        });
    }
    object
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..8u8).prop_map(Event::Answers),
        1 => (0..8u8, 0..8usize).prop_map(|(node, held)| Event::Digest(node, held)),
        2 => (0..8u8, 0..3u8).prop_map(|(node, how)| Event::Fails(node, how)),
        1 => (0..8u8).prop_map(Event::Silent),
        2 => (0..150u64).prop_map(Event::Later),
    ];
    prop::collection::vec(event, 0..40)
}

/// Some sets, their plan and the nodes known to be down.
type Case = (Vec<QuorumSet>, Plan, BTreeSet<NodeId>);

prop_compose! {
    fn plan_of(sets: Vec<QuorumSet>, nodes: u8)(sloppy: bool, hedge in prop::option::of(1..120u64),
        deadline in 1..600u64, down in any::<u8>()) -> Case {
        let of_sets = QuorumSets::several(sets.clone()).unwrap();
        let is_fallback = |node: &NodeId| !of_sets.homes().contains(node);
        let plan = Plan {
            fallbacks: (0..nodes).map(node).filter(is_fallback).collect(),
            sets: of_sets,
            sloppy,
            hedge_ms: hedge,
            replica_timeout_ms: 100,
            deadline: Uptime(deadline),
        };
        let is_down = |at: &u8| down & (1 << at) != 0;
        (sets.clone(), plan, (0..nodes).filter(is_down).map(node).collect())
    }
}

/// With one set, or up to three that overlap.
fn cases() -> impl Strategy<Value = Case> {
    one_or_several().prop_flat_map(|(sets, nodes)| plan_of(sets, nodes))
}

#[test]
fn a_slow_replica_that_moves_is_waited_for() {
    let plan = Plan {
        sets: QuorumSets::one(vec![node(0), node(1)], 1),
        fallbacks: Vec::new(),
        sloppy: true,
        hedge_ms: None,
        replica_timeout_ms: 100,
        deadline: Uptime(1000),
    };
    let (mut get, _) = Get::start(plan, &BTreeSet::new(), Uptime(0));
    assert_eq!((get.place_of(node(0)), get.place_of(node(1))), (Some(RowKind::Home), None));
    for now in (50..400).step_by(50) {
        get.on_progress(node(0), Uptime(now));
        assert_eq!(get.on_time(Uptime(now + 49)), []);
    }
    let (to, place) = (node(1), RowKind::Home);
    assert_eq!(get.on_time(Uptime(450)), [Effect::Ask { to, what: ReadKind::Object, place }]);
}

/// While a layout changes, a read needs two of the old home replicas and two of the new ones.
#[test]
fn a_node_of_both_sets_is_asked_once_and_counts_twice() {
    let set = |homes: [u8; 3]| QuorumSet::of(homes.map(node).to_vec(), 2);
    let plan = Plan {
        sets: QuorumSets::several(vec![set([0, 1, 2]), set([1, 2, 3])]).unwrap(),
        fallbacks: vec![node(4)],
        sloppy: true,
        hedge_ms: None,
        replica_timeout_ms: 100,
        deadline: Uptime(1000),
    };
    let asked = |effects: &[Effect]| -> Vec<NodeId> {
        let to = |effect: &Effect| match effect {
            Effect::Ask { to, .. } => Some(*to),
            Effect::Answer(_) | Effect::Repair(_) => None,
        };
        effects.iter().filter_map(to).collect()
    };
    let (mut get, effects) = Get::start(plan, &BTreeSet::new(), Uptime(0));
    assert_eq!(asked(&effects), [0, 1, 2].map(node), "n3 is not needed: n1 and n2 are in both");
    get.on_reply(node(0), Reply::Object(object(1)), Uptime(1));
    get.on_reply(node(1), Reply::Digest(object(1).version()), Uptime(1));
    // Without n2 the new set needs n3, and no more than that.
    assert_eq!(asked(&get.on_silent(node(2), Uptime(2))), [node(3)]);
    let effects = get.on_reply(node(3), Reply::Digest(object(1).version()), Uptime(3));
    assert!(matches!(effects[..], [Effect::Answer(Answer::Read(_))]), "{effects:?}");
}

/// The new home replicas have not received anything yet: they count as witnesses, and what is read is what
/// the old ones hold.
#[test]
fn a_witness_counts_in_the_new_set_only() {
    let new = QuorumSet { takes_witnesses: true, ..QuorumSet::of([2, 3, 4].map(node).to_vec(), 2) };
    let old = QuorumSet::of([0, 1, 2].map(node).to_vec(), 2);
    let plan = Plan {
        sets: QuorumSets::several(vec![old, new]).unwrap(),
        fallbacks: Vec::new(),
        sloppy: false,
        hedge_ms: None,
        replica_timeout_ms: 100,
        deadline: Uptime(1000),
    };
    let (mut get, _) = Get::start(plan, &BTreeSet::new(), Uptime(0));
    assert_eq!(get.on_reply(node(3), Reply::NotFilled, Uptime(1)), []);
    assert_eq!(get.on_reply(node(0), Reply::Object(object(1)), Uptime(1)), []);
    // A node of both that lost its disk: a witness for the new set, no replica of the old one.
    assert_eq!(get.on_reply(node(2), Reply::NotFilled, Uptime(1)), []);
    let effects = get.on_reply(node(1), Reply::Digest(object(1).version()), Uptime(2));
    assert!(matches!(&effects[..], [Effect::Answer(Answer::Read(read))] if **read == object(1)));
}

/// A bystander that knows what each node holds and sees what it was asked for.
struct Naive {
    sets: Vec<QuorumSet>,
    plan: Plan,
    /// The home replica whose place each fallback takes.
    stands_for: BTreeMap<NodeId, NodeId>,
    held: Vec<Object>,
    asked: BTreeMap<NodeId, Vec<ReadKind>>,
    /// The last answer of each node, if it counts.
    said: BTreeMap<NodeId, Version>,
    /// Home replicas that have not received what they must hold.
    witnesses: BTreeSet<NodeId>,
    objects: Vec<Object>,
    answer: Option<Answer>,
    repaired: bool,
}

impl Naive {
    fn notes(&mut self, effects: Vec<Effect>, get: &Get) {
        for effect in effects {
            assert!(!self.repaired, "something comes after the repair");
            match effect {
                Effect::Ask { to, what, place } => {
                    let asked = self.asked.entry(to).or_default();
                    let for_more =
                        asked.as_slice() == [ReadKind::Digest] && what == ReadKind::Object;
                    assert!(asked.is_empty() || for_more, "{to} was asked twice");
                    asked.push(what);
                    self.said.remove(&to); // only its object counts from now on
                    let is_home = self.plan.sets.homes().contains(&to);
                    assert_eq!(place == RowKind::Home, is_home);
                    assert!(self.plan.sloppy || is_home);
                    if !is_home {
                        let slot = get.contacts.iter().find(|c| c.node == to).unwrap().slot;
                        self.stands_for.insert(to, self.plan.sets.homes()[slot]);
                    }
                }
                Effect::Answer(answer) => {
                    assert_eq!(self.answer, None, "answered twice");
                    self.judge(&answer);
                    self.answer = Some(answer);
                }
                Effect::Repair(behind) => {
                    assert!(self.answer.is_some() && !behind.is_empty());
                    self.repaired = true;
                    let merged = get.merged().version();
                    for to in behind {
                        assert!(self.plan.sets.homes().contains(&to), "{to} is no home");
                        assert_ne!(self.said.get(&to), Some(&merged), "{to} is not behind");
                    }
                }
            }
        }
    }

    /// How many nodes count in a set: its home replicas and fallbacks in their place, each only if
    /// everything it reported is in the merge.
    fn count_in(&self, set: &QuorumSet) -> usize {
        let known = |version: &Version| {
            *version == Version::ABSENT
                || self.objects.iter().any(|object| object.version() == *version)
        };
        let is_in = |node: &NodeId| set.homes.contains(self.stands_for.get(node).unwrap_or(node));
        let holders = self.said.iter().filter(|(node, version)| is_in(node) && known(version));
        let witnesses = self.witnesses.iter().filter(|node| set.takes_witnesses && is_in(node));
        holders.count() + witnesses.count()
    }

    fn judge(&self, answer: &Answer) {
        let enough = |set: &QuorumSet| self.count_in(set) >= usize::from(set.needed);
        match answer {
            Answer::Read(object) => {
                assert!(self.sets.iter().all(enough), "an early answer");
                let mut merged = Object::default();
                self.objects.iter().for_each(|object| merged.merge(object));
                assert_eq!(**object, merged);
            }
            Answer::NoQuorum { counted, refused, silent } => {
                let fewest = self.sets.iter().map(|set| self.count_in(set)).min();
                assert_eq!(Some(usize::from(*counted)), fewest);
                assert!(!self.sets.iter().all(enough));
                let named: BTreeSet<_> = refused.iter().chain(silent).collect();
                assert_eq!(named.len(), refused.len() + silent.len(), "named twice");
                assert!(named.iter().all(|node| self.asked.contains_key(*node)));
            }
        }
    }

    /// An answer from a node that was asked for this and may still answer.
    fn hears(&mut self, from: NodeId, asked: ReadKind, reply: &Reply) {
        match reply {
            Reply::Object(object) => {
                self.objects.push(object.clone());
                self.said.insert(from, object.version());
            }
            Reply::Digest(version) => {
                if asked == ReadKind::Digest || *version == Version::ABSENT {
                    self.said.insert(from, *version);
                }
            }
            Reply::NotFilled if self.plan.sets.homes().contains(&from) => {
                self.said.remove(&from);
                self.witnesses.insert(from);
            }
            Reply::NoHint | Reply::NotFilled | Reply::Refused => {
                self.said.remove(&from);
            }
        }
    }

    /// What a node answers to what it was asked for last.
    fn reply(&self, number: u8) -> Option<Reply> {
        let held = self.held[usize::from(number)].clone();
        match self.asked.get(&node(number))?.last()? {
            ReadKind::Object => Some(Reply::Object(held)),
            ReadKind::Digest => Some(Reply::Digest(held.version())),
        }
    }
}

fn happens(get: &mut Get, naive: &mut Naive, event: Event, now: &mut Uptime) {
    let (from, reply) = match event {
        Event::Answers(number) => (number, naive.reply(number)),
        Event::Digest(number, held) => (number, Some(Reply::Digest(naive.held[held].version()))),
        Event::Fails(number, how) => {
            let failures = [Reply::NoHint, Reply::NotFilled, Reply::Refused];
            (number, Some(failures[usize::from(how)].clone()))
        }
        Event::Silent(number) => {
            let effects = get.on_silent(node(number), *now);
            return naive.notes(effects, get);
        }
        Event::Later(ms) => {
            *now = now.plus(ms);
            let effects = get.on_time(*now);
            return naive.notes(effects, get);
        }
    };
    let Some(reply) = reply else { return };
    let before = get.contacts.iter().find(|c| c.node == node(from)).map(|c| c.state);
    if let Some(State::Waiting(asked) | State::Silent(asked)) = before {
        naive.hears(node(from), asked, &reply);
    }
    let effects = get.on_reply(node(from), reply, *now);
    naive.notes(effects, get);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(4000)
    })]

    #[test]
    fn a_get_answers_once_with_what_r_nodes_hold_and_ends(
        (sets, plan, down) in cases(),
        held in prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 2, 3, 7, 9, 15]), 8),
        events in events(),
    ) {
        let mut now = Uptime(0);
        let deadline = plan.deadline;
        let nodes = plan.sets.homes().len() + plan.fallbacks.len();
        let (mut get, effects) = Get::start(plan.clone(), &down, now);
        let mut naive = Naive {
            sets,
            plan,
            stands_for: BTreeMap::new(),
            held: held.into_iter().map(object).collect(),
            asked: BTreeMap::new(),
            said: BTreeMap::new(),
            witnesses: BTreeSet::new(),
            objects: Vec::new(),
            answer: None,
            repaired: false,
        };
        naive.notes(effects, &get);
        for event in events {
            happens(&mut get, &mut naive, event, &mut now);
            prop_assert!(naive.answer.is_some() || now < deadline);
        }
        // Left alone, it ends: by the deadline it answers, then it waits one timeout more.
        let end = now.max(deadline).plus(100);
        for _ in 0..=3 * nodes + 3 {
            if get.is_done() {
                break;
            }
            let wake = get.next_wake();
            prop_assert!(wake.is_some(), "it neither ends nor asks to be woken");
            now = now.max(wake.unwrap());
            prop_assert!(now <= end, "it goes on for too long");
            let effects = get.on_time(now);
            naive.notes(effects, &get);
        }
        prop_assert!(get.is_done() && naive.answer.is_some());
    }

    #[test]
    fn a_get_of_healthy_replicas_reads_what_r_of_them_hold(
        (sets, plan, _) in cases(),
        held in prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 2, 3, 7, 9, 15]), 8),
    ) {
        let (mut get, mut effects) = Get::start(plan.clone(), &BTreeSet::new(), Uptime(0));
        let mut answered = BTreeSet::new();
        let mut read = None;
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Ask { to, what, .. } => {
                    answered.insert(to);
                    let number: usize = to.as_str()[1..].parse().unwrap();
                    let held = object(held[number]);
                    let reply = match what {
                        ReadKind::Object => Reply::Object(held),
                        ReadKind::Digest => Reply::Digest(held.version()),
                    };
                    effects.extend(get.on_reply(to, reply, Uptime(1)));
                }
                Effect::Answer(Answer::Read(object)) => read = Some(object),
                Effect::Answer(Answer::NoQuorum { .. }) => prop_assert!(false, "no quorum"),
                Effect::Repair(behind) => prop_assert!(!behind.is_empty()),
            }
        }
        for set in &sets {
            let of_set = answered.iter().filter(|node| set.homes.contains(node)).count();
            prop_assert!(of_set >= usize::from(set.needed));
            prop_assert!(sets.len() > 1 || answered.len() == usize::from(set.needed));
        }
        let mut expected = Object::default();
        for to in answered {
            let number: usize = to.as_str()[1..].parse().unwrap();
            expected.merge(&object(held[number]));
        }
        // With several sets fewer may be enough than were asked: a node in all of them, for R = 1.
        prop_assert!(sets.len() > 1 || read.as_deref() == Some(&expected));
        prop_assert!(read.is_some());
        prop_assert!(get.is_done());
    }
}
