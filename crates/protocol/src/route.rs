//! One write, from its entry node's point of view: which node coordinates it.
//!
//! An entry node that is a home replica mints the write itself. Any other forwards it to the first
//! healthy home replica, and on a timeout or refusal to the next. If no home replica can be
//! reached, the entry node mints as a fallback and keeps the object as a hint, unless the quorum is
//! strict. Conditional and idempotent writes go to the first healthy home replica from everywhere,
//! so that they meet in one place while the cluster is whole (docs/decisions/0003).

use std::collections::BTreeSet;

use crate::message::{Outcome, WriteAnswer};
use crate::name::NodeId;
use crate::put::{Acks, Role, role_of};
use crate::time::Uptime;

/// What the entry node knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The entry node itself.
    pub me: NodeId,
    /// The home replicas that are asked, in order of preference.
    pub homes: Vec<NodeId>,
    /// Whether a fallback may mint.
    pub sloppy: bool,
    /// Whether the write must go to the first healthy home replica
    /// ([`crate::message::Write::needs_first_home`]).
    pub at_first_home: bool,
    /// Whether the write must not be minted twice: an increment of a counter would count twice. No other
    /// node is tried then once one was silent, since that one may have minted it.
    pub mints_once: bool,
    /// How long a home replica may take to accept a forwarded write, in milliseconds.
    pub accept_timeout_ms: u64,
    /// How long it may then take to answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// The latest time at which the client is answered.
    pub deadline: Uptime,
}

/// What the entry node must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Mint here, in this role.
    Mint(Role),
    /// Forward the write to a home replica.
    Forward {
        /// The home replica.
        to: NodeId,
    },
    /// No node minted the write: answer the client.
    Fail(Unrouted),
}

/// No node is known to have minted the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrouted {
    /// Nodes that refused.
    pub refused: Vec<NodeId>,
    /// Nodes that did not answer, or accepted and never reported a result: they may have minted it.
    pub silent: Vec<NodeId>,
}

/// The machine that finds a coordinator.
#[derive(Debug)]
pub struct Route {
    plan: Plan,
    /// Home replicas not yet tried, the next one last.
    untried: Vec<NodeId>,
    current: Option<Attempt>,
    result: Unrouted,
    done: bool,
    minting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    node: NodeId,
    timeout_at: Uptime,
}

impl Route {
    /// Starts looking for a coordinator.
    pub fn start(plan: Plan, down: &BTreeSet<NodeId>, now: Uptime) -> (Self, Option<Effect>) {
        assert!(!plan.homes.is_empty(), "every key has a home");
        let is_home = plan.homes.contains(&plan.me);
        let mut order: Vec<NodeId> = if is_home && !plan.at_first_home {
            vec![plan.me]
        } else {
            plan.homes.iter().filter(|home| !down.contains(home)).copied().collect()
        };
        if !plan.sloppy && !is_home {
            // Only home replicas count: try even those that appear down before giving up.
            order.extend(plan.homes.iter().filter(|home| down.contains(home)));
        }
        order.reverse();
        let result = Unrouted { refused: Vec::new(), silent: Vec::new() };
        let (current, done, minting) = (None, false, false);
        let mut route = Self { plan, untried: order, current, result, done, minting };
        let effect = route.next(now);
        (route, effect)
    }

    /// The node accepted the write and will answer.
    pub fn on_accepted(&mut self, node: NodeId, now: Uptime) {
        if let Some(attempt) = self.current.as_mut().filter(|attempt| attempt.node == node) {
            attempt.timeout_at = now.plus(self.plan.answer_timeout_ms);
        }
    }

    /// The node refused, and certainly did not mint.
    pub fn on_refused(&mut self, node: NodeId, now: Uptime) -> Option<Effect> {
        self.current.filter(|attempt| attempt.node == node)?;
        self.result.refused.push(node);
        self.next(now)
    }

    /// The write is being sent and the transfer makes progress: the node is slow, not silent.
    pub fn on_progress(&mut self, node: NodeId, now: Uptime) {
        let timeout_at = now.plus(self.plan.accept_timeout_ms);
        if let Some(attempt) = self.current.as_mut().filter(|attempt| attempt.node == node) {
            attempt.timeout_at = attempt.timeout_at.max(timeout_at);
        }
    }

    /// The node will not answer any more; it may have minted.
    pub fn on_silent(&mut self, node: NodeId, now: Uptime) -> Option<Effect> {
        self.current.filter(|attempt| attempt.node == node)?;
        self.result.silent.push(node);
        self.next(now)
    }

    /// An answer came from a node that was asked, possibly after its timeout: the search is over.
    pub fn on_answer(&mut self) {
        self.done = true;
        self.current = None;
    }

