//! The PUT machine against a naive model, with events in any order.

use proptest::prelude::*;

use super::*;

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

prop_compose! {
    /// A plan over `nodes` nodes, of which any may be asked, and the nodes known to be down.
    fn plans()(nodes in 1..8u8, n in 1..8u8, needed in 1..8u8, me in 0..8u8, sloppy: bool,
        deadline in 1..600u64, down in any::<u8>()) -> (Plan, BTreeSet<NodeId>) {
        let (n, me) = (n.min(nodes), me % nodes);
        let plan = Plan {
            me: node(me),
            homes: (0..n).map(node).collect(),
            fallbacks: (n..nodes).map(node).collect(),
            needed: u16::from(needed.min(n)),
            sloppy,
            replica_timeout_ms: 100,
            deadline: Uptime(deadline),
        };
        (plan, (0..nodes).filter(|at| *at != me && down & (1 << at) != 0).map(node).collect())
    }
}

#[test]
fn a_slow_replica_that_makes_progress_is_kept_and_a_silent_one_replaced() {
    let plan = Plan {
        me: node(0),
        homes: vec![node(0), node(1)],
        fallbacks: vec![node(2)],
        needed: 2,
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

/// The naive model's notes: which nodes were asked, and which acknowledged first or refused
/// first.
struct Naive {
    plan: Plan,
    asked: BTreeSet<NodeId>,
    acked: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    answer: Option<Answer>,
    now: Uptime,
}

impl Naive {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Ack(number) if !self.refused.contains(&node(number)) => {
                self.acked.extend(self.asked.get(&node(number)));
            }
            Event::Refused(number) if !self.acked.contains(&node(number)) => {
                self.refused.extend(self.asked.get(&node(number)));
            }
            Event::Ack(_) | Event::Refused(_) | Event::Silent(_) | Event::Later(_) => {}
        }
    }

    fn notes(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, role } => {
                    assert!(self.asked.insert(to), "{to} was contacted twice");
                    assert_eq!(role == Role::Home, self.plan.homes.contains(&to));
                }
                Effect::Answer(answer) => {
                    assert_eq!(self.answer, None, "answered twice");
                    self.judge(&answer);
                    self.answer = Some(answer);
                }
            }
        }
    }

    /// Checks an answer against the distinct nodes that acknowledged.
    fn judge(&self, answer: &Answer) {
        let is_home = |of: &&NodeId| self.plan.homes.contains(of);
        let homes = self.acked.iter().filter(is_home).count();
        let counted = if self.plan.sloppy { self.acked.len() } else { homes };
        let (acks, written) = match answer {
            Answer::Written(acks) => (acks, true),
            Answer::NoQuorum(acks) => (acks, false),
        };
        assert_eq!(usize::from(acks.counted), counted);
        assert_eq!(usize::from(acks.hints), self.acked.len() - homes);
        assert_eq!(written, acks.counted >= self.plan.needed, "the verdict is wrong");
        let refused: BTreeSet<_> = acks.refused.iter().copied().collect();
        assert_eq!(refused, self.refused);
        let said: BTreeSet<_> = self.acked.union(&self.refused).copied().collect();
        let open: BTreeSet<_> = self.asked.difference(&said).copied().collect();
        assert_eq!(open, acks.silent.iter().copied().collect());
        let possible = open.iter().filter(|n| self.plan.sloppy || is_home(n)).count();
        let hopeless = counted + possible < usize::from(self.plan.needed);
        assert!(written || hopeless || self.now >= self.plan.deadline, "gave up too early");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn a_put_answers_once_as_a_naive_count_does_and_ends(
        (plan, down) in plans(), events in events()
    ) {
        let mut now = Uptime(0);
        let deadline = plan.deadline;
        let (mut put, effects) = Put::start(plan.clone(), &down, now);
        let asked = [plan.me].into();
        let (acked, refused) = (BTreeSet::new(), BTreeSet::new());
        let nodes = plan.homes.len() + plan.fallbacks.len();
        let mut naive = Naive { plan, asked, acked, refused, answer: None, now };
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
            // Answered as soon as W distinct nodes hold it, and not before.
            if naive.answer.is_none() {
                let homes = naive.acked.iter().filter(|n| naive.plan.homes.contains(n)).count();
                let counted = if naive.plan.sloppy { naive.acked.len() } else { homes };
                prop_assert!(counted < usize::from(naive.plan.needed));
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
