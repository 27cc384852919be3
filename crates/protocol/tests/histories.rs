//! Versions against the truth: random histories of replicas, checked against a reference model.
//!
//! The model tracks, for every write, which writes its client had seen, and for every row and
//! message, which writes it includes: plain sets, no clocks. From these follows everything that
//! versions must say:
//! * a clock covers the dot of a write if and only if its holder includes it;
//! * the siblings are exactly the included writes that none of the others had seen: no write is
//!   lost, none comes back, none is a false sibling, and all are pairwise concurrent;
//! * no dot names two writes.
//!
//! Histories reorder, repeat and lose messages; nodes lose data (a row reverts to an earlier state,
//! under a new incarnation), drop rows, and start on copies of another node's data. The model
//! follows Riak's `eqc/kv679_eqc.erl`, which was written after such a history lost acknowledged
//! writes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use quorate_protocol::clock::{Actor, Clock, Dot};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{Object, WriteId};
use quorate_protocol::row::{Coordinator, Draft, Incarnation, Limits, Minted, Row};
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::WallTime;

const REPLICAS: usize = 4;
const CLIENTS: usize = 3;
const STEPS_MAX: usize = 60;
const LIMITS: Limits = Limits { siblings_max: 1000, object_bytes_max: 1 << 20 };

/// A set of writes, one bit each.
type Writes = u128;

/// One step of a history. Numbers are taken modulo the number of choices.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A client reads the merge of some replicas (a bit each) and keeps the context.
    Read { client: usize, replicas: u8 },
    /// A client writes with its context, or with none.
    Write { client: usize, at: usize, blind: bool, delete: bool, supersede_all: bool },
    /// A client's request reaches another coordinator as well.
    Retry { write: usize, at: usize },
    /// A replica sends its object; the message may arrive never, once or several times, now or much
    /// later.
    Send { from: usize },
    /// A message arrives.
    Deliver { message: usize, at: usize },
    /// A row reverts to an earlier state, under a new incarnation (an unsynced crash, a backup).
    Forget { at: usize, to: usize },
    /// A node restarts without a proven clean stop, on a row that lost nothing.
    Restart { at: usize },
    /// A row is dropped (reaped, handed off); the incarnation stays the same.
    Drop { at: usize },
    /// A node starts on a copy of another node's data directory.
    Copy { from: usize, to: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = any::<prop::sample::Index>;
    let of = move |max: usize| n().prop_map(move |index| index.index(max));
    let any_of = move || of(1 << 16);
    let step = prop_oneof![
        3 => (of(CLIENTS), 1..16u8).prop_map(|(client, replicas)| Step::Read { client, replicas }),
        6 => (of(CLIENTS), of(REPLICAS), any::<[bool; 2]>(), prop::bool::weighted(0.1)).prop_map(
            |(client, at, [blind, delete], supersede_all)| {
                Step::Write { client, at, blind, delete, supersede_all }
            }
        ),
        1 => (any_of(), of(REPLICAS)).prop_map(|(write, at)| Step::Retry { write, at }),
        4 => of(REPLICAS).prop_map(|from| Step::Send { from }),
        6 => (any_of(), of(REPLICAS)).prop_map(|(message, at)| Step::Deliver { message, at }),
        2 => (of(REPLICAS), any_of()).prop_map(|(at, to)| Step::Forget { at, to }),
        1 => of(REPLICAS).prop_map(|at| Step::Restart { at }),
        1 => of(REPLICAS).prop_map(|at| Step::Drop { at }),
        1 => (of(REPLICAS), of(REPLICAS)).prop_map(|(from, to)| Step::Copy { from, to }),
    ];
    prop::collection::vec(step, 1..STEPS_MAX)
}

/// A write as the model sees it.
#[derive(Debug)]
struct Write {
    dot: Dot,
    draft: Draft,
    /// What its client had seen.
    context: Writes,
    /// What it supersedes: that, and in an `lww` bucket everything its coordinator included.
    seen: Writes,
}

/// An object and the model's view of it.
#[derive(Clone, Debug, Default)]
struct Known {
    row: Row,
    heard: Writes,
}

#[derive(Debug, Default)]
struct Client {
    clock: Clock,
    stamp: Stamp,
    seen: Writes,
}

/// Whether a node that lost data gets a new incarnation, as it must.
#[derive(Clone, Copy, PartialEq)]
enum Forgetting {
    Noticed,
    Unnoticed,
}

struct World {
    forgetting: Forgetting,
    replicas: [Known; REPLICAS],
    incarnations: [u64; REPLICAS],
    /// Every state each row ever had.
    pasts: [Vec<Known>; REPLICAS],
    clients: [Client; CLIENTS],
    messages: Vec<Known>,
    writes: Vec<Write>,
    dots: BTreeMap<Dot, usize>,
    random: u64,
    now: u64,
}

