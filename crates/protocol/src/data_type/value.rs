//! What a client is shown of a typed object.

use std::collections::{BTreeMap, BTreeSet};

use super::sketch::Sketch;
use super::{Counts, DataType, Field, FieldType, Part};
use crate::object::{Object, Sibling};
use crate::stamp::Stamp;

/// A typed value. A key that was never written has the empty value of its bucket's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The sum of all shares.
    Counter(i128),
    /// The elements, in order.
    Set(BTreeSet<String>),
    /// Whether it is on.
    Flag(bool),
    /// The fields that are there, by name and type.
    Map(BTreeMap<(String, FieldType), FieldValue>),
    /// What was written last; `None` if nothing was.
    RegisterLww(Option<String>),
    /// About how many different strings were added.
    Hll(u64),
}

/// The value of a map's field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// What was written last.
    RegisterLww(String),
    /// On: a field that is off is not there.
    Flag,
    /// The elements, in order; at least one.
    Set(BTreeSet<String>),
}

impl Value {
    /// The value of an object in a bucket of this type. Parts of other types are left out: they can be there
    /// only if the type was set on two sides of a network partition.
    pub fn of(object: &Object, data_type: DataType) -> Self {
        let parts = |kind: Part| object.siblings.iter().filter(move |part| part.part == kind);
        match data_type {
            DataType::Counter => {
                let shares = parts(Part::Count).filter_map(|part| Counts::decode(bytes(part)));
                Self::Counter(shares.map(|counts| counts.total()).sum())
            }
            DataType::Set => Self::Set(parts(Part::Element).map(text).collect()),
            DataType::Flag => Self::Flag(parts(Part::Flag).next().is_some()),
            DataType::RegisterLww => {
                let last = parts(Part::Register).max_by_key(|part| (part.stamp, part.dot));
                Self::RegisterLww(last.map(text))
            }
            DataType::Hll => {
                let mut all = Sketch::default();
                let sketches = parts(Part::Sketch).filter_map(|part| Sketch::decode(bytes(part)));
                sketches.for_each(|sketch| all.join(&sketch));
                Self::Hll(all.estimate())
            }
            DataType::Map => Self::Map(fields(parts(Part::Field))),
        }
    }
}

fn fields<'a>(
    parts: impl Iterator<Item = &'a Sibling>,
) -> BTreeMap<(String, FieldType), FieldValue> {
    let mut fields = BTreeMap::new();
    let mut last: BTreeMap<&str, (Stamp, crate::clock::Dot)> = BTreeMap::new();
    for part in parts {
        let Some(Field { of, name, content }) = Field::decode(bytes(part)) else { continue };
        let id = (name.to_owned(), of);
        match of {
            FieldType::Flag => drop(fields.insert(id, FieldValue::Flag)),
            FieldType::Set => {
                let set = fields.entry(id).or_insert_with(|| FieldValue::Set(BTreeSet::new()));
                if let FieldValue::Set(elements) = set {
                    elements.insert(content.to_owned());
                }
            }
            FieldType::RegisterLww => {
                let written = (part.stamp, part.dot);
                if last.get(name).is_none_or(|known| *known < written) {
                    last.insert(name, written);
                    fields.insert(id, FieldValue::RegisterLww(content.to_owned()));
                }
            }
        }
    }
    fields
}

fn bytes(part: &Sibling) -> &[u8] {
    part.value.as_deref().unwrap_or_default()
}

/// Parts are checked when they are decoded: nothing is replaced here.
fn text(part: &Sibling) -> String {
    String::from_utf8_lossy(bytes(part)).into_owned()
}
