//! Which parts an operation leaves, and which it adds.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::part::Slot;
use super::sketch::Sketch;
use super::{Counts, Field, FieldChange, FieldType, Operation, Part, SetChange};
use crate::clock::{Actor, Clock};
use crate::mutation::{Mutation, mutated};
use crate::object::{Sibling, WriteId};

/// What an operation makes of the parts that were there.
#[derive(Debug, Default)]
pub struct Applied<'a> {
    /// Parts that stay as they are.
    pub kept: Vec<&'a Sibling>,
    /// Parts to add, each under a dot of its own.
    pub added: Vec<Added>,
}

/// A part to add, and its bytes.
pub type Added = (Part, Bytes);

/// Applies an operation to the parts of a row on which `actor` mints. What it removes is what `seen`, the
/// client's context, covers; what it writes replaces all that the row has of it. Tombstones of the key are
/// superseded: it exists again. A counter remembers `request`, if one is given. `None` if a counter would
/// exceed 64 bits.
pub fn apply<'a>(
    operation: &Operation,
    parts: &'a [Sibling],
    seen: &Clock,
    (actor, request): (Actor, Option<WriteId>),
) -> Option<Applied<'a>> {
    let mut change = Change::default();
    match operation {
        Operation::Increment(by) => return increment(*by, parts, actor, request),
        Operation::Set(set) => {
            change.set(set, |element| (Part::Element, Bytes::copy_from_slice(element.as_bytes())))
        }
        Operation::Flag(true) => change.write((Part::Flag, Bytes::new())),
        Operation::Flag(false) => change.remove((Part::Flag, Bytes::new())),
        Operation::Assign(text) => change.write((Part::Register, text.clone().into())),
        Operation::Observe(hashes) => change.write((Part::Sketch, observe(hashes, parts))),
        Operation::Map { update, remove } => {
            change.fields = remove.iter().map(String::as_str).collect();
            update.iter().for_each(|(name, field)| change.field(name, field));
        }
    }
    Some(change.over(parts, seen))
}

/// The minter's own share becomes greater. A share of another actor, or of this one in an earlier tenure, is
/// not its to change.
fn increment(
    by: i64,
    parts: &[Sibling],
    actor: Actor,
    request: Option<WriteId>,
) -> Option<Applied<'_>> {
    let is_own = |part: &&Sibling| part.part == Part::Count && part.dot.actor == actor;
    let own = parts.iter().find(is_own).and_then(counts).unwrap_or_default();
    let is_stale = |part: &&Sibling| {
        part.is_tombstone() || is_own(part) && !mutated(Mutation::CounterEntryAdded)
    };
    let kept = parts.iter().filter(|part| !is_stale(part)).collect();
    let before = match mutated(Mutation::NewActorCopiesTotal) && own == Counts::default() {
        true => {
            let other = parts.iter().find(|part| part.part == Part::Count);
            other.and_then(counts).unwrap_or_default()
        }
        false => own,
    };
    let after = before.after(by)?;
    let after = match request {
        Some(request) => after.remembering(request),
        None => after,
    };
    Some(Applied { kept, added: vec![(Part::Count, after.encode())] })
}

/// The share of a counter that remembers a request.
pub(crate) fn remembering(parts: &[Sibling], request: WriteId) -> Option<&Sibling> {
    let remembers = |part: &&Sibling| {
        part.part == Part::Count
            && counts(part).is_some_and(|counts| counts.remembered.contains(&request))
    };
    parts.iter().find(remembers)
}

fn counts(part: &Sibling) -> Option<Counts> {
    part.value.as_ref().and_then(|bytes| Counts::decode(bytes))
}

/// The ranks of everything that was observed, and of these.
fn observe(hashes: &[u64], parts: &[Sibling]) -> Bytes {
    let known = parts.iter().filter(|part| part.part == Part::Sketch);
    let known = known.filter_map(|part| part.value.as_ref());
    let mut sketch = Sketch::default();
    known.filter_map(|bytes| Sketch::decode(bytes)).for_each(|known| sketch.join(&known));
    hashes.iter().for_each(|hash| sketch.observe(*hash));
    sketch.encode()
}

/// What is written and removed, by what replaces what.
#[derive(Default)]
struct Change<'o> {
    written: BTreeSet<Slot>,
    removed: BTreeSet<Slot>,
    /// Names of the fields of a map to remove.
    fields: BTreeSet<&'o str>,
    added: Vec<Added>,
}

impl Change<'_> {
    fn write(&mut self, (part, bytes): Added) {
        if part.slot(&bytes).is_some_and(|slot| self.written.insert(slot)) {
            self.added.push((part, bytes));
        }
    }

    fn remove(&mut self, (part, bytes): Added) {
        self.removed.extend(part.slot(&bytes));
    }

    fn set(&mut self, change: &SetChange, part_of: impl Fn(&str) -> Added) {
        change.remove.iter().for_each(|element| self.remove(part_of(element)));
        change.add.iter().for_each(|element| self.write(part_of(element)));
    }

    fn field(&mut self, name: &str, change: &FieldChange) {
        let part =
            |of: FieldType, content: &str| (Part::Field, Field { of, name, content }.encode());
        match change {
            // Of two values for one field the last one counts.
            FieldChange::Assign(text) => {
                let (part, bytes) = part(FieldType::RegisterLww, text);
                let slot = part.slot(&bytes);
                self.added.retain(|(other, bytes)| other.slot(bytes) != slot);
                self.written.extend(slot);
                self.added.push((part, bytes));
            }
            FieldChange::Flag(true) => self.write(part(FieldType::Flag, "")),
            FieldChange::Flag(false) => self.remove(part(FieldType::Flag, "")),
            FieldChange::Set(set) => self.set(set, |element| part(FieldType::Set, element)),
        }
    }

    fn over<'a>(self, parts: &'a [Sibling], seen: &Clock) -> Applied<'a> {
        let kept = parts.iter().filter(|part| !self.replaces(part, seen)).collect();
        Applied { kept, added: self.added }
    }

    fn replaces(&self, part: &Sibling, seen: &Clock) -> bool {
        let Some(bytes) = &part.value else { return true }; // a tombstone: the key is there again
        let Some(slot) = part.part.slot(bytes) else { return false };
        let is_seen = seen.covers(part.dot) || mutated(Mutation::RemoveDropsUnseen);
        self.written.contains(&slot) || is_seen && self.takes(&slot, part, bytes)
    }

    fn takes(&self, slot: &Slot, part: &Sibling, bytes: &Bytes) -> bool {
        let is_of_field = || {
            let field = (part.part == Part::Field).then(|| Field::decode(bytes)).flatten();
            field.is_some_and(|field| self.fields.contains(field.name))
        };
        self.removed.contains(slot) || !self.fields.is_empty() && is_of_field()
    }
}
