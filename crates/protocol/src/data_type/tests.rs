#![allow(clippy::unwrap_used)]

//! Typed values against the truth: random histories of replicas, checked against a model with causal
//! histories and no clocks.
//!
//! The model knows for every replica, message and context which operations it includes, and for every
//! operation which parts it wrote and which it took away. The value follows from that: the parts that were
//! written and that none of the others took away.

mod model;

use proptest::prelude::*;

use self::model::Model;
use super::sketch::hash_of;
use super::*;
use crate::bucket::Conflicts;
use crate::clock::{Actor, Clock};
use crate::name::NodeId;
use crate::object::{Object, WriteId};
use crate::row::{Coordinator, Draft, Incarnation, Limits, MintError, Minted, Row};
use crate::stamp::Stamp;
use crate::time::WallTime;
use crate::view::View;

const REPLICAS: usize = 3;
const CLIENTS: usize = 2;
const LIMITS: Limits = Limits { siblings_max: 3, object_bytes_max: 1 << 20 };

/// A set of operations, one bit each.
type History = u128;

#[derive(Clone, Debug)]
enum Step {
    Read { client: usize, at: usize },
    Change { client: usize, at: usize, operation: Operation },
    Send { from: usize },
    Deliver { message: usize, at: usize },
    Restart { at: usize },
}

fn steps(data_type: DataType) -> impl Strategy<Value = Vec<Step>> {
    let message = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 16));
    let step = prop_oneof![
        2 => (0..CLIENTS, 0..REPLICAS).prop_map(|(client, at)| Step::Read { client, at }),
        5 => (0..CLIENTS, 0..REPLICAS, operations(data_type)).prop_map(|(client, at, operation)| {
            Step::Change { client, at, operation }
        }),
        3 => (0..REPLICAS).prop_map(|from| Step::Send { from }),
        5 => (message, 0..REPLICAS).prop_map(|(message, at)| Step::Deliver { message, at }),
        1 => (0..REPLICAS).prop_map(|at| Step::Restart { at }),
    ];
    prop::collection::vec(step, 1..50)
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abc]", 0..3)
}

fn set_changes() -> impl Strategy<Value = SetChange> {
    (names(), names()).prop_map(|(add, remove)| SetChange { add, remove })
}

fn operations(data_type: DataType) -> BoxedStrategy<Operation> {
    let valid = |operation: &Operation| operation.check().is_ok();
    match data_type {
        DataType::Counter => (-9..10i64).prop_map(Operation::Increment).boxed(),
        DataType::Set => set_changes().prop_map(Operation::Set).prop_filter("empty", valid).boxed(),
        DataType::Flag => any::<bool>().prop_map(Operation::Flag).boxed(),
        DataType::RegisterLww => "[a-z]{0,2}".prop_map(Operation::Assign).boxed(),
        DataType::Hll => prop::collection::vec("[a-d]{0,3}", 1..4)
            .prop_map(|texts| Operation::Observe(texts.iter().map(|t| hash_of(t)).collect()))
            .boxed(),
        DataType::Map => {
            let field = prop_oneof![
                "[a-z]{0,2}".prop_map(FieldChange::Assign),
                any::<bool>().prop_map(FieldChange::Flag),
                set_changes()
                    .prop_filter("empty", |set| set.check().is_ok())
                    .prop_map(FieldChange::Set),
            ];
            let update = prop::collection::vec(("[xy]", field), 0..3);
            (update, prop::collection::vec("[xy]", 0..2))
                .prop_map(|(update, remove)| Operation::Map { update, remove })
                .prop_filter("empty", valid)
                .boxed()
        }
    }
}

#[derive(Clone, Default)]
struct Known {
    row: Row,
    history: History,
}

struct World {
    data_type: DataType,
    model: Model,
    replicas: [Known; REPLICAS],
    incarnations: [u64; REPLICAS],
    messages: Vec<Known>,
    contexts: [(Clock, History); CLIENTS],
    now: u64,
}

