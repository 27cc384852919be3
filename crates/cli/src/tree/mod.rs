//! `quorate load` and `quorate verify`: every file of a directory as a key.

pub(crate) mod job;
pub(crate) mod load;
pub(crate) mod walk;
