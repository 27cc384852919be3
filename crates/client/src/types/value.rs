//! The values of each type, as answers have them.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::data_type::DataType;

/// The value of a type: [`i128`] of a counter, `BTreeSet<String>` of a set, [`bool`] of a flag, [`Fields`]
/// of a map, `Option<String>` of a register, [`u64`] of an estimate; [`AnyValue`] of any of them.
pub trait TypedValue: sealed::Sealed + Send + Sync + 'static {}

/// A value of any type, for programs that show whatever is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnyValue {
    /// The total of a counter.
    Counter(i128),
    /// The elements of a set.
    Set(BTreeSet<String>),
    /// Whether a flag is on.
    Flag(bool),
    /// The fields of a map.
    Map(Fields),
    /// The text of a register, if one was assigned.
    Register(Option<String>),
    /// How many different strings were added, about.
    Estimate(u64),
}

impl AnyValue {
    /// Its type.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Counter(_) => DataType::Counter,
            Self::Set(_) => DataType::Set,
            Self::Flag(_) => DataType::Flag,
            Self::Map(_) => DataType::Map,
            Self::Register(_) => DataType::RegisterLww,
            Self::Estimate(_) => DataType::Hll,
        }
    }
}

/// The fields of a map, by name.
pub type Fields = BTreeMap<String, Field>;

/// What a map has under one name. Writers may use one name for a text, a flag and a set: they are fields of
/// their own, and stay.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Field {
    /// The text, if one was assigned.
    #[serde(default, rename = "register_lww", skip_serializing_if = "Option::is_none")]
    pub register: Option<String>,
    /// Whether it is switched on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flag: bool,
    /// The elements of the set; none if there is no set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub set: BTreeSet<String>,
}

/// Keeps the trait to this crate's values.
pub(super) mod sealed {
    use serde_json::Value as Json;

    use super::DataType;

    /// How a value is read.
    pub trait Sealed: Sized {
        /// The type that its bucket must have; none if it can be any.
        const TYPE: Option<DataType>;

        /// Reads it from the `value` of an answer about a bucket of this type.
        ///
        /// # Errors
        /// What is wrong with it.
        fn of_json(data_type: DataType, json: Json) -> Result<Self, String>;
    }
}

/// What a value of a type is read by.
macro_rules! typed {
    ($value:ty, $type:ident, $read:ident) => {
        impl TypedValue for $value {}

        impl sealed::Sealed for $value {
            const TYPE: Option<DataType> = Some(DataType::$type);

            fn of_json(_: DataType, json: Json) -> Result<Self, String> {
                $read(json)
            }
        }
    };
}

typed!(i128, Counter, total);
typed!(BTreeSet<String>, Set, parsed);
typed!(bool, Flag, parsed);
typed!(Fields, Map, parsed);
typed!(Option<String>, RegisterLww, parsed);
typed!(u64, Hll, parsed);

impl TypedValue for AnyValue {}

impl sealed::Sealed for AnyValue {
    const TYPE: Option<DataType> = None;

    fn of_json(data_type: DataType, json: Json) -> Result<Self, String> {
        Ok(match data_type {
            DataType::Counter => Self::Counter(total(json)?),
            DataType::Set => Self::Set(parsed(json)?),
            DataType::Flag => Self::Flag(parsed(json)?),
            DataType::Map => Self::Map(parsed(json)?),
            DataType::RegisterLww => Self::Register(parsed(json)?),
            DataType::Hll => Self::Estimate(parsed(json)?),
            DataType::Value | DataType::Unknown => {
                return Err("a type that this release does not know".to_owned());
            }
        })
    }
}

fn total(json: Json) -> Result<i128, String> {
    let number = match &json {
        Json::Number(number) => {
            number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
        }
        Json::String(text) => text.parse().ok(), // beyond 64 bits
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    };
    number.ok_or_else(|| format!("{json} is no whole number"))
}

fn parsed<T: DeserializeOwned>(json: Json) -> Result<T, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}
