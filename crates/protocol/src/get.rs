//! One GET: whom to ask, when there are enough answers, and who must be repaired.
//!
//! One replica sends its full object, R-1 more send digests. A replica counts towards R only if its full
//! object is in the merge, or its digest equals that of an object in the merge, or says that it holds
//! nothing; one whose digest differs is asked for its object. A slow replica is hedged by asking one
//! more, a silent or refusing one is replaced. A fallback counts only if it holds a hint for the key: an
//! empty fallback must not make a 404. After answering, replicas seen behind are sent the merged object.
//! Sources: DeCandia et al. (SOSP 2007), 4.5, 5; Dean and Barroso, "The Tail at Scale" (2013) for hedging.
//!
//! Driven like [`crate::put`]: `on_reply`, `on_silent`, `on_time`, until [`Get::is_done`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::name::NodeId;
use crate::object::{Object, Version};
use crate::quorum::{Verdict, verdict};
use crate::stamp::Millis;

/// What the coordinator knows when it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The home replicas in the order in which they shall be asked: this node first if it is one.
    pub homes: Vec<NodeId>,
    /// The nodes after the bucket's home replicas, in order of preference.
    pub fallbacks: Vec<NodeId>,
    /// R: answers needed.
    pub needed: u16,
    /// Whether a fallback that holds a hint counts.
    pub sloppy: bool,
    /// After how long a silent replica gets company, in milliseconds; `None` never.
    pub hedge_ms: Option<u64>,
    /// How long a replica may stay silent before another is asked, in milliseconds.
    pub replica_timeout_ms: u64,
    /// When the client is answered at the latest.
    pub deadline: Millis,
}

/// What a replica is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// Its full object.
    Object,
    /// The version of its object.
    Digest,
}

/// Where a replica looks for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Where {
    /// In its own rows.
    Home,
    /// Among the hints it keeps for others.
    Hints,
}

/// What a replica says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Its object; the absent one if it holds nothing.
    Object(Object),
    /// The version of its object.
    Digest(Version),
    /// A fallback without a hint for the key. Not an answer.
    NoHint,
    /// A home replica that has not yet received this partition. Not an answer.
    NotReady,
    /// It cannot say. Not an answer.
    Refused,
}

/// What the coordinator must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a node.
    Ask {
        /// Whom.
        to: NodeId,
        /// For what.
        what: What,
        /// Where it shall look.
        place: Where,
    },
    /// Answer the client. Comes exactly once.
    Answer(Answer),
    /// Send the merged object ([`Get::merged`]) to home replicas seen behind. Comes at most once, last.
    Repair(Vec<NodeId>),
}

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// R replicas agree that this is all they know.
    Read(Object),
    /// Fewer than R could say.
    NoQuorum {
        /// How many could.
        counted: u16,
        /// Nodes that said no, are not ready, or hold no hint.
        refused: Vec<NodeId>,
        /// Nodes that said nothing.
        silent: Vec<NodeId>,
    },
}

/// The machine of one GET.
#[derive(Debug)]
pub struct Get {
    plan: Plan,
    contacts: Vec<Contact>,
    /// Candidates not yet asked, the next one last.
    unasked: Vec<(NodeId, Where)>,
    merged: Object,
    /// The versions of the objects in the merge.
    versions: Vec<Version>,
    hedged: bool,
    answered: bool,
    repaired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    node: NodeId,
    place: Where,
    asked_at: Millis,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(What),
    /// Asked for this, has been silent too long; may still answer.
    Silent(What),
    /// Its object is in the merge.
    Merged(Version),
    /// It says it holds this version.
    Digest(Version),
    /// It cannot say.
    Failed,
    /// It said nothing, and will not any more.
    Gone,
}

