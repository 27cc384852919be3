//! Convergent data types: counters, sets, flags, maps, registers and estimates of cardinality.
//!
//! A key of a value bucket has siblings, of which a client chooses. A key of a typed bucket has *parts*,
//! which together are one value: what each actor has added to a counter, the elements of a set. Both are
//! named by dots under the same clock, and merged by the same rule ([`crate::object::Object::merge`]): a
//! part survives if both sides have it, or if one has it and the other's clock does not cover it. So trees,
//! hints, repair and the reaper know nothing of types, and no conflict is ever shown.
//!
//! [`Operation`] says what a client changes, [`apply`] which parts that replaces, [`Value`] what a client
//! is shown. Source: Almeida, Shoker and Baquero, "Delta State Replicated Data Types" (JPDC 2018), section 7
//! (causal types), without deltas: a delta beside a joined clock would claim dots that it does not carry.
//!
//! | type | its parts | an operation replaces |
//! | --- | --- | --- |
//! | counter | per actor what it has added and subtracted | the minter's own part, by greater totals |
//! | set | a dot for each element | added: all known dots of the element; removed: those in the context |
//! | flag | a dot for each enabling | as an element |
//! | register | the bytes, with a stamp; the greatest stamp is shown | all known parts |
//! | map | the parts of its fields, each with the field's name | as the field's type |
//! | hll | ranks ([`sketch`]) | all known parts, by their maximum with the new ranks |

mod apply;
mod operation;
mod part;
pub mod sketch;
mod value;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::apply::remembering;
pub use self::apply::{Added, Applied, apply};
pub use self::operation::{
    FieldChange, InvalidOperation, NAME_BYTES_MAX, Operation, REGISTER_BYTES_MAX, SetChange,
};
pub use self::part::{Counts, Field, FieldType, Part, REMEMBERED_MAX};
pub use self::value::{FieldValue, Value};

/// The most parts that an operation may leave a key with: elements, fields, actors of a counter.
pub const PARTS_MAX: usize = 10_000;
/// The most bytes that an operation may leave a key's parts with.
pub const PARTS_BYTES_MAX: usize = 1 << 20;

/// The type of a bucket's values, other than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    /// A number that is incremented and decremented.
    Counter,
    /// A set of strings. An add that a remove has not seen survives it.
    Set,
    /// On or off. An enabling that a disabling has not seen survives it.
    Flag,
    /// Named fields, each a register, a flag or a set.
    Map,
    /// A string; of concurrent ones the last by hybrid-logical time.
    RegisterLww,
    /// An estimate of how many different strings were added (HyperLogLog).
    Hll,
}

impl DataType {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Counter, Self::Set, Self::Flag, Self::Map, Self::RegisterLww, Self::Hll];

    /// Its name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Flag => "flag",
            Self::Map => "map",
            Self::RegisterLww => "register_lww",
            Self::Hll => "hll",
        }
    }

    /// The type of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
