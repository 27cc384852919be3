//! What typed values are by their histories: which parts were written, and which taken away.

use std::collections::{BTreeMap, BTreeSet};

use super::History;
use crate::data_type::sketch::Sketch;
use crate::data_type::{DataType, FieldChange, FieldType, FieldValue, Operation, SetChange, Value};
use crate::stamp::Stamp;

/// A part as the model knows it: which operation wrote it, what it is of, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    operation: usize,
    of: Of,
    content: String,
}

/// What a part is of: parts of the same replace each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// Increments replace nothing.
    Increment,
    Element(String),
    Flag,
    Register,
    Observed,
    Field(String, Box<Of>),
}

#[derive(Default)]
pub(super) struct Model {
    written: Vec<Written>,
    /// For each operation the parts (indexes) that it took away.
    pub(super) taken: Vec<BTreeSet<usize>>,
    /// The stamp of each operation.
    pub(super) stamps: Vec<Stamp>,
}

impl Model {
    fn visible(&self, history: History) -> Vec<usize> {
        let includes = |operation: usize| history >> operation & 1 == 1;
        let taken = self.taken.iter().enumerate().filter(|(operation, _)| includes(*operation));
        let taken: BTreeSet<usize> = taken.flat_map(|(_, parts)| parts.iter().copied()).collect();
        let is_there = |part: &usize| includes(self.written[*part].operation);
        (0..self.written.len()).filter(is_there).filter(|part| !taken.contains(part)).collect()
    }

    /// Performs an operation on what `history` includes, for a client that has seen `seen`.
    pub(super) fn perform(&mut self, operation: &Operation, history: History, seen: History) {
        let number = self.taken.len();
        let (mut writes, mut removes, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        let set = |change: &SetChange, of: &dyn Fn(Of) -> Of| {
            let element = |name: &String| (of(Of::Element(name.clone())), name.clone());
            let adds: Vec<_> = change.add.iter().map(element).collect();
            let removes: Vec<_> = change.remove.iter().map(|name| element(name).0).collect();
            (adds, removes)
        };
        match operation {
            Operation::Increment(by) => writes.push((Of::Increment, by.to_string())),
            Operation::Set(change) => (writes, removes) = set(change, &|of| of),
            Operation::Flag(true) => writes.push((Of::Flag, String::new())),
            Operation::Flag(false) => removes.push(Of::Flag),
            Operation::Assign(text) => writes.push((Of::Register, text.clone())),
            Operation::Observe(hashes) => {
                writes.extend(hashes.iter().map(|hash| (Of::Observed, hash.to_string())));
            }
            Operation::Map { update, remove } => {
                fields.clone_from(remove);
                for (name, change) in update {
                    let of = |of: Of| Of::Field(name.clone(), Box::new(of));
                    match change {
                        FieldChange::Assign(text) => {
                            writes.retain(|(other, _)| *other != of(Of::Register));
                            writes.push((of(Of::Register), text.clone()));
                        }
                        FieldChange::Flag(true) => writes.push((of(Of::Flag), String::new())),
                        FieldChange::Flag(false) => removes.push(of(Of::Flag)),
                        FieldChange::Set(change) => {
                            let (adds, takes) = set(change, &of);
                            writes.extend(adds);
                            removes.extend(takes);
                        }
                    }
                }
            }
        }
        let visible = self.visible(history);
        let is_seen = |part: &Written| seen >> part.operation & 1 == 1;
        let is_of_field =
            |part: &Written| matches!(&part.of, Of::Field(name, _) if fields.contains(name));
        let keeps_all = |of: &Of| matches!(of, Of::Increment | Of::Observed);
        let takes = |part: &Written| {
            let is_written = writes.iter().any(|(of, _)| *of == part.of && !keeps_all(of));
            is_written || is_seen(part) && (removes.contains(&part.of) || is_of_field(part))
        };
        let taken = visible.into_iter().filter(|part| takes(&self.written[*part])).collect();
        self.taken.push(taken);
        let written =
            writes.into_iter().map(|(of, content)| Written { operation: number, of, content });
        self.written.extend(written.collect::<BTreeSet<_>>());
    }

    pub(super) fn value(&self, history: History, data_type: DataType) -> Value {
        let parts: Vec<&Written> =
            self.visible(history).into_iter().map(|part| &self.written[part]).collect();
        let contents = || parts.iter().map(|part| part.content.clone());
        let last = |of: &Of| {
            let candidates = parts.iter().filter(|part| part.of == *of);
            let last = candidates.max_by_key(|part| self.stamps[part.operation]);
            last.map(|part| part.content.clone())
        };
        match data_type {
            DataType::Counter => {
                Value::Counter(contents().map(|text| text.parse::<i128>().unwrap()).sum())
            }
            DataType::Set => Value::Set(contents().collect()),
            DataType::Flag => Value::Flag(!parts.is_empty()),
            DataType::RegisterLww => Value::RegisterLww(last(&Of::Register)),
            DataType::Hll => {
                let mut sketch = Sketch::default();
                contents().for_each(|hash| sketch.observe(hash.parse().unwrap()));
                Value::Hll(sketch.estimate())
            }
            DataType::Map => {
                let mut fields = BTreeMap::new();
                for part in &parts {
                    let Of::Field(name, of) = &part.of else { panic!("{part:?}") };
                    let (of, value) = match **of {
                        Of::Flag => (FieldType::Flag, FieldValue::Flag),
                        Of::Register => {
                            let value = FieldValue::RegisterLww(last(&part.of).unwrap());
                            (FieldType::RegisterLww, value)
                        }
                        Of::Element(_) | Of::Increment | Of::Observed | Of::Field(..) => {
                            let of_set = |other: &&&Written| {
                                matches!(&other.of, Of::Field(field, of)
                                    if field == name && matches!(**of, Of::Element(_)))
                            };
                            let elements = parts.iter().filter(of_set);
                            let elements = elements.map(|part| part.content.clone()).collect();
                            (FieldType::Set, FieldValue::Set(elements))
                        }
                    };
                    fields.insert((name.clone(), of), value);
                }
                Value::Map(fields)
            }
        }
    }
}
