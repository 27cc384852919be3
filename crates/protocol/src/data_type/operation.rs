//! What a client does to a typed value.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::DataType;
use crate::append::append;

/// The longest element of a set and the longest name of a field, in bytes.
pub const NAME_BYTES_MAX: usize = 4096;
/// The longest string in a register, in bytes.
pub const REGISTER_BYTES_MAX: usize = 256 << 10;

/// One change of a typed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Adds to a counter; a negative number subtracts.
    Increment(i64),
    /// Changes a set.
    Set(SetChange),
    /// Switches a flag on, or off.
    Flag(bool),
    /// Changes a map.
    Map {
        /// Fields to change, each with its name.
        update: Vec<(String, FieldChange)>,
        /// Fields to remove, of all types.
        remove: Vec<String>,
    },
    /// Sets a register.
    Assign(String),
    /// Adds strings to an estimate: their hashes ([`super::sketch::hash_of`]).
    Observe(Vec<u64>),
}

/// One change of a set: what is removed goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChange {
    /// Elements to add.
    pub add: Vec<String>,
    /// Elements to remove.
    pub remove: Vec<String>,
}

/// One change of a map's field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldChange {
    /// Sets a register.
    Assign(String),
    /// Switches a flag on, or off.
    Flag(bool),
    /// Changes a set.
    Set(SetChange),
}

/// Why an operation makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperation {
    /// It would change nothing.
    #[error("the operation changes nothing: name at least one element or field")]
    Empty,
    /// A name is too long.
    #[error("{what} has {bytes} bytes, the limit is {max}")]
    TooLong {
        /// Which: an element, a field's name, a register.
        what: &'static str,
        /// Its length, in bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A field's name is empty.
    #[error("a field's name is empty")]
    NoName,
}

impl Operation {
    /// The type that it is of.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Increment(_) => DataType::Counter,
            Self::Set(_) => DataType::Set,
            Self::Flag(_) => DataType::Flag,
            Self::Map { .. } => DataType::Map,
            Self::Assign(_) => DataType::RegisterLww,
            Self::Observe(_) => DataType::Hll,
        }
    }

    /// Whether it takes something away: it then removes only what the client's context covers. A client that
    /// sends none has not read what it removes.
    pub fn removes(&self) -> bool {
        match self {
            Self::Increment(_) | Self::Assign(_) | Self::Observe(_) => false,
            Self::Set(change) => !change.remove.is_empty(),
            Self::Flag(on) => !on,
            Self::Map { update, remove } => {
                let takes = |(_, change): &(String, FieldChange)| match change {
                    FieldChange::Assign(_) => false,
                    FieldChange::Flag(on) => !on,
                    FieldChange::Set(change) => !change.remove.is_empty(),
                };
                !remove.is_empty() || update.iter().any(takes)
            }
        }
    }

    /// Checks its strings. A count of zero is allowed: it makes the counter exist.
    ///
    /// # Errors
    /// [`InvalidOperation`].
    pub fn check(&self) -> Result<(), InvalidOperation> {
        match self {
            Self::Increment(_) | Self::Flag(_) => Ok(()),
            Self::Set(change) => change.check(),
            Self::Assign(text) => at_most("the register", text, REGISTER_BYTES_MAX),
            Self::Observe(hashes) if hashes.is_empty() => Err(InvalidOperation::Empty),
            Self::Observe(_) => Ok(()),
            Self::Map { update, remove } => {
                if update.is_empty() && remove.is_empty() {
                    return Err(InvalidOperation::Empty);
                }
                let names = update.iter().map(|(name, _)| name).chain(remove);
                names.map(String::as_str).try_for_each(check_name)?;
                update.iter().try_for_each(|(_, change)| match change {
                    FieldChange::Assign(text) => at_most("a register", text, REGISTER_BYTES_MAX),
                    FieldChange::Flag(_) => Ok(()),
                    FieldChange::Set(change) => change.check(),
                })
            }
        }
    }

    /// The bytes in which it goes to a coordinator.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        append(self, &mut out);
        out.freeze()
    }

    /// Reads and checks what [`Operation::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (operation, rest): (Self, _) = postcard::take_from_bytes(bytes).ok()?;
        (rest.is_empty() && operation.check().is_ok()).then_some(operation)
    }
}

impl SetChange {
    pub(super) fn check(&self) -> Result<(), InvalidOperation> {
        if self.add.is_empty() && self.remove.is_empty() {
            return Err(InvalidOperation::Empty);
        }
        let elements = self.add.iter().chain(&self.remove);
        elements.into_iter().try_for_each(|element| at_most("an element", element, NAME_BYTES_MAX))
    }
}

fn check_name(name: &str) -> Result<(), InvalidOperation> {
    if name.is_empty() {
        return Err(InvalidOperation::NoName);
    }
    at_most("a field's name", name, NAME_BYTES_MAX)
}

fn at_most(what: &'static str, text: &str, max: usize) -> Result<(), InvalidOperation> {
    let bytes = text.len();
    if bytes > max { Err(InvalidOperation::TooLong { what, bytes, max }) } else { Ok(()) }
}
