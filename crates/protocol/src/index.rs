//! Secondary indexes: clients give values entries by which their keys are found.
//!
//! An entry belongs to a sibling, as its metadata does, and is kept there: it lives and dies with it, on
//! every replica. What a node's index says is derived from its rows ([`Object::index_entries`]), and a
//! question is put to R home replicas of every partition ([`crate::listing`]).

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::listing::{Item, ListPage, Question};
use crate::name::{Bucket, Key};
use crate::object::{Metadata, Object};

/// The longest name of an index, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest text in an index, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// The most entries of one value, in all indexes together, and the most bytes of their names and values:
/// percent-encoded and beside other metadata they must fit the head of an answer.
pub const ENTRIES_MAX: usize = 16;
/// See [`ENTRIES_MAX`].
pub const ENTRIES_BYTES_MAX: usize = 2_048;
/// With what the names begin under which entries are among the metadata of a value. No header and no
/// metadata of a client has such a name.
const METADATA_PREFIX: &str = ":quorate-index-";

/// The name of an index; it ends with what is in it: `_s` for text, `_i` for integers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IndexName(String);

/// A value in an index: those of one index are all text or all integers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IndexValue {
    /// 1 to [`TEXT_BYTES_MAX`] bytes without NUL, in the order of its bytes.
    Text(String),
    /// In the order of numbers.
    Integer(i64),
}

/// It is no name of an index, or no value for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The name.
    #[error(
        "the name of an index has 3 to {NAME_BYTES_MAX} characters a-z 0-9 - _, and ends in _s (text) or _i \
         (integers)"
    )]
    Name,
    /// The value is text.
    #[error("text in an index has 1 to {TEXT_BYTES_MAX} bytes of UTF-8 without NUL")]
    Text,
    /// The value is an integer.
    #[error("must be a whole number from {} to {}", i64::MIN, i64::MAX)]
    Integer,
}

impl IndexName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`IndexError::Name`].
    pub fn parse(name: &str) -> Result<Self, IndexError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        let says_type = name.ends_with("_s") || name.ends_with("_i");
        let fits = (3..=NAME_BYTES_MAX).contains(&name.len());
        match fits && says_type && name.bytes().all(allowed) {
            true => Ok(Self(name.to_owned())),
            false => Err(IndexError::Name),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its values are integers.
    pub fn is_of_integers(&self) -> bool {
        self.0.ends_with("_i")
    }

    /// A value for this index.
    ///
    /// # Errors
    /// [`IndexError::Text`] or [`IndexError::Integer`].
    pub fn value(&self, text: &str) -> Result<IndexValue, IndexError> {
        if self.is_of_integers() {
            let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            return number.map(IndexValue::Integer).ok_or(IndexError::Integer);
        }
        match (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains('\0') {
            true => Ok(IndexValue::Text(text.to_owned())),
            false => Err(IndexError::Text),
        }
    }

    /// Whether a value may be in this index.
    pub fn takes(&self, value: &IndexValue) -> bool {
        match value {
            IndexValue::Integer(_) => self.is_of_integers(),
            IndexValue::Text(text) => !self.is_of_integers() && self.value(text).is_ok(),
        }
    }

    /// The name and the text under which an entry is among a value's metadata.
    pub fn as_metadata(&self, value: &IndexValue) -> (String, String) {
        ([METADATA_PREFIX, &self.0].concat(), value.to_string())
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IndexName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for IndexValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
        }
    }
}

/// The index of which a metadata name holds an entry; `None` if it is the name of something else.
pub fn index_of(metadata_name: &str) -> Option<&str> {
    metadata_name.strip_prefix(METADATA_PREFIX)
}

impl Metadata {
    /// The index entries of the value. What is none is left out: only a damaged value has it.
    pub fn index_entries(&self) -> impl Iterator<Item = (IndexName, IndexValue)> {
        self.user.iter().filter_map(|(name, text)| {
            let name = IndexName::parse(index_of(name)?).ok()?;
            let value = name.value(text).ok()?;
            Some((name, value))
        })
    }
}

impl Object {
    /// The index entries of all values in it, in order, each once.
    pub fn index_entries(&self) -> Vec<(IndexName, IndexValue)> {
        let values = self.siblings.iter().filter(|sibling| !sibling.is_tombstone());
        let mut entries: Vec<_> = values.flat_map(|it| it.metadata.index_entries()).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }
}