impl Get {
    /// Starts asking. Nodes in `down` are asked only when nobody else is left.
    pub fn start(plan: Plan, down: &BTreeSet<NodeId>, now: Millis) -> (Self, Vec<Effect>) {
        assert!(!plan.homes.is_empty() && plan.needed >= 1, "a quorum needs a home replica");
        assert!(usize::from(plan.needed) <= plan.homes.len(), "R is at most N");
        let homes = |is_down: bool| {
            let of = move |node: &&NodeId| down.contains(node) == is_down;
            plan.homes.iter().filter(of).map(|node| (*node, Where::Home))
        };
        let mut order: Vec<(NodeId, Where)> = homes(false).collect();
        if plan.sloppy {
            let up = plan.fallbacks.iter().filter(|node| !down.contains(node));
            order.extend(up.map(|node| (*node, Where::Hints)));
        }
        order.extend(homes(true));
        order.reverse();
        let needed = plan.needed;
        let mut get = Self {
            plan,
            contacts: Vec::new(),
            unasked: order,
            merged: Object::default(),
            versions: Vec::new(),
            hedged: false,
            answered: false,
            repaired: false,
        };
        let mut effects = Vec::new();
        for position in 0..needed {
            let what = if position == 0 { What::Object } else { What::Digest };
            get.ask_next(what, now, &mut effects);
        }
        (get, effects)
    }

    /// A node answered what it was asked.
    pub fn on_reply(&mut self, node: NodeId, reply: Reply, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(contact) = self.contacts.iter_mut().find(|c| c.node == node) else {
            return effects;
        };
        let (State::Waiting(asked) | State::Silent(asked)) = contact.state else { return effects };
        match reply {
            Reply::Object(object) => {
                let version = object.version();
                contact.state = State::Merged(version);
                self.merged.merge(&object);
                self.versions.push(version);
            }
            // The digest again, delivered twice: its object is on the way. (A replica that was asked
            // for an object and holds none may well say so with a digest.)
            Reply::Digest(version) if asked == What::Object && version != Version::ABSENT => {}
            Reply::Digest(version) => contact.state = State::Digest(version),
            Reply::NoHint | Reply::NotReady | Reply::Refused => {
                contact.state = State::Failed;
                self.replace(now, &mut effects);
            }
        }
        self.judge(now, &mut effects);
        effects
    }

    /// Nothing will come from the node any more.
    pub fn on_silent(&mut self, node: NodeId, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        let asked = |c: &&mut Contact| {
            c.node == node && matches!(c.state, State::Waiting(_) | State::Silent(_))
        };
        if let Some(contact) = self.contacts.iter_mut().find(asked) {
            contact.state = State::Gone;
            self.replace(now, &mut effects);
            self.judge(now, &mut effects);
        }
        effects
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        for at in 0..self.contacts.len() {
            let contact = self.contacts[at];
            let State::Waiting(what) = contact.state else { continue };
            if now >= contact.asked_at.plus(self.plan.replica_timeout_ms) {
                self.contacts[at].state = State::Silent(what);
                self.replace(now, &mut effects);
            } else if self.may_hedge() && now >= self.hedge_at(&contact) {
                self.hedged = true;
                self.ask_next(what, now, &mut effects);
            }
        }
        if !self.answered && now >= self.plan.deadline {
            let answer = self.no_quorum();
            self.answer(answer, &mut effects);
        }
        self.judge(now, &mut effects);
        effects
    }

    /// When [`Get::on_time`] must be called next, if nothing happens before.
    pub fn next_wake(&self) -> Option<Millis> {
        let mut wake = (!self.answered).then_some(self.plan.deadline);
        for contact in self.contacts.iter().filter(|c| matches!(c.state, State::Waiting(_))) {
            let mut at = contact.asked_at.plus(self.plan.replica_timeout_ms);
            if self.may_hedge() {
                at = at.min(self.hedge_at(contact));
            }
            wake = Some(wake.map_or(at, |wake| wake.min(at)));
        }
        wake
    }

    /// Whether the client was answered and nobody is waited for any more.
    pub fn is_done(&self) -> bool {
        self.answered && self.repaired
    }

    /// Whether a slow replica was given company.
    pub fn is_hedged(&self) -> bool {
        self.hedged
    }

