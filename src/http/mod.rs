//! The HTTP/1.1 server under the client and the peer port: connections, heads, idle clients.

mod closing;
pub(crate) mod descriptors;
mod entrance;
pub(crate) mod framing;
pub(crate) mod heads;
mod http2;
pub(crate) mod idle;
mod impatient;
pub(crate) mod port;
