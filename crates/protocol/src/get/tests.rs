//! The GET machine against a naive model, with events in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::{Actor, Dot};
use crate::object::{Metadata, Sibling, WriteId};
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
            value: None,
            metadata: Metadata::default(),
            stamp: Stamp::default(),
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

prop_compose! {
    fn plans()(nodes in 1..8u8, n in 1..6u8, needed in 1..6u8, sloppy: bool,
        hedge in prop::option::of(1..120u64), deadline in 1..600u64, down in any::<u8>(),
    ) -> (Plan, BTreeSet<NodeId>) {
        let n = n.min(nodes);
        let plan = Plan {
            homes: (0..n).map(node).collect(),
            fallbacks: (n..nodes).map(node).collect(),
            needed: u16::from(needed.min(n)),
            sloppy,
            hedge_ms: hedge,
            replica_timeout_ms: 100,
            deadline: Uptime(deadline),
        };
        (plan, (0..nodes).filter(|at| down & (1 << at) != 0).map(node).collect())
    }
}

#[test]
fn a_slow_replica_that_moves_is_waited_for() {
    let plan = Plan {
        homes: vec![node(0), node(1)],
        fallbacks: Vec::new(),
        needed: 1,
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

/// A bystander that knows what each node holds and sees what it was asked for.
struct Naive {
    plan: Plan,
    held: Vec<Object>,
    asked: BTreeMap<NodeId, Vec<ReadKind>>,
    /// The last answer of each node, if it counts.
    said: BTreeMap<NodeId, Version>,
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
                    assert_eq!(place == RowKind::Home, self.plan.homes.contains(&to));
                    assert!(self.plan.sloppy || place == RowKind::Home);
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
                        assert!(self.plan.homes.contains(&to), "{to} is no home");
                        assert_ne!(self.said.get(&to), Some(&merged), "{to} is not behind");
                    }
                }
            }
        }
    }

    /// A node counts only if everything it reported is in the merge.
    fn judge(&self, answer: &Answer) {
        let known = |version: &&Version| {
            **version == Version::ABSENT
                || self.objects.iter().any(|object| object.version() == **version)
        };
        let count = self.said.values().filter(known).count();
        match answer {
            Answer::Read(object) => {
                assert!(count >= usize::from(self.plan.needed), "an early answer");
                let mut merged = Object::default();
                self.objects.iter().for_each(|object| merged.merge(object));
                assert_eq!(**object, merged);
            }
            Answer::NoQuorum { counted, refused, silent } => {
                assert_eq!(usize::from(*counted), count);
                assert!(count < usize::from(self.plan.needed));
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
        failure_persistence: None, ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn a_get_answers_once_with_what_r_nodes_hold_and_ends(
        (plan, down) in plans(),
        held in prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 2, 3, 7, 9, 15]), 8),
        events in events(),
    ) {
        let mut now = Uptime(0);
        let deadline = plan.deadline;
        let nodes = plan.homes.len() + plan.fallbacks.len();
        let (mut get, effects) = Get::start(plan.clone(), &down, now);
        let mut naive = Naive {
            plan,
            held: held.into_iter().map(object).collect(),
            asked: BTreeMap::new(),
            said: BTreeMap::new(),
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
        (plan, _) in plans(),
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
        prop_assert_eq!(answered.len(), usize::from(plan.needed));
        let mut expected = Object::default();
        for to in answered {
            let number: usize = to.as_str()[1..].parse().unwrap();
            expected.merge(&object(held[number]));
        }
        prop_assert_eq!(read.as_deref(), Some(&expected));
        prop_assert!(get.is_done());
    }
}