    /// An answer came from a node that was asked, possibly after its timeout, or from this node if
    /// it minted. Returns what to answer the client, whose W is `required`. A success is final. A
    /// failure speaks only for the node that reports it: it does not end a search that has moved on
    /// (`None`), and the outcome is "unknown" as long as another node that was asked is silent and
    /// may have minted.
    pub fn on_written(
        &mut self,
        from: NodeId,
        answer: WriteAnswer,
        required: u16,
    ) -> Option<WriteAnswer> {
        let stored = match &answer {
            WriteAnswer::Written(_) => true,
            WriteAnswer::NoQuorum { outcome, .. } => *outcome == Outcome::Partial,
            WriteAnswer::NoReadQuorum { .. }
            | WriteAnswer::ConditionFailed
            | WriteAnswer::IdempotencyKeyReused
            | WriteAnswer::Refused(_)
            | WriteAnswer::Unavailable(_)
            | WriteAnswer::InvalidQuorum(_) => false,
        };
        if stored {
            self.on_answer();
            return Some(answer);
        }
        let unknown = matches!(answer, WriteAnswer::NoQuorum { outcome: Outcome::Unknown, .. });
        if !unknown {
            self.result.silent.retain(|node| *node != from);
        }
        let trying = if self.minting { Some(self.plan.me) } else { self.current.map(|a| a.node) };
        if trying.is_some_and(|node| node != from) {
            return None;
        }
        self.on_answer();
        if unknown || self.result.silent.is_empty() {
            return Some(answer);
        }
        let Unrouted { refused, silent } = self.result.clone();
        let acks = Acks { refused, silent, ..Acks::default() };
        Some(WriteAnswer::NoQuorum { required, acks, outcome: Outcome::Unknown })
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Uptime) -> Option<Effect> {
        if self.done {
            return None;
        }
        let attempt = self.current?;
        if now >= self.plan.deadline {
            self.result.silent.push(attempt.node);
            return Some(self.fail());
        }
        if now >= attempt.timeout_at { self.on_silent(attempt.node, now) } else { None }
    }

    /// The latest time at which the client is answered.
    pub fn deadline(&self) -> Uptime {
        self.plan.deadline
    }

    /// When [`Route::on_time`] must be called next.
    pub fn next_wake(&self) -> Option<Uptime> {
        self.current.map(|attempt| attempt.timeout_at.min(self.plan.deadline))
    }

    fn next(&mut self, now: Uptime) -> Option<Effect> {
        self.current = None;
        if self.done {
            return None;
        }
        if self.plan.mints_once && !self.result.silent.is_empty() {
            return Some(self.fail());
        }
        match self.untried.pop() {
            Some(node) if node == self.plan.me => Some(self.mint()),
            Some(to) => {
                let timeout_at = now.plus(self.plan.accept_timeout_ms);
                self.current = Some(Attempt { node: to, timeout_at });
                Some(Effect::Forward { to })
            }
            None if self.plan.sloppy && !self.plan.homes.contains(&self.plan.me) => {
                Some(self.mint())
            }
            None => Some(self.fail()),
        }
    }

    fn mint(&mut self) -> Effect {
        self.done = true;
        self.minting = true;
        Effect::Mint(role_of(self.plan.me, &self.plan.homes))
    }

