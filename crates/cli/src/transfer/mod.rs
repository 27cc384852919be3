//! `quorate export` and `quorate import`: keys with all that is stored with them, as JSON lines.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod line;
mod merge;
