//! Why a write was not minted.

use serde::{Deserialize, Serialize};

use crate::data_type::DataType;

/// Why a coordinator refused a client write. The row is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MintError {
    /// The object would have too many siblings: read it, resolve it, write with the context.
    #[error(
        "the key would have {siblings} siblings, the limit is {max}; \
         read it and write back with its context"
    )]
    TooManySiblings {
        /// How many it would have.
        siblings: u64,
        /// The limit.
        max: u64,
    },
    /// The object's values together would be too large.
    #[error(
        "the key's siblings would hold {bytes} bytes, the limit is {max}; \
         read it and write back with its context"
    )]
    ObjectTooLarge {
        /// Their total size, in bytes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The clock has as many entries as it may.
    #[error("the key's clock has {max} entries, its limit; delete the key and use another")]
    ClockFull {
        /// The limit.
        max: u64,
    },
    /// Another write arrived since the condition was checked.
    #[error("another write arrived since the condition was checked")]
    Overtaken,
    /// The bucket has another type than the request is for.
    #[error("the bucket's values are of type {has}, the request is for {asked}")]
    WrongType {
        /// The bucket's.
        has: TypeName,
        /// The request's.
        asked: TypeName,
    },
    /// The context covers writes that neither the coordinator nor a read quorum has.
    #[error(
        "the context covers writes that are not to be found at the moment; read the key again, and send that \
         context"
    )]
    ContextAhead,
    /// The typed value would have too many parts.
    #[error("the value would have {parts} parts, the limit is {max}; use several keys")]
    TooManyParts {
        /// How many it would have.
        parts: u64,
        /// The limit.
        max: u64,
    },
    /// The typed value would be too large.
    #[error("the value would have {bytes} bytes, the limit is {max}; use several keys")]
    PartsTooLarge {
        /// Their size, in bytes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The counter has counted too far.
    #[error("what one node has added to or subtracted from the counter would exceed 64 bits")]
    CounterFull,
}

/// A bucket's type, in an error: of bytes, or a typed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeName(pub Option<DataType>);

impl std::fmt::Display for TypeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.map_or("value", DataType::name))
    }
}