    /// The merge of all objects received.
    pub fn merged(&self) -> &Object {
        &self.merged
    }

    fn judge(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.answered {
            self.fetch_differing(now, effects);
            let counted = self.counted();
            match verdict(self.plan.needed, counted, self.possible()) {
                Verdict::Reached => self.answer(Answer::Read(self.merged.clone()), effects),
                Verdict::Impossible => {
                    let answer = self.no_quorum();
                    self.answer(answer, effects);
                }
                Verdict::Pending => {}
            }
        }
        let waiting = self.contacts.iter().any(|c| matches!(c.state, State::Waiting(_)));
        if self.answered && !waiting && !self.repaired {
            self.repaired = true;
            let behind = self.behind();
            if !behind.is_empty() {
                effects.push(Effect::Repair(behind));
            }
        }
    }

    /// Asks for the objects behind digests that no object in the merge has, once a full object is in (or
    /// none will come).
    fn fetch_differing(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let full = |c: &Contact| c.state == State::Waiting(What::Object);
        if self.versions.is_empty() && self.contacts.iter().any(full) {
            return;
        }
        for at in 0..self.contacts.len() {
            let contact = self.contacts[at];
            let State::Digest(version) = contact.state else { continue };
            if !self.agrees(version) {
                let state = State::Waiting(What::Object);
                self.contacts[at] = Contact { asked_at: now, state, ..contact };
                let (to, place) = (contact.node, contact.place);
                effects.push(Effect::Ask { to, what: What::Object, place });
                if self.versions.is_empty() {
                    return; // the others may agree with this one
                }
            }
        }
    }

    fn replace(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.answered {
            return;
        }
        let has_object =
            |c: &Contact| matches!(c.state, State::Waiting(What::Object) | State::Merged(_));
        let any = self.contacts.iter().any(has_object);
        self.ask_next(if any { What::Digest } else { What::Object }, now, effects);
    }

    fn ask_next(&mut self, what: What, now: Millis, effects: &mut Vec<Effect>) {
        let Some((node, place)) = self.unasked.pop() else { return };
        let state = State::Waiting(what);
        self.contacts.push(Contact { node, place, asked_at: now, state });
        effects.push(Effect::Ask { to: node, what, place });
    }

    fn may_hedge(&self) -> bool {
        let spare_home = matches!(self.unasked.last(), Some((_, Where::Home)));
        !self.answered && !self.hedged && self.plan.hedge_ms.is_some() && spare_home
    }

    fn hedge_at(&self, contact: &Contact) -> Millis {
        contact.asked_at.plus(self.plan.hedge_ms.unwrap_or(self.plan.replica_timeout_ms))
    }

    fn answer(&mut self, answer: Answer, effects: &mut Vec<Effect>) {
        self.answered = true;
        effects.push(Effect::Answer(answer));
    }

    /// Whether a replica with this version has nothing that the merge lacks.
    fn agrees(&self, version: Version) -> bool {
        version == Version::ABSENT || self.versions.contains(&version)
    }

    fn counted(&self) -> u16 {
        let counts = |c: &&Contact| match c.state {
            State::Merged(_) => true,
            State::Digest(version) => self.agrees(version),
            State::Waiting(_) | State::Silent(_) | State::Failed | State::Gone => false,
        };
        self.contacts.iter().filter(counts).count() as u16
    }

    /// How many more could still count.
    fn possible(&self) -> u16 {
        let open = |c: &&Contact| match c.state {
            State::Waiting(_) | State::Silent(_) => true,
            State::Digest(version) => !self.agrees(version),
            State::Merged(_) | State::Failed | State::Gone => false,
        };
        (self.contacts.iter().filter(open).count() + self.unasked.len()) as u16
    }

