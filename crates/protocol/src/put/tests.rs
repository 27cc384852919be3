//! The PUT machine against a naive model, with events in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::quorum_sets::QuorumSet;
use crate::quorum_sets::tests::one_or_several;

/// An event at a node (by number; some are never asked), or the passing of time.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ack(u8),
    Refused(u8),
    Silent(u8),
    Later(u64),
}

fn node(number: u8) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..8u8).prop_map(Event::Ack),
        2 => (0..8u8).prop_map(Event::Refused),
        1 => (0..8u8).prop_map(Event::Silent),
        2 => (0..200u64).prop_map(Event::Later),
    ];
    prop::collection::vec(event, 0..30)
}

/// Some sets, their plan and the nodes known to be down.
type Case = (Vec<QuorumSet>, Plan, BTreeSet<NodeId>);

prop_compose! {
    /// A plan of these sets over `nodes` nodes, of which any may be asked.
    fn plan_of(sets: Vec<QuorumSet>, nodes: u8)(me in 0..nodes, sloppy: bool, deadline in 1..600u64,
        down in any::<u8>()) -> Case {
        let of_sets = QuorumSets::several(sets.clone()).unwrap();
        let is_fallback = |node: &NodeId| !of_sets.homes().contains(node);
        let plan = Plan {
            me: node(me),
            fallbacks: (0..nodes).map(node).filter(is_fallback).collect(),
            sets: of_sets,
            counts_me: true,
            sloppy,
            replica_timeout_ms: 100,
            deadline: Uptime(deadline),
        };
        let is_down = |at: &u8| *at != me && down & (1 << at) != 0;
        (sets.clone(), plan, (0..nodes).filter(is_down).map(node).collect())
    }
}

/// With one set, or up to three that overlap.
fn cases() -> impl Strategy<Value = Case> {
    one_or_several().prop_flat_map(|(sets, nodes)| plan_of(sets, nodes))
}

#[test]
fn a_slow_replica_that_makes_progress_is_kept_and_a_silent_one_replaced() {
    let plan = Plan {
        me: node(0),
        sets: QuorumSets::one(vec![node(0), node(1)], 2),
        counts_me: true,
        fallbacks: vec![node(2)],
        sloppy: true,
        replica_timeout_ms: 100,
        deadline: Uptime(1000),
    };
    let (mut put, _) = Put::start(plan, &BTreeSet::new(), Uptime(0));
    put.on_ack(node(0));
    for now in (50..400).step_by(50) {
        put.on_progress(node(1), Uptime(now));
        assert_eq!(put.on_time(Uptime(now + 49)), []);
    }
    assert_eq!(put.next_wake(), Some(Uptime(450)));
    let role = Role::Hint { target: node(1) };
    assert_eq!(put.on_time(Uptime(450)), [Effect::Send { to: node(2), role }]);
}

/// The naive model's notes: which nodes were asked in which role, and which acknowledged first or
/// refused first.
struct Naive {
    sets: Vec<QuorumSet>,
    plan: Plan,
    asked: BTreeMap<NodeId, Role>,
    acked: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    answer: Option<Answer>,
    now: Uptime,
}

impl Naive {
    fn new(sets: Vec<QuorumSet>, plan: Plan, now: Uptime) -> Self {
        let is_home = sets.iter().any(|set| set.homes.contains(&plan.me));
        let role = if is_home { Role::Home } else { Role::Hint { target: sets[0].homes[0] } };
        let asked = [(plan.me, role)].into();
        let (acked, refused) = (BTreeSet::new(), BTreeSet::new());
        Self { sets, plan, asked, acked, refused, answer: None, now }
    }

