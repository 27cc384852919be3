//! What a node needs from the process that hosts it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use quorate_protocol::name::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to a peer: bytes in order, both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that is being opened; the error says in words why that failed.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Io>, String>> + Send + 'a>>;

/// Opens connections to peers. The other end is served by
/// [`crate::peer_port::stream::answer_all`].
pub trait Wire: Send + Sync {
    /// Opens a connection to a peer of the layout. The caller gives up after its own time limit.
    fn dial(&self, peer: NodeId) -> Dialing<'_>;
}

/// What a node is started on.
#[derive(Clone)]
pub struct Host {
    /// Connections to peers.
    pub wire: Arc<dyn Wire>,
}
