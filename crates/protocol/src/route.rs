//! One write, from its coordinator's point of view: who mints it.
//!
//! A coordinator that is a home replica mints itself. Any other forwards the request to the first healthy
//! home replica, and on silence to the next. If no home replica can be reached, the coordinator mints as
//! a fallback and keeps the object as a hint, unless the quorum is strict. Conditional and idempotent
//! writes go to the first healthy home replica from everywhere, so that they meet in one place while the
//! cluster is whole (docs/decisions/0003).

use std::collections::BTreeSet;

use crate::name::NodeId;
use crate::put::{Role, role_of};
use crate::stamp::Millis;

/// What the coordinator knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The coordinator itself.
    pub me: NodeId,
    /// The home replicas that are asked, in order of preference.
    pub homes: Vec<NodeId>,
    /// Whether a fallback may mint.
    pub sloppy: bool,
    /// Whether the write must meet others like it at the first healthy home replica.
    pub at_first_home: bool,
    /// How long a home replica may take to accept a forwarded write, in milliseconds.
    pub accept_timeout_ms: u64,
    /// How long it may then take to answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// When the client is answered at the latest.
    pub deadline: Millis,
}

/// What the coordinator must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Mint here, as this.
    Mint(Role),
    /// Forward the write to a home replica.
    Forward {
        /// To whom.
        to: NodeId,
    },
    /// Nobody minted: answer the client.
    Fail(Unrouted),
}

/// Nobody is known to have minted the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrouted {
    /// Nodes that said no.
    pub refused: Vec<NodeId>,
    /// Nodes that said nothing, or accepted and never answered: they may have minted it.
    pub silent: Vec<NodeId>,
}

/// The machine that finds a minter.
#[derive(Debug)]
pub struct Route {
    plan: Plan,
    /// Home replicas not yet tried, the next one last.
    untried: Vec<NodeId>,
    current: Option<Attempt>,
    result: Unrouted,
    done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    node: NodeId,
    patience_ends: Millis,
}

impl Route {
    /// Starts looking for a minter.
    pub fn start(plan: Plan, down: &BTreeSet<NodeId>, now: Millis) -> (Self, Option<Effect>) {
        assert!(!plan.homes.is_empty(), "every key has a home");
        let is_home = plan.homes.contains(&plan.me);
        let mut order: Vec<NodeId> = if is_home && !plan.at_first_home {
            vec![plan.me]
        } else {
            plan.homes.iter().filter(|home| !down.contains(home)).copied().collect()
        };
        if !plan.sloppy && !is_home {
            // Only home replicas count: try even those that look down before giving up.
            order.extend(plan.homes.iter().filter(|home| down.contains(home)));
        }
        order.reverse();
        let result = Unrouted { refused: Vec::new(), silent: Vec::new() };
        let mut route = Self { plan, untried: order, current: None, result, done: false };
        let effect = route.next(now);
        (route, effect)
    }

    /// The node took the write over and will answer.
    pub fn on_accepted(&mut self, node: NodeId, now: Millis) {
        if let Some(attempt) = self.current.as_mut().filter(|attempt| attempt.node == node) {
            attempt.patience_ends = now.plus(self.plan.answer_timeout_ms);
        }
    }

    /// The node said no, and certainly did not mint.
    pub fn on_refused(&mut self, node: NodeId, now: Millis) -> Option<Effect> {
        self.current.filter(|attempt| attempt.node == node)?;
        self.result.refused.push(node);
        self.next(now)
    }

    /// Nothing will come from the node any more; it may have minted.
    pub fn on_silent(&mut self, node: NodeId, now: Millis) -> Option<Effect> {
        self.current.filter(|attempt| attempt.node == node)?;
        self.result.silent.push(node);
        self.next(now)
    }

    /// An answer came from some node that was asked, early or late: the search is over.
    pub fn on_answer(&mut self) {
        self.done = true;
        self.current = None;
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Millis) -> Option<Effect> {
        if self.done {
            return None;
        }
        let attempt = self.current?;
        if now >= self.plan.deadline {
            self.result.silent.push(attempt.node);
            return Some(self.fail());
        }
        if now >= attempt.patience_ends { self.on_silent(attempt.node, now) } else { None }
    }

    /// When [`Route::on_time`] must be called next.
    pub fn next_wake(&self) -> Option<Millis> {
        self.current.map(|attempt| attempt.patience_ends.min(self.plan.deadline))
    }

    fn next(&mut self, now: Millis) -> Option<Effect> {
        self.current = None;
        if self.done {
            return None;
        }
        match self.untried.pop() {
            Some(node) if node == self.plan.me => Some(self.mint()),
            Some(to) => {
                let patience_ends = now.plus(self.plan.accept_timeout_ms);
                self.current = Some(Attempt { node: to, patience_ends });
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
        Effect::Mint(role_of(self.plan.me, &self.plan.homes))
    }

    fn fail(&mut self) -> Effect {
        self.done = true;
        self.current = None;
        Effect::Fail(self.result.clone())
    }
}
