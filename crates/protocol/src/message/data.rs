//! The messages of client operations: objects are stored and read, writes forwarded and their results
//! told.

use super::head::family;
use super::write::{Write, WriteAnswer};
use crate::explain::Events;
use crate::get::{ReadKind, RowKind};
use crate::lifetime::Lifetime;
use crate::name::Key;
use crate::object::Version;
use crate::put::Role;
use crate::time::WallTime;

family! {
    /// What an operation asks of another node. Anti-entropy sends some of these as well.
    0 Data {
        /// Merge the object in the payload, and reply once it is durable: [`DataReply::Stored`].
        0x00 Store {
            /// The key.
            key: Key,
            /// Whether to hold it as a home replica or as a hint.
            role: Role,
            /// When the object was read or minted, by the sender's wall clock or earlier: an object
            /// that was in transit too long is refused (see [`crate::reap`]).
            read_at: WallTime,
        },
        /// Read what the receiver holds: [`DataReply::Object`], [`DataReply::Large`],
        /// [`DataReply::Digest`], [`DataReply::NoHint`], [`super::Reply::NotFilled`].
        0x01 Read {
            /// The key.
            key: Key,
            /// The object or its digest.
            what: ReadKind,
            /// Among the receiver's own rows, or among its hints.
            place: RowKind,
            /// The longest encoded object that the sender has room for, in bytes; for a longer one the
            /// reply is its length, and the sender asks again once it has made room.
            bytes_max: u32,
        },
        /// Mint this write (its value is the payload): [`DataReply::Accepted`] at once, and a
        /// [`Data::Written`] later.
        0x02 Forward {
            /// The entry node's number for the operation.
            operation: u64,
            /// The write.
            write: Box<Write>,
        },
        /// The answer to a forwarded write (its object is the payload if it was asked for):
        /// [`DataReply::Accepted`].
        0x03 Written {
            /// The entry node's number for the operation.
            operation: u64,
            /// The result.
            answer: WriteAnswer,
        },
        /// What the coordinator of an explained write has seen, to the entry node:
        /// [`DataReply::Accepted`]. It comes twice: with the answer, in the place of
        /// [`Data::Written`], and when the write is done.
        0x04 Explained {
            /// The entry node's number for the operation.
            operation: u64,
            /// The trace that the events belong to: [`Write::explain`].
            trace: u64,
            /// The result (its object is the payload if it was asked for); `None` when the write is
            /// done.
            answer: Option<WriteAnswer>,
            /// All events so far. Their times count from when the write was accepted.
            events: Events,
        },
        /// Mint this operation on a typed value (it is the payload, [`crate::data_type::Operation`]);
        /// answered as [`Data::Forward`] is.
        0x05 Change {
            /// The entry node's number for the operation.
            operation: u64,
            /// The write.
            write: Box<Write>,
        },
        /// A [`Data::Forward`] whose value lives as long as the request says.
        0x06 ForwardExpiring {
            /// The entry node's number for the operation.
            operation: u64,
            /// How long.
            lifetime: Lifetime,
            /// The write.
            write: Box<Write>,
        },
    }
}

family! {
    /// The replies to [`Data`].
    0 DataReply {
        /// The object is merged and durable as configured.
        0x00 Stored,
        /// The object is the payload.
        0x01 Object,
        /// The version of the object held; [`Version::ABSENT`] if none.
        0x02 Digest(version: Version),
        /// No hint is kept for this key.
        0x03 NoHint,
        /// The object is longer than the sender has room for.
        0x04 Large {
            /// Its length, encoded, in bytes.
            bytes: u32,
        },
        /// It is taken over: of a forwarded write the receiver is the coordinator now.
        0x05 Accepted,
    }
}