    fn happens(&mut self, event: Event) {
        let asked = |number: u8| Some(node(number)).filter(|node| self.asked.contains_key(node));
        match event {
            Event::Ack(number) if !self.refused.contains(&node(number)) => {
                self.acked.extend(asked(number));
            }
            Event::Refused(number) if !self.acked.contains(&node(number)) => {
                self.refused.extend(asked(number));
            }
            Event::Ack(_) | Event::Refused(_) | Event::Silent(_) | Event::Later(_) => {}
        }
    }

    fn notes(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, role } => {
                    assert_eq!(self.asked.insert(to, role), None, "{to} was contacted twice");
                    let is_home = |of: &NodeId| self.sets.iter().any(|set| set.homes.contains(of));
                    match role {
                        Role::Home => assert!(is_home(&to)),
                        Role::Hint { target } => assert!(is_home(&target) && !is_home(&to)),
                    }
                }
                Effect::Answer(answer) => {
                    assert_eq!(self.answer, None, "answered twice");
                    self.judge(&answer);
                    self.answer = Some(answer);
                }
            }
        }
    }

    /// How many of these nodes count in a set: its home replicas, and fallbacks in their place.
    fn count_in(&self, set: &QuorumSet, nodes: &BTreeSet<NodeId>) -> usize {
        let counts = |node: &&NodeId| match self.asked[*node] {
            Role::Home => set.homes.contains(*node),
            Role::Hint { target } => self.plan.sloppy && set.homes.contains(&target),
        };
        nodes.iter().filter(counts).count()
    }

    /// Whether these nodes would be enough in every set.
    fn suffice(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let enough = |set: &QuorumSet| self.count_in(set, nodes) >= usize::from(set.needed);
        self.sets.iter().all(enough)
    }

    /// Checks an answer against the distinct nodes that acknowledged.
    fn judge(&self, answer: &Answer) {
        let (acks, written) = match answer {
            Answer::Written(acks) => (acks, true),
            Answer::NoQuorum(acks) => (acks, false),
        };
        let fewest = self.sets.iter().map(|set| self.count_in(set, &self.acked)).min();
        assert_eq!(Some(usize::from(acks.counted)), fewest);
        let hints = self.acked.iter().filter(|node| self.asked[*node] != Role::Home);
        assert_eq!(usize::from(acks.hints), hints.count());
        assert_eq!(written, self.suffice(&self.acked), "the verdict is wrong");
        let refused: BTreeSet<_> = acks.refused.iter().copied().collect();
        assert_eq!(refused, self.refused);
        let asked: BTreeSet<_> = self.asked.keys().copied().collect();
        let said: BTreeSet<_> = self.acked.union(&self.refused).copied().collect();
        let open: BTreeSet<_> = asked.difference(&said).copied().collect();
        assert_eq!(open, acks.silent.iter().copied().collect());
        let possible = asked.difference(&self.refused).copied().collect();
        let hopeless = !self.suffice(&possible);
        assert!(written || hopeless || self.now >= self.plan.deadline, "gave up too early");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(4000)
    })]

    #[test]
    fn a_put_answers_once_as_a_naive_count_does_and_ends(
        (sets, plan, down) in cases(), events in events()
    ) {
        let mut now = Uptime(0);
        let deadline = plan.deadline;
        let (mut put, effects) = Put::start(plan.clone(), &down, now);
        let nodes = plan.sets.homes().len() + plan.fallbacks.len();
        let mut naive = Naive::new(sets, plan, now);
        naive.notes(effects);
        for event in events {
            naive.happens(event);
            let effects = match event {
                Event::Ack(number) => put.on_ack(node(number)),
                Event::Refused(number) => put.on_refused(node(number), now),
                Event::Silent(number) => put.on_silent(node(number), now),
                Event::Later(ms) => {
                    now = now.plus(ms);
                    naive.now = now;
                    put.on_time(now)
                }
            };
            naive.notes(effects);
            // Answered as soon as W distinct nodes of each set hold it, and not before.
            if naive.answer.is_none() {
                prop_assert!(!naive.suffice(&naive.acked));
                prop_assert!(now < deadline);
            }
        }
        // Without events it ends after at most one timeout for each node it may still ask.
        let end = now.max(deadline).plus(100 * (nodes as u64 + 1));
        while !put.is_done() {
            let wake = put.next_wake();
            prop_assert!(wake.is_some(), "it neither ends nor asks to be woken");
            now = now.max(wake.unwrap());
            prop_assert!(now <= end, "it runs for too long");
            naive.now = now;
            naive.notes(put.on_time(now));
        }
        prop_assert!(naive.answer.is_some());
    }
}