impl World {
    fn new(data_type: DataType) -> Self {
        Self {
            data_type,
            model: Model::default(),
            replicas: Default::default(),
            incarnations: [1, 2, 3],
            messages: Vec::new(),
            contexts: Default::default(),
            now: 1_000,
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match step {
            Step::Read { client, at } => {
                let known = &self.replicas[*at];
                self.contexts[*client] = (known.row.object.clock.clone(), known.history);
            }
            Step::Change { client, at, operation } => self.change(*client, *at, operation),
            Step::Send { from } => self.messages.push(self.replicas[*from].clone()),
            Step::Deliver { message, at } => {
                let count = self.messages.len();
                let Some(message) = self.messages.get(message % count.max(1)).cloned() else {
                    return;
                };
                self.join(&message, *at);
            }
            Step::Restart { at } => self.incarnations[*at] += 10,
        }
    }

    fn join(&mut self, other: &Known, at: usize) {
        let known = &mut self.replicas[at];
        known.row.merge(&other.row.object, WallTime(self.now));
        known.history |= other.history;
    }

    fn change(&mut self, client: usize, at: usize, operation: &Operation) {
        let (context, seen) = self.contexts[client].clone();
        let by = Coordinator {
            node: NodeId::parse("n1").unwrap(),
            incarnation: Incarnation(self.incarnations[at]),
            fresh_actor: Actor(self.now),
            now: WallTime(self.now),
        };
        let number = self.model.taken.len();
        if number == 128 {
            return;
        }
        let known = &mut self.replicas[at];
        let draft = draft(operation, context.clone(), number as u8);
        match known.row.mint(&draft, &by, &LIMITS) {
            Ok(Minted::New(dot)) => {
                assert!(known.row.object.clock.covers(dot));
                self.model.perform(operation, known.history, seen);
                self.model.stamps.push(Stamp::after(known.row.object.stamp_max(), WallTime(0)));
                known.history |= 1 << number;
            }
            Ok(Minted::Already(_)) => panic!("a new write is known"),
            Err(MintError::ContextAhead) => {
                assert!(!known.row.object.clock.covers_all(&context));
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&self) {
        for known in &self.replicas {
            let expected = self.model.value(known.history, self.data_type);
            let object = &known.row.object;
            assert_eq!(Value::of(object, self.data_type), expected, "{object:?}");
            assert_eq!(Object::decode(object.to_bytes()).as_ref(), Ok(object));
            assert!(!object.is_conflict() && object.shown().is_empty());
            assert_eq!(
                View::of(object, Conflicts::Siblings, WallTime(0)) == View::Typed,
                object.has_parts()
            );
        }
    }

    /// All replicas hear of all others, in this order and in another one.
    fn converge(mut self) {
        let before = self.replicas.clone();
        for (from, at) in [(0, 1), (1, 2), (2, 0), (2, 1)] {
            self.join(&self.replicas[from].clone(), at);
        }
        let [first, second, third] = &self.replicas;
        assert_eq!(first.row.object, second.row.object);
        assert_eq!(first.row.object.to_bytes(), third.row.object.to_bytes());
        let mut other = before[2].row.object.clone();
        let mut inner = before[1].row.object.clone();
        inner.merge(&before[0].row.object);
        other.merge(&inner);
        other.merge(&inner);
        assert_eq!(other, first.row.object, "merge depends on the order");
    }
}

fn draft(operation: &Operation, context: Clock, number: u8) -> Draft {
    Draft {
        context,
        write_id: WriteId([number + 1; 16]),
        operation: Some(operation.clone()),
        ..Draft::default()
    }
}

fn holds(data_type: DataType, steps: &[Step]) {
    let mut world = World::new(data_type);
    for step in steps {
        world.step(step);
        world.check();
    }
    world.converge();
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn a_counter_is_the_sum_of_what_it_includes(steps in steps(DataType::Counter)) {
        holds(DataType::Counter, &steps);
    }

    #[test]
    fn a_set_has_what_no_remove_has_seen(steps in steps(DataType::Set)) {
        holds(DataType::Set, &steps);
    }

    #[test]
    fn a_flag_is_on_if_an_enabling_was_not_seen(steps in steps(DataType::Flag)) {
        holds(DataType::Flag, &steps);
    }

    #[test]
    fn a_register_has_what_was_written_last(steps in steps(DataType::RegisterLww)) {
        holds(DataType::RegisterLww, &steps);
    }

    #[test]
    fn a_map_has_the_fields_that_no_remove_has_seen(steps in steps(DataType::Map)) {
        holds(DataType::Map, &steps);
    }

    #[test]
    fn an_estimate_is_that_of_all_that_was_added(steps in steps(DataType::Hll)) {
        holds(DataType::Hll, &steps);
    }

    #[test]
    fn operations_round_trip(operation in prop_oneof![
        operations(DataType::Counter), operations(DataType::Set), operations(DataType::Map),
        operations(DataType::Flag), operations(DataType::RegisterLww), operations(DataType::Hll),
    ], cut in any::<prop::sample::Index>()) {
        let bytes = operation.encode();
        prop_assert_eq!(Operation::decode(&bytes), Some(operation));
        let cut = cut.index(bytes.len());
        prop_assert!(Operation::decode(&bytes[..cut]).is_none());
    }
}

fn by(incarnation: u64, fresh_actor: u64) -> Coordinator {
    Coordinator {
        node: NodeId::parse("n1").unwrap(),
        incarnation: Incarnation(incarnation),
        fresh_actor: Actor(fresh_actor),
        now: WallTime(5),
    }
}

fn add(elements: &[&str]) -> Operation {
    let add = elements.iter().map(|element| (*element).to_owned()).collect();
    Operation::Set(SetChange { add, remove: Vec::new() })
}

#[test]
fn a_retry_at_its_minter_counts_once_and_a_deleted_key_can_come_back() {
    let mut row = Row::default();
    let five = draft(&Operation::Increment(5), Clock::default(), 1);
    assert!(matches!(row.mint(&five, &by(1, 10), &LIMITS), Ok(Minted::New(_))));
    assert!(matches!(row.mint(&five, &by(1, 10), &LIMITS), Ok(Minted::Already(_))));
    assert_eq!(Value::of(&row.object, DataType::Counter), Value::Counter(5));
    let delete =
        Draft { operation: None, ..draft(&Operation::Flag(true), row.object.clock.clone(), 2) };
    row.mint(&delete, &by(1, 10), &LIMITS).unwrap();
    assert!(row.object.is_deleted());
    assert_eq!(Value::of(&row.object, DataType::Counter), Value::Counter(0));
    row.mint(&draft(&Operation::Increment(3), Clock::default(), 3), &by(1, 10), &LIMITS).unwrap();
    assert!(!row.object.is_deleted());
    assert_eq!(Value::of(&row.object, DataType::Counter), Value::Counter(3));
}

/// Another increment at the same node takes the place of the first one's part.
#[test]
fn a_remembered_request_counts_once_whatever_came_between() {
    let (mut row, mut other) = (Row::default(), Row::default());
    let increment = |number| Draft {
        is_remembered: true,
        ..draft(&Operation::Increment(1), Clock::default(), number)
    };
    let mint = |row: &mut Row, number| row.mint(&increment(number), &by(1, 10), &LIMITS).unwrap();
    for number in 0..REMEMBERED_MAX as u8 {
        assert!(matches!(mint(&mut row, number), Minted::New(_)));
    }
    other.merge(&row.object, WallTime(6));
    for number in 0..REMEMBERED_MAX as u8 {
        assert!(matches!(mint(&mut row, number), Minted::Already(_)), "{number}");
        assert!(matches!(mint(&mut other, number), Minted::Already(_)), "{number} elsewhere");
    }
    assert_eq!(Value::of(&row.object, DataType::Counter), Value::Counter(REMEMBERED_MAX as i128));
    assert!(matches!(mint(&mut row, 100), Minted::New(_)));
    assert!(matches!(mint(&mut row, 0), Minted::New(_)), "the oldest is forgotten");
    let read = Object::decode(row.object.to_bytes()).unwrap();
    assert_eq!(read, row.object);
}

#[test]
fn limits_hold_for_what_grows_and_never_keep_anybody_from_removing() {
    let mut row = Row::default();
    let many: Vec<String> = (0..PARTS_MAX).map(|at| at.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    row.mint(&draft(&add(&many), Clock::default(), 1), &by(1, 10), &LIMITS).unwrap();
    let one_more = row.mint(&draft(&add(&["x"]), Clock::default(), 2), &by(1, 10), &LIMITS);
    assert!(matches!(one_more, Err(MintError::TooManyParts { .. })));
    row.mint(&draft(&add(&["7"]), Clock::default(), 3), &by(1, 10), &LIMITS).unwrap();
    let remove = Operation::Set(SetChange { add: Vec::new(), remove: vec!["7".to_owned()] });
    row.mint(&draft(&remove, Clock::default(), 4), &by(1, 10), &LIMITS).unwrap();
    assert_eq!(row.object.siblings.len(), PARTS_MAX, "nothing was seen");
    let seen = row.object.clock.clone();
    row.mint(&draft(&remove, seen, 5), &by(1, 10), &LIMITS).unwrap();
    assert_eq!(row.object.siblings.len(), PARTS_MAX - 1);

    let long = "e".repeat(NAME_BYTES_MAX);
    let large: Vec<String> = (0..PARTS_BYTES_MAX / NAME_BYTES_MAX + 1)
        .map(|at| format!("{at:04}{}", &long[4..]))
        .collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    let refused =
        Row::default().mint(&draft(&add(&large), Clock::default(), 1), &by(1, 10), &LIMITS);
    assert!(matches!(refused, Err(MintError::PartsTooLarge { .. })));
    let mut full = Row::default();
    full.mint(&draft(&Operation::Increment(i64::MAX), Clock::default(), 1), &by(1, 10), &LIMITS)
        .unwrap();
    full.mint(&draft(&Operation::Increment(i64::MAX), Clock::default(), 2), &by(1, 10), &LIMITS)
        .unwrap();
    let over =
        full.mint(&draft(&Operation::Increment(2), Clock::default(), 3), &by(1, 10), &LIMITS);
    assert_eq!(over, Err(MintError::CounterFull));
}

#[test]
fn an_operation_with_bad_strings_is_refused_by_name() {
    let set = |add: Vec<String>| Operation::Set(SetChange { add, remove: Vec::new() });
    assert_eq!(set(Vec::new()).check(), Err(InvalidOperation::Empty));
    let long = set(vec!["e".repeat(NAME_BYTES_MAX + 1)]).check().unwrap_err();
    assert!(long.to_string().contains("an element has 4097 bytes"), "{long}");
    let update = vec![(String::new(), FieldChange::Flag(true))];
    let nameless = Operation::Map { update, remove: Vec::new() };
    assert_eq!(nameless.check(), Err(InvalidOperation::NoName));
    assert_eq!(Operation::decode(&nameless.encode()), None);
    assert_eq!(Operation::decode(&[0xff; 3]), None);
}
