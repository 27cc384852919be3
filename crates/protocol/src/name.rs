//! Names of nodes, buckets and keys, each parsed once at the edge and valid from then on.
//!
//! A [`Key`] is a bucket and a key in one buffer (`bucket NUL key`), which is also its order in
//! every index. Neither part can hold a NUL byte, so the joint form is unambiguous.

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::layout::Partition;

/// The longest node name, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 16;
/// The longest bucket name, in bytes.
pub const BUCKET_BYTES_MAX: usize = 128;
/// The longest key, in bytes, after percent-decoding.
pub const KEY_BYTES_MAX: usize = 1024;

/// Why a name was refused. The text may be shown to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A node name is empty, too long or has a byte outside `a-z 0-9 . _ -`.
    #[error("a node name is 1 to 16 characters of a-z 0-9 . _ -")]
    Node,
    /// A bucket name is empty, too long or has a byte outside its alphabet.
    #[error("a bucket is 1 to 128 characters of A-Z a-z 0-9 . _ - and neither \".\" nor \"..\"")]
    Bucket,
    /// A key is empty.
    #[error("the key is empty; a key is 1 to 1024 bytes of UTF-8")]
    KeyEmpty,
    /// A key is longer than [`KEY_BYTES_MAX`].
    #[error("the key is longer than 1024 bytes (after percent-decoding)")]
    KeyTooLong,
    /// A key is not UTF-8.
    #[error("the key is not valid UTF-8 after percent-decoding")]
    KeyNotUtf8,
    /// A key holds a NUL byte.
    #[error("the key holds a NUL byte (%00)")]
    KeyNul,
}

/// A node's name: short, stable, chosen by the operator. Copied freely, ordered by its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    bytes: [u8; NODE_NAME_BYTES_MAX],
    len: u8,
}

impl NodeId {
    /// Parses a node name.
    ///
    /// # Errors
    /// [`NameError::Node`] unless it is 1 to 16 bytes of `a-z 0-9 . _ -`.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
            return Err(NameError::Node);
        }
        let mut bytes = [0; NODE_NAME_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { bytes, len: name.len() as u8 })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = NodeId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", NameError::Node)
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<NodeId, E> {
                NodeId::parse(name).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// A bucket's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bucket(String);

impl Bucket {
    /// Parses a bucket name.
    ///
    /// # Errors
    /// [`NameError::Bucket`] unless it is 1 to 128 bytes of `A-Z a-z 0-9 . _ -`. The names `.` and
    /// `..` are refused too: clients that normalise paths could never reach them.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_bucket(name.as_bytes())?;
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Buckets compare and hash as their names do, so that maps keyed by bucket can be queried by name.
impl Borrow<str> for Bucket {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Bucket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A bucket and a key: the name of one object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    bytes: Bytes,
    bucket_len: u8,
}

impl Key {
    /// Joins a bucket name and a key.
    ///
    /// # Errors
    /// The [`NameError`] that names which of the two is wrong and how.
    pub fn new(bucket: &str, key: &[u8]) -> Result<Self, NameError> {
        check_bucket(bucket.as_bytes())?;
        check_key(key)?;
        let mut bytes = Vec::with_capacity(bucket.len() + 1 + key.len());
        bytes.extend_from_slice(bucket.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(key);
        Ok(Self { bytes: bytes.into(), bucket_len: bucket.len() as u8 })
    }

    /// Decodes the joint form `bucket NUL key` back, as [`Key::as_bytes`] gave it.
    ///
    /// # Errors
    /// The [`NameError`] that names which part is wrong and how.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, NameError> {
        let bucket_len = bytes.iter().position(|b| *b == 0).ok_or(NameError::KeyEmpty)?;
        check_bucket(&bytes[..bucket_len])?;
        check_key(&bytes[bucket_len + 1..])?;
        Ok(Self { bytes, bucket_len: bucket_len as u8 })
    }

    /// The joint form `bucket NUL key`, in which keys are ordered.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.bucket_len)]).unwrap_or_default()
    }

    /// The key within its bucket.
    pub fn key(&self) -> &str {
        std::str::from_utf8(&self.bytes[usize::from(self.bucket_len) + 1..]).unwrap_or_default()
    }

    /// The partition this key belongs to, out of `partitions` (a power of two): the top bits of a
    /// stable 64-bit hash of bucket and key. Equal on every machine and in every release.
    pub fn partition(&self, partitions: u32) -> Partition {
        let bits = partitions.trailing_zeros();
        Partition(if bits == 0 { 0 } else { (self.hash() >> (64 - bits)) as u16 })
    }

    /// A stable 64-bit hash of bucket and key.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.bytes)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket(), self.key())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.bucket(), self.key())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_bytes(Bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn check_bucket(name: &[u8]) -> Result<(), NameError> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let fits = !name.is_empty() && name.len() <= BUCKET_BYTES_MAX;
    let reserved = name == b"." || name == b"..";
    if fits && !reserved && name.iter().all(allowed) { Ok(()) } else { Err(NameError::Bucket) }
}

fn check_key(key: &[u8]) -> Result<(), NameError> {
    if key.is_empty() {
        return Err(NameError::KeyEmpty);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(NameError::KeyTooLong);
    }
    if key.contains(&0) {
        return Err(NameError::KeyNul);
    }
    std::str::from_utf8(key).map(|_| ()).map_err(|_| NameError::KeyNotUtf8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_limited() {
        assert!(NodeId::parse("n1").is_ok());
        for bad in ["", "N1", "a name", "seventeen-letters"] {
            assert_eq!(NodeId::parse(bad), Err(NameError::Node), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"b".repeat(129)] {
            assert_eq!(Bucket::parse(bad), Err(NameError::Bucket), "{bad}");
        }
        assert!(Bucket::parse(&"b".repeat(128)).is_ok());
    }

    #[test]
    fn keys_are_limited() {
        let key = |bytes: &[u8]| Key::new("b", bytes).map(|_| ());
        assert_eq!(key(b""), Err(NameError::KeyEmpty));
        assert_eq!(key(b"a\0b"), Err(NameError::KeyNul));
        assert_eq!(key(&[0xff]), Err(NameError::KeyNotUtf8));
        assert_eq!(key(&[b'k'; 1025]), Err(NameError::KeyTooLong));
        assert_eq!(key(&[b'k'; 1024]), Ok(()));
        assert_eq!(key("../a/b c/ü".as_bytes()), Ok(()));
    }

    #[test]
    fn the_joint_form_round_trips() {
        let key = Key::new("carts", b"user/7").unwrap();
        assert_eq!((key.bucket(), key.key()), ("carts", "user/7"));
        let again = Key::from_bytes(Bytes::copy_from_slice(key.as_bytes())).unwrap();
        assert_eq!(again, key);
        for bad in [&b"carts"[..], b"\0key", b"carts\0", b"carts\0a\0b"] {
            assert!(Key::from_bytes(Bytes::copy_from_slice(bad)).is_err());
        }
    }

    /// Placement on disk depends on these numbers: they must never change.
    #[test]
    fn partitions_are_the_same_in_every_release() {
        let of = |key: &str| Key::new("b", key.as_bytes()).unwrap().partition(1024).0;
        assert_eq!([of("a"), of("b"), of("user/7")], GOLDEN);
        assert_eq!(Key::new("b", b"a").unwrap().partition(1).0, 0);
    }
    const GOLDEN: [u16; 3] = [542, 253, 128];
}