    fn fail(&mut self) -> Effect {
        self.done = true;
        self.current = None;
        Effect::Fail(self.result.clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Found by the simulator: n1 was silent and may have minted, then another node certainly
    /// failed.
    #[test]
    fn a_failure_speaks_for_one_node_only() {
        let route = |me: u8| {
            let plan = Plan {
                me: node(me),
                homes: vec![node(1), node(2)],
                sloppy: true,
                at_first_home: true,
                mints_once: false,
                accept_timeout_ms: 100,
                answer_timeout_ms: 100,
                deadline: Uptime(1000),
            };
            Route::start(plan, &BTreeSet::new(), Uptime(0)).0
        };
        let failed = || WriteAnswer::ConditionFailed;
        let unknown = |answer| {
            matches!(answer, Some(WriteAnswer::NoQuorum { outcome, .. })
            if outcome == Outcome::Unknown)
        };
        // The second home fails, the first is silent: the outcome is unknown.
        let mut after_silence = route(3);
        after_silence.on_silent(node(1), Uptime(1));
        assert!(unknown(after_silence.on_written(node(2), failed(), 2)));
        // The same if this node minted instead.
        let mut minting = route(2);
        assert_eq!(minting.on_silent(node(1), Uptime(1)), Some(Effect::Mint(Role::Home)));
        assert!(unknown(minting.on_written(node(2), failed(), 2)));
        // A late failure of the first does not end the current attempt, but clears the first.
        let mut late = route(2);
        late.on_silent(node(1), Uptime(1));
        assert_eq!(late.on_written(node(1), failed(), 2), None);
        assert_eq!(late.on_written(node(2), failed(), 2), Some(failed()));
    }

    #[test]
    fn a_write_that_makes_progress_is_not_given_to_another() {
        let plan = Plan {
            me: node(3),
            homes: vec![node(1), node(2)],
            sloppy: true,
            at_first_home: true,
            mints_once: false,
            accept_timeout_ms: 100,
            answer_timeout_ms: 300,
            deadline: Uptime(1000),
        };
        let (mut route, _) = Route::start(plan, &BTreeSet::new(), Uptime(0));
        for now in (50..400).step_by(50) {
            route.on_progress(node(1), Uptime(now));
            route.on_progress(node(2), Uptime(now + 40));
            assert_eq!(route.on_time(Uptime(now + 49)), None);
        }
        route.on_accepted(node(1), Uptime(400));
        route.on_progress(node(1), Uptime(410));
        assert_eq!(route.next_wake(), Some(Uptime(700)), "an accepted write has longer");
        assert_eq!(route.on_time(Uptime(700)), Some(Effect::Forward { to: node(2) }));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Accepted(u8),
        Refused(u8),
        Silent(u8),
        Answer,
        Later(u64),
    }

    fn node(number: u8) -> NodeId {
        NodeId::parse(&format!("n{number}")).unwrap()
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            2 => (0..6u8).prop_map(Event::Accepted),
            4 => (0..6u8).prop_map(Event::Refused),
            3 => (0..6u8).prop_map(Event::Silent),
            1 => Just(Event::Answer),
            3 => (0..150u64).prop_map(Event::Later),
        ];
        prop::collection::vec(event, 0..20)
    }

    prop_compose! {
        fn plans()(homes in 1..5u8, me in 0..6u8, sloppy: bool, at_first_home: bool,
            mints_once: bool, deadline in 1..500u64, down in any::<u8>()) -> (Plan, BTreeSet<NodeId>) {
            let plan = Plan {
                me: node(me),
                homes: (0..homes).map(node).collect(),
                sloppy,
                at_first_home,
                mints_once,
                accept_timeout_ms: 50,
                answer_timeout_ms: 200,
                deadline: Uptime(deadline),
            };
            (plan, (0..6).filter(|at| *at != me && down & (1 << at) != 0).map(node).collect())
        }
    }

    /// Checks every effect; records which nodes were tried and how the search ended.
    struct Naive {
        plan: Plan,
        tried: BTreeSet<NodeId>,
        refused: BTreeSet<NodeId>,
        ended: bool,
    }

    impl Naive {
        fn notes(&mut self, effect: Option<Effect>) {
            let Some(effect) = effect else { return };
            assert!(!self.ended, "an effect after the end");
            let is_home = self.plan.homes.contains(&self.plan.me);
            match effect {
                Effect::Forward { to } => {
                    assert!(to != self.plan.me && self.plan.homes.contains(&to));
                    assert!(self.tried.insert(to), "{to} was tried twice");
                }
                Effect::Mint(role) => {
                    assert_eq!(role == Role::Home, is_home);
                    assert!(is_home || self.plan.sloppy, "a strict write at a fallback");
                    self.ended = true;
                }
                Effect::Fail(Unrouted { refused, silent }) => {
                    assert!(!is_home || self.plan.at_first_home);
                    assert_eq!(refused.iter().copied().collect::<BTreeSet<_>>(), self.refused);
                    let named: BTreeSet<_> = refused.iter().chain(&silent).copied().collect();
                    assert_eq!(named.len(), refused.len() + silent.len(), "named twice");
                    assert_eq!(named, self.tried, "every node tried is named once");
                    self.ended = true;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(2000)
        })]

        #[test]
        fn a_route_ends_once_and_tries_each_home_once(
            (plan, down) in plans(), events in events()
        ) {
            let mut now = Uptime(0);
            let (mut route, effect) = Route::start(plan.clone(), &down, now);
            let (tried, refused) = (BTreeSet::new(), BTreeSet::new());
            let mut naive = Naive { plan, tried, refused, ended: false };
            naive.notes(effect);
            for event in events {
                let current = route.current.map(|attempt| attempt.node);
                let effect = match event {
                    Event::Accepted(number) => {
                        route.on_accepted(node(number), now);
                        None
                    }
                    Event::Refused(number) => {
                        naive.refused.extend(current.filter(|at| *at == node(number)));
                        route.on_refused(node(number), now)
                    }
                    Event::Silent(number) => route.on_silent(node(number), now),
                    Event::Answer => {
                        route.on_answer();
                        naive.ended = true;
                        None
                    }
                    Event::Later(ms) => {
                        now = now.plus(ms);
                        route.on_time(now)
                    }
                };
                if naive.plan.mints_once && !route.result.silent.is_empty() {
                    prop_assert!(matches!(effect, None | Some(Effect::Fail(_))));
                }
                naive.notes(effect);
            }
            // Without events it ends at the deadline.
            let end = now.max(naive.plan.deadline);
            while !naive.ended {
                let wake = route.next_wake();
                prop_assert!(wake.is_some(), "it neither ends nor asks to be woken");
                now = now.max(wake.unwrap());
                prop_assert!(now <= end, "it runs for too long");
                naive.notes(route.on_time(now));
            }
            prop_assert_eq!(route.next_wake(), None);
        }
    }
}
