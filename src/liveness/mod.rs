//! Which peers are up, suspected or down, and the state that they advertise.

pub(crate) mod advertised;
pub(crate) mod gossip;
pub(crate) mod health;
pub(crate) mod peer_time;
pub(crate) mod phi;
pub(crate) mod round_trips;
