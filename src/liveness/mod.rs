//! Which peers are up, suspected or down, and what they say about themselves.

pub(crate) mod advertised;
pub(crate) mod gossip;
pub(crate) mod health;
pub(crate) mod phi;