/// Some entries of an index: all from one value to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRange {
    /// The index.
    pub index: IndexName,
    /// The least value; `None`: from the first on.
    pub from: Option<IndexValue>,
    /// The greatest value, inclusive; `None`: to the last.
    pub to: Option<IndexValue>,
}

impl IndexRange {
    /// Whether a value is in it.
    pub fn contains(&self, value: &IndexValue) -> bool {
        self.index.takes(value)
            && self.from.as_ref().is_none_or(|from| value >= from)
            && self.to.as_ref().is_none_or(|to| value <= to)
    }

    /// Whether both ends may be in the index.
    pub fn is_sound(&self) -> bool {
        self.from.iter().chain(&self.to).all(|end| self.index.takes(end))
    }
}

/// An entry of an index: in the order of values, and of keys for the same value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hit {
    /// The value.
    pub value: IndexValue,
    /// A key that has it.
    pub key: Key,
}

impl Item for Hit {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// Entries of an index as one node knows them.
pub type IndexPage = ListPage<Hit>;

/// Asks for entries of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRequest {
    /// The bucket.
    pub bucket: Bucket,
    /// Which of its entries.
    pub range: IndexRange,
    /// Only entries after this one.
    pub after: Option<Hit>,
    /// The most entries in one answer, 1 or more.
    pub limit: u16,
}

impl Question for IndexRequest {
    type Item = Hit;

    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    fn after(&self) -> Option<&Hit> {
        self.after.as_ref()
    }

    fn limit(&self) -> u16 {
        self.limit
    }

    fn asks_for(&self, hit: &Hit) -> bool {
        hit.key.bucket() == self.bucket.as_str() && self.range.contains(&hit.value)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> IndexName {
        IndexName::parse(text).unwrap()
    }

    #[test]
    fn a_name_says_what_its_values_are() {
        assert!(name("age_i").is_of_integers() && !name("e-mail_2_s").is_of_integers());
        for bad in [
            "",
            "_s",
            "age",
            "age_x",
            "Age_i",
            "a b_s",
            "ü_s",
            &["a".repeat(63), "_s".into()].concat(),
        ] {
            assert_eq!(IndexName::parse(bad), Err(IndexError::Name), "{bad}");
        }
        assert_eq!(name("age_i").value("-7"), Ok(IndexValue::Integer(-7)));
        for bad in ["", "x", "1.5", "9223372036854775808", " 1", "+1", "007", "-0"] {
            assert_eq!(name("age_i").value(bad), Err(IndexError::Integer), "{bad}");
        }
        for bad in ["", "a\0b", &"x".repeat(257)] {
            assert_eq!(name("a_s").value(bad), Err(IndexError::Text), "{bad}");
        }
        assert_eq!(name("a_s").value("7"), Ok(IndexValue::Text("7".into())));
    }

    #[test]
    fn entries_are_metadata_of_a_value() {
        let entries = [("a_s", "x"), ("age_i", "42"), ("age_i", "-1")];
        let entries = entries.map(|(index, text)| (name(index), name(index).value(text).unwrap()));
        let mut user: Vec<_> =
            entries.iter().map(|(name, value)| name.as_metadata(value)).collect();
        let others =
            [("a", "x"), (":content-encoding", "gzip"), (":quorate-index-b_i", "no number")];
        user.extend(others.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let metadata = Metadata { user, ..Metadata::default() };
        assert_eq!(metadata.index_entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn a_range_has_both_of_its_ends() {
        let of = |from: Option<i64>, to: Option<i64>| IndexRange {
            index: name("age_i"),
            from: from.map(IndexValue::Integer),
            to: to.map(IndexValue::Integer),
        };
        let has = |range: &IndexRange, number| range.contains(&IndexValue::Integer(number));
        let range = of(Some(-1), Some(3));
        assert_eq!([-2, -1, 3, 4].map(|it| has(&range, it)), [false, true, true, false]);
        assert!(has(&of(None, Some(3)), i64::MIN) && has(&of(Some(0), None), i64::MAX));
        assert!(!of(None, None).contains(&IndexValue::Text("1".into())));
        let mixed = IndexRange { from: Some(IndexValue::Text("1".into())), ..of(None, None) };
        assert!(range.is_sound() && !mixed.is_sound());
    }
}