type Verdict = Result<(), String>;

impl World {
    fn new(forgetting: Forgetting) -> Self {
        Self {
            forgetting,
            replicas: Default::default(),
            incarnations: std::array::from_fn(|at| at as u64 + 1),
            pasts: Default::default(),
            clients: Default::default(),
            messages: Vec::new(),
            writes: Vec::new(),
            dots: BTreeMap::new(),
            random: 1000,
            now: 0,
        }
    }

    /// Runs a history and checks every row after every step.
    fn run(forgetting: Forgetting, steps: &[Step]) -> Result<Self, String> {
        let mut world = Self::new(forgetting);
        for step in steps {
            world.now += 1;
            world.take(*step)?;
            for at in 0..REPLICAS {
                world.check(&world.replicas[at])?;
                world.pasts[at].push(world.replicas[at].clone());
            }
        }
        Ok(world)
    }

    fn take(&mut self, step: Step) -> Verdict {
        match step {
            Step::Read { client, replicas } => self.read(client, replicas)?,
            Step::Write { client, at, blind, delete, supersede_all } => {
                let nothing = Client::default();
                let from = if blind { &nothing } else { &self.clients[client] };
                let draft = Draft {
                    context: from.clock.clone(),
                    context_stamp: from.stamp,
                    write_id: WriteId((self.writes.len() as u128 + 1).to_le_bytes()),
                    supersede_all,
                    value: (!delete).then(|| Bytes::from(self.writes.len().to_string())),
                    ..Draft::default()
                };
                let context = from.seen;
                self.mint(at, draft, context)?;
            }
            Step::Retry { write, at } if !self.writes.is_empty() => {
                let Write { draft, context, .. } = &self.writes[write % self.writes.len()];
                self.mint(at, draft.clone(), *context)?;
            }
            Step::Send { from } => self.messages.push(self.replicas[from].clone()),
            Step::Deliver { message, at } if !self.messages.is_empty() => {
                let message = &self.messages[message % self.messages.len()];
                let replica = &mut self.replicas[at];
                let before = replica.row.object.clone();
                let changed = replica.row.merge(&message.row.object, WallTime(1));
                replica.heard |= message.heard;
                claim(
                    changed == (before != replica.row.object),
                    "merge reports wrongly whether the row changed",
                )?;
            }
            Step::Forget { at, to } if !self.pasts[at].is_empty() => {
                self.replicas[at] = self.pasts[at][to % self.pasts[at].len()].clone();
                self.restart(at);
            }
            Step::Restart { at } => self.restart(at),
            Step::Drop { at } => self.replicas[at] = Known::default(),
            Step::Copy { from, to } if from != to => {
                self.replicas[to] = self.replicas[from].clone();
                self.restart(to);
            }
            Step::Retry { .. } | Step::Deliver { .. } | Step::Forget { .. } | Step::Copy { .. } => {
            }
        }
        Ok(())
    }

    fn restart(&mut self, at: usize) {
        if self.forgetting == Forgetting::Noticed {
            self.random += 1;
            self.incarnations[at] = self.random;
        }
    }

    fn read(&mut self, client: usize, replicas: u8) -> Verdict {
        let mut merged = Known::default();
        for replica in (0..REPLICAS).filter(|at| replicas & (1 << at) != 0) {
            merged.row.object.merge(&self.replicas[replica].row.object);
            merged.heard |= self.replicas[replica].heard;
        }
        self.check(&merged)?;
        let object = merged.row.object;
        let (stamp, clock) = (object.stamp_max(), object.clock);
        self.clients[client] = Client { clock, stamp, seen: merged.heard };
        Ok(())
    }

    fn mint(&mut self, at: usize, draft: Draft, context: Writes) -> Verdict {
        self.random += 1;
        let by = Coordinator {
            node: NodeId::parse(&format!("n{at}")).unwrap(),
            incarnation: Incarnation(self.incarnations[at]),
            fresh_actor: Actor(self.random),
            now: WallTime(self.now),
        };
        let replica = &mut self.replicas[at];
        let before = replica.clone();
        let minted = replica.row.mint(&draft, &by, &LIMITS).map_err(|e| e.to_string())?;
        let dot = match minted {
            Minted::New(dot) => dot,
            Minted::Already(_) => {
                return claim(replica.row == before.row, "a retry changed the row");
            }
        };
        let sibling = replica.row.object.siblings.iter().find(|s| s.dot == dot).unwrap().clone();
        claim(sibling.value == draft.value, "the sibling has a different value")?;
        let covered = before.row.object.siblings.iter().filter(|s| !replica.row.object.has(s.dot));
        let seen_stamps = covered.map(|s| s.stamp).chain([draft.context_stamp]);
        claim(seen_stamps.max() < Some(sibling.stamp), "a stamp before one it covers")?;
        claim(self.dots.insert(dot, self.writes.len()).is_none(), "one dot for two writes")?;
        let seen = if draft.supersede_all { before.heard | context } else { context };
        replica.heard |= seen | (1 << self.writes.len());
        self.writes.push(Write { dot, draft, context, seen });
        Ok(())
    }

