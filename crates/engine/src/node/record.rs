//! Small records of a node in its store: one value under a name, encoded by postcard.

use quorate_storage::{Error, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::errors::StartError;

/// The value under a name, if there is one. Blocks.
///
/// # Errors
/// [`StartError::Record`] if it cannot be decoded, or the store's error.
pub fn load<T: DeserializeOwned>(
    store: &Store,
    name: &'static str,
) -> Result<Option<T>, StartError> {
    let Some(bytes) = store.meta(name)? else { return Ok(None) };
    postcard::from_bytes(&bytes).map(Some).map_err(|_| StartError::Record(name))
}

/// Replaces the value under a name, durably. Blocks.
///
/// # Errors
/// The store's.
pub fn put(store: &Store, name: &str, value: &impl Serialize) -> Result<(), Error> {
    store.put_meta(name, &encoded(value))
}

/// A value as it is recorded.
///
/// # Panics
/// Never: postcard fails only for sequences of unknown length, and no record has one. An empty record
/// instead would be made durable, and the next start would find it damaged.
pub fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a record has only sequences of known length")
}