    fn no_quorum(&self) -> Answer {
        let nodes = |of: fn(&State) -> bool| {
            self.contacts.iter().filter(|c| of(&c.state)).map(|c| c.node).collect()
        };
        Answer::NoQuorum {
            counted: self.counted(),
            refused: nodes(|state| *state == State::Failed),
            silent: nodes(|state| {
                matches!(state, State::Waiting(_) | State::Silent(_) | State::Gone)
            }),
        }
    }

    /// Home replicas whose last word differs from the merge.
    fn behind(&self) -> Vec<NodeId> {
        if self.merged.is_absent() {
            return Vec::new();
        }
        let merged = self.merged.version();
        let differs = |c: &&Contact| match c.state {
            State::Merged(version) | State::Digest(version) => {
                c.place == Where::Home && version != merged
            }
            State::Waiting(_) | State::Silent(_) | State::Failed | State::Gone => false,
        };
        self.contacts.iter().filter(differs).map(|c| c.node).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Actor, Dot};
    use crate::object::{Metadata, Sibling, WriteId};
    use crate::stamp::Stamp;

    /// A node answers truly (as often as it likes), fails in some way, or time passes.
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

    /// The object with these of three writes side by side; the fourth bit is a write over all.
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
                deadline: Millis(deadline),
            };
            (plan, (0..nodes).filter(|at| down & (1 << at) != 0).map(node).collect())
        }
    }

    /// A bystander that knows what each node holds and sees what it was asked for.
    struct Naive {
        plan: Plan,
        held: Vec<Object>,
        asked: BTreeMap<NodeId, Vec<What>>,
        /// The last thing each node said, if it counts.
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
                        let for_more = asked.as_slice() == [What::Digest] && what == What::Object;
                        assert!(asked.is_empty() || for_more, "{to} was asked twice");
                        asked.push(what);
                        self.said.remove(&to); // only its object counts from now on
                        assert_eq!(place == Where::Home, self.plan.homes.contains(&to));
                        assert!(self.plan.sloppy || place == Where::Home);
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

        /// A node counts only if all that it said is in the merge.
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
                    assert_eq!(*object, merged);
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

        /// A node that is listened to and was asked for this says something.
        fn hears(&mut self, from: NodeId, asked: What, reply: &Reply) {
            match reply {
                Reply::Object(object) => {
                    self.objects.push(object.clone());
                    self.said.insert(from, object.version());
                }
                Reply::Digest(version) => {
                    if asked == What::Digest || *version == Version::ABSENT {
                        self.said.insert(from, *version);
                    }
                }
                Reply::NoHint | Reply::NotReady | Reply::Refused => {
                    self.said.remove(&from);
                }
            }
        }

        /// What a node answers to what it was asked for last.
        fn reply(&self, number: u8) -> Option<Reply> {
            let held = self.held[usize::from(number)].clone();
            match self.asked.get(&node(number))?.last()? {
                What::Object => Some(Reply::Object(held)),
                What::Digest => Some(Reply::Digest(held.version())),
            }
        }
    }

    fn happens(get: &mut Get, naive: &mut Naive, event: Event, now: &mut Millis) {
        let (from, reply) = match event {
            Event::Answers(number) => (number, naive.reply(number)),
            Event::Digest(number, held) => {
                (number, Some(Reply::Digest(naive.held[held].version())))
            }
            Event::Fails(number, how) => {
                let failures = [Reply::NoHint, Reply::NotReady, Reply::Refused];
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
            let mut now = Millis(0);
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
            let (mut get, mut effects) = Get::start(plan.clone(), &BTreeSet::new(), Millis(0));
            let mut answered = BTreeSet::new();
            let mut read = None;
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Ask { to, what, .. } => {
                        answered.insert(to);
                        let number: usize = to.as_str()[1..].parse().unwrap();
                        let held = object(held[number]);
                        let reply = match what {
                            What::Object => Reply::Object(held),
                            What::Digest => Reply::Digest(held.version()),
                        };
                        effects.extend(get.on_reply(to, reply, Millis(1)));
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
            prop_assert_eq!(read, Some(expected));
            prop_assert!(get.is_done());
        }
    }
}
