//! The type of a bucket's values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The type of a bucket's values. A bucket gets one while it has no keys, and keeps it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DataType {
    /// Bytes, chosen by clients; the default.
    Value,
    /// A number that is incremented and decremented.
    Counter,
    /// A set of strings. An add that a remove has not seen survives it.
    Set,
    /// On or off. An enabling that a disabling has not seen survives it.
    Flag,
    /// Named fields, each a register, a flag or a set.
    Map,
    /// A string; of concurrent ones the last.
    RegisterLww,
    /// An estimate of how many different strings were added (HyperLogLog).
    Hll,
    /// A type of a later release than this client's.
    #[serde(other)]
    Unknown,
}

impl DataType {
    /// All that this client knows.
    pub const ALL: [Self; 7] = [
        Self::Value,
        Self::Counter,
        Self::Set,
        Self::Flag,
        Self::Map,
        Self::RegisterLww,
        Self::Hll,
    ];

    /// Its name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Flag => "flag",
            Self::Map => "map",
            Self::RegisterLww => "register_lww",
            Self::Hll => "hll",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DataType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|known| known.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("type", format!("must be one of {names}, not {text:?}"))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn types_have_one_name_everywhere() {
        for known in DataType::ALL {
            assert_eq!(known.name().parse::<DataType>().unwrap(), known);
            let json = serde_json::to_value(known).unwrap();
            assert_eq!(json, known.name());
            assert_eq!(serde_json::from_value::<DataType>(json).unwrap(), known);
        }
        assert!("list".parse::<DataType>().is_err());
        assert_eq!(serde_json::from_str::<DataType>("\"list\"").unwrap(), DataType::Unknown);
    }
}