/// While a layout changes: n0, n1, n2 are the home replicas, n1, n2, n3 will be.
fn moving(me: u8) -> Plan {
    let set = |homes: [u8; 3]| QuorumSet::of(homes.map(node).to_vec(), 2);
    Plan {
        me: node(me),
        sets: QuorumSets::several(vec![set([0, 1, 2]), set([1, 2, 3])]).unwrap(),
        counts_me: true,
        fallbacks: vec![node(4), node(5)],
        sloppy: true,
        replica_timeout_ms: 100,
        deadline: Uptime(1000),
    }
}

/// The layout has changed while the write ran: the coordinator, which stored it as a home replica, is none
/// any more. Its row will be handed over; it does not count, and is not asked to keep a hint beside it.
#[test]
fn a_coordinator_that_is_no_home_any_more_does_not_count() {
    let plan = Plan {
        sets: QuorumSets::one([1, 2, 3].map(node).to_vec(), 2),
        fallbacks: vec![node(0)],
        counts_me: false,
        ..moving(0)
    };
    let (mut put, effects) = Put::start(plan, &BTreeSet::new(), Uptime(0));
    let send = |to: u8| Effect::Send { to: node(to), role: Role::Home };
    assert_eq!(effects, [send(1), send(2), send(3)]);
    assert_eq!(put.on_ack(node(0)), [], "its own sync is no acknowledgement");
    assert_eq!(put.on_refused(node(3), Uptime(1)), []);
    assert_eq!(put.on_ack(node(1)), []);
    let effects = put.on_ack(node(2));
    let [Effect::Answer(Answer::Written(acks))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((acks.counted, acks.stored), (2, true));
}

#[test]
fn a_node_of_both_sets_counts_twice_and_gets_one_message() {
    let (mut put, effects) = Put::start(moving(1), &BTreeSet::new(), Uptime(0));
    let send = |to: u8| Effect::Send { to: node(to), role: Role::Home };
    assert_eq!(effects, [send(0), send(2), send(3)]);
    assert_eq!(put.on_ack(node(0)), []);
    assert_eq!(put.on_ack(node(1)), [], "two of the old set, one of the new one");
    assert!(matches!(put.on_ack(node(3))[..], [Effect::Answer(Answer::Written(_))]));
    let (mut put, _) = Put::start(moving(1), &BTreeSet::new(), Uptime(0));
    assert_eq!(put.on_ack(node(1)), []);
    let [Effect::Answer(Answer::Written(acks))] = &put.on_ack(node(2))[..] else { panic!() };
    assert_eq!(acks.counted, 2);
}

#[test]
fn a_fallback_counts_where_the_home_replica_would_whose_place_it_takes() {
    let (mut put, _) = Put::start(moving(1), &[node(3)].into(), Uptime(0));
    put.on_ack(node(1));
    put.on_ack(node(0));
    // n4 keeps a hint for n3, which is in the new set only.
    assert!(matches!(put.on_ack(node(4))[..], [Effect::Answer(Answer::Written(_))]));
    let (mut put, _) = Put::start(moving(1), &[node(0)].into(), Uptime(0));
    put.on_ack(node(1));
    // n4 keeps a hint for n0, which is in the old set only.
    assert_eq!(put.on_ack(node(4)), []);
    assert!(matches!(put.on_ack(node(3))[..], [Effect::Answer(Answer::Written(_))]));
}
