//! Which peers are up, suspected or down, and the state that they advertise.

pub mod advertised;
pub mod datagrams;
pub mod health;
pub mod peer_time;
pub mod phi;
pub mod round_trips;