    /// Checks an object against the writes its holder includes.
    fn check(&self, known: &Known) -> Verdict {
        let object = &known.row.object;
        object.check().map_err(|e| e.to_string())?;
        let heard = |at: &usize| known.heard & (1 << at) != 0;
        let all = 0..self.writes.len();
        for at in all.clone() {
            let covers = object.clock.covers(self.writes[at].dot);
            claim(covers == heard(&at), "the clock does not cover exactly the included writes")?;
        }
        let seen_by_others =
            all.clone().filter(heard).fold(0, |seen, at| seen | self.writes[at].seen);
        let mut left: Vec<Dot> = all
            .filter(|at| heard(at) && seen_by_others & (1 << at) == 0)
            .map(|at| self.writes[at].dot)
            .collect();
        left.sort();
        let siblings: Vec<Dot> = object.siblings.iter().map(|s| s.dot).collect();
        claim(siblings == left, "the siblings are not exactly the unseen writes")?;
        claim(object.is_absent() == siblings.is_empty(), "a clock, but no sibling")
    }

    /// The distinct objects of the history, each with the writes its holder included.
    fn objects(&self) -> Vec<Known> {
        let mut objects: Vec<Known> = vec![Known::default()];
        for age in 0..self.pasts[0].len() {
            for past in &self.pasts {
                let known = &past[past.len() - 1 - age];
                if objects.len() < 10 && objects.iter().all(|o| o.row.object != known.row.object) {
                    objects.push(known.clone());
                }
            }
        }
        objects
    }
}

fn claim(holds: bool, otherwise: &str) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn merged(a: &Object, b: &Object) -> Object {
    let mut merged = a.clone();
    merged.merge(b);
    merged
}

fn config(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(persistence)),
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn versions_tell_the_truth_in_every_history(steps in steps()) {
        let lived = World::run(Forgetting::Noticed, &steps).map(|_| ());
        prop_assert_eq!(lived, Ok(()));
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn merge_is_commutative_associative_and_idempotent(steps in steps()) {
        let world = World::run(Forgetting::Noticed, &steps).unwrap();
        let objects = world.objects();
        for a in &objects {
            let object = &a.row.object;
            prop_assert_eq!(&merged(object, object), object);
            for b in &objects {
                let ab = merged(object, &b.row.object);
                prop_assert_eq!(&ab, &merged(&b.row.object, object));
                prop_assert_eq!(&merged(&ab, object), &ab);
                let heard = a.heard | b.heard;
                let known = Known { row: Row { object: ab.clone(), ..Row::default() }, heard };
                prop_assert_eq!(world.check(&known), Ok(()));
                for c in &objects {
                    let bc = merged(&b.row.object, &c.row.object);
                    prop_assert_eq!(merged(&ab, &c.row.object), merged(object, &bc));
                }
            }
        }
    }

    #[test]
    fn versions_are_equal_if_and_only_if_objects_are(steps in steps()) {
        let objects = World::run(Forgetting::Noticed, &steps).unwrap().objects();
        for a in objects.iter().map(|known| &known.row.object) {
            for b in objects.iter().map(|known| &known.row.object) {
                prop_assert_eq!(a.version() == b.version(), a == b);
            }
        }
    }

    #[test]
    fn every_object_round_trips(steps in steps()) {
        for Known { row, .. } in World::run(Forgetting::Noticed, &steps).unwrap().objects() {
            prop_assert_eq!(Object::decode(row.object.to_bytes()), Ok(row.object.clone()));
            let mut bytes = bytes::BytesMut::new();
            row.encode(&mut bytes);
            let bytes = bytes.freeze();
            prop_assert_eq!(Row::encoded_version(&bytes), Some(row.object.version()));
            prop_assert_eq!(Row::encoded_object(&bytes), Some(row.object.to_bytes()));
            prop_assert_eq!(Row::decode(bytes), Ok(row));
        }
    }
}

/// Checks that the model can fail: a row that lost its writes and keeps its actor uses a dot twice.
#[test]
fn the_model_notices_a_reused_dot() {
    let write = Step::Write { client: 0, at: 0, blind: true, delete: false, supersede_all: false };
    let history = [write, Step::Send { from: 0 }, write, Step::Forget { at: 0, to: 0 }, write];
    assert!(World::run(Forgetting::Noticed, &history).is_ok());
    let caught = World::run(Forgetting::Unnoticed, &history).map(|_| ());
    assert_eq!(caught, Err("one dot for two writes".to_owned()));
}
