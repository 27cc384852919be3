//! What an index holds: texts or integers, as its name says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::problem::cut;

/// The shortest and the longest name of an index, in characters.
const NAME_CHARS: std::ops::RangeInclusive<usize> = 3..=64;
/// The longest text of an entry, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// How the name of an index of texts ends.
const OF_TEXTS: &str = "_s";
/// How the name of an index of integers ends.
const OF_INTEGERS: &str = "_i";

/// The value of an index entry. The name of the index says which it has: `email_s` has texts, `age_i` has
/// integers.
///
/// Texts are in the order of their bytes, integers in that of their size.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(untagged)]
pub enum IndexValue {
    /// Of an index whose name ends in `_s`: 1 to 256 bytes without NUL.
    Text(String),
    /// Of an index whose name ends in `_i`.
    Integer(i64),
}

impl IndexValue {
    /// What a text stands for in this index: an integer, if it has those.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no index has this name, or it can have no such value.
    pub fn parse(index: &str, text: &str) -> Result<Self, Error> {
        let value = if has_integers(index) {
            let wrong = |_| invalid(format!("{index} has integers of 64 bits, not {text:?}"));
            Self::Integer(text.parse().map_err(wrong)?)
        } else {
            Self::from(text)
        };
        value.check(index)?;
        Ok(value)
    }

    /// The text, of an index of texts.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Integer(_) => None,
        }
    }

    /// The integer, of an index of integers.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Text(_) => None,
            Self::Integer(integer) => Some(*integer),
        }
    }

    /// Whether it is of the kind that an index has.
    pub(crate) fn is_of(&self, index: &str) -> bool {
        matches!(self, Self::Integer(_)) == has_integers(index)
    }

    /// Refuses a name that no index has, and a value that an index with this name cannot have.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no index has this name, or it can have no such value.
    pub fn check(&self, index: &str) -> Result<(), Error> {
        check_name(index)?;
        match self {
            Self::Text(_) if !self.is_of(index) => {
                Err(invalid(format!("{index} has integers, not {self:?}")))
            }
            Self::Integer(_) if !self.is_of(index) => {
                Err(invalid(format!("{index} has texts, not {self:?}")))
            }
            Self::Text(text)
                if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.contains('\0') =>
            {
                let detail = "a text must be 1 to 256 bytes without NUL, not";
                Err(invalid(format!("{index}: {detail} {text:?}")))
            }
            Self::Text(_) | Self::Integer(_) => Ok(()),
        }
    }
}

fn has_integers(index: &str) -> bool {
    index.ends_with(OF_INTEGERS)
}

fn invalid(detail: String) -> Error {
    Error::invalid("index", cut(&detail))
}

/// Refuses what is the name of no index.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn check_name(index: &str) -> Result<(), Error> {
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let has_kind = index.ends_with(OF_TEXTS) || index.ends_with(OF_INTEGERS);
    if has_kind && NAME_CHARS.contains(&index.len()) && index.bytes().all(is_known) {
        return Ok(());
    }
    let detail =
        "a name must be 3 to 64 of a-z 0-9 - _ and end in _s (texts) or _i (integers), not";
    Err(invalid(format!("{detail} {index:?}")))
}

impl fmt::Display for IndexValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(integer) => write!(f, "{integer}"),
        }
    }
}

impl From<&str> for IndexValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for IndexValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for IndexValue {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<i32> for IndexValue {
    fn from(integer: i32) -> Self {
        Self::Integer(integer.into())
    }
}

impl From<u32> for IndexValue {
    fn from(integer: u32) -> Self {
        Self::Integer(integer.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_index_says_what_it_has() {
        assert_eq!(IndexValue::parse("age_i", "-7").unwrap(), IndexValue::from(-7));
        assert_eq!(IndexValue::parse("age_s", "-7").unwrap(), IndexValue::from("-7"));
        for (index, text) in [("age_i", ""), ("age_i", "old"), ("age_i", "9223372036854775808")] {
            let why = IndexValue::parse(index, text).unwrap_err().to_string();
            assert!(why.contains("integers"), "{why}");
        }
        for text in ["", "a\0", &"ü".repeat(129)] {
            let why = IndexValue::parse("a_s", text).unwrap_err().to_string();
            assert!(why.contains("256 bytes"), "{why}");
        }
        assert!(IndexValue::from("7").check("age_i").is_err());
        assert!(IndexValue::from(7).check("age_s").is_err());
        IndexValue::from("ü".repeat(128)).check("a_s").unwrap();
    }

    #[test]
    fn names_are_checked() {
        for name in ["a_s", "a_i", "0-b_c_s", &format!("{}_i", "n".repeat(62))] {
            check_name(name).unwrap();
        }
        for name in ["", "_s", "_i", "email", "Email_s", "a b_s", "ü_s", "a.b_s", "a_x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name(&format!("{}_i", "n".repeat(63))).is_err());
    }

    #[test]
    fn values_have_an_order() {
        let mut texts = ["～", "🍐", "a", "Z"].map(IndexValue::from);
        texts.sort();
        assert_eq!(texts, ["Z", "a", "～", "🍐"].map(IndexValue::from));
        assert!(IndexValue::from(-7) < IndexValue::from(42));
    }
}
