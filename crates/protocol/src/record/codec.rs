//! How a record is encoded: a byte for the format, then postcard. What is decoded is checked as if a
//! stranger had made it up.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ClusterRecord, Fields, RecordError, RecordHash};

/// The longest encoding of a record, in bytes: three lists of 255 members with the longest names.
pub const RECORD_BYTES_MAX: usize = 512 << 10;

/// The only format so far.
const FORMAT: u8 = 1;

impl ClusterRecord {
    /// The record as it is stored, sent and hashed.
    ///
    /// # Panics
    /// Never: postcard fails only for sequences of unknown length, and a record has none.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = vec![FORMAT];
        postcard::to_extend(&*self.fields, bytes)
            .expect("a record has only sequences of known length")
    }

    /// Decodes a record and checks it.
    ///
    /// # Errors
    /// [`RecordError`] that names what is wrong. What is allocated for it stays within a few times the
    /// length of the bytes, which is bounded.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong { bytes: bytes.len(), max: RECORD_BYTES_MAX });
        }
        let fields = match bytes.split_first() {
            Some((&FORMAT, fields)) => fields,
            Some((&other, _)) => return Err(RecordError::Format(other)),
            None => return Err(RecordError::Encoding),
        };
        match postcard::take_from_bytes::<Fields>(fields) {
            Ok((fields, [])) => Self::checked(fields),
            Ok((_, [_, ..])) | Err(_) => Err(RecordError::Encoding),
        }
    }

    /// The hash of the encoding. Computes it. That of a first record leaves addresses out: each node makes it
    /// from a configuration of its own, in which others may be reached at other addresses.
    pub fn hash(&self) -> RecordHash {
        let encoded = match self.parent() == RecordHash::NONE {
            true => self.without_addresses().encode(),
            false => self.encode(),
        };
        RecordHash(xxhash_rust::xxh3::xxh3_128(&encoded))
    }

    fn without_addresses(&self) -> Self {
        let mut fields = (*self.fields).clone();
        for member in &mut fields.stable {
            (member.peer_addr, member.client_addr) = (String::new(), None);
        }
        Self { fields: fields.into() }
    }
}

/// As bytes, so that a record within a message is checked like any other.
impl Serialize for ClusterRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

impl<'de> Deserialize<'de> for ClusterRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Encoded;
        impl Visitor<'_> for Encoded {
            type Value = ClusterRecord;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an encoded cluster record")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<ClusterRecord, E> {
                ClusterRecord::decode(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Encoded)
    }
}
