//! What a new connection meets on a port that speaks TLS.
//!
//! The first byte of a connection tells TLS from HTTP. It is looked at and not read, so that the plain way is
//! the same as on a port without TLS from then on.

use std::io;
use std::sync::Arc;

use quorate_engine::config::TlsMode;
use quorate_protocol::name::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Port;
use super::load::HTTP_2;
use super::node_names::node_of;
use super::slot::Slot;

/// The first byte of a TLS handshake; no method of HTTP begins with it.
const HANDSHAKE: u8 = 0x16;

/// The node that a connection's certificate names, an extension of its requests on the peer port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) NodeId);

/// A connection that has come in.
pub(crate) enum Entered {
    /// With TLS, and on the peer port with a node's certificate.
    Secure(Box<TlsStream<TcpStream>>, Option<Identity>),
    /// Plain, as the port allows.
    Plain(TcpStream),
    /// Plain, which the port does not allow.
    NotSecure(TcpStream),
}

/// Lets a connection in. Takes as long as the other end lets it.
///
/// # Errors
/// If the connection breaks, or the handshake fails.
pub(crate) async fn enter(slot: &Slot, stream: TcpStream) -> io::Result<Entered> {
    let mut first = [0];
    let is_plain = stream.peek(&mut first).await? == 0 || first != [HANDSHAKE];
    if is_plain {
        return Ok(match slot.mode() {
            TlsMode::Require => Entered::NotSecure(stream),
            TlsMode::Off | TlsMode::Accept => Entered::Plain(stream),
        });
    }
    let acceptor = TlsAcceptor::from(slot.current().server.clone());
    let stream = acceptor.accept(stream).await.inspect_err(|error| {
        slot.handshake_failed();
        if let Some(held_back) = slot.failures.now() {
            tracing::warn!(port = slot.port().name(), %error, held_back, "a TLS handshake failed");
        }
    })?;
    let identity = match slot.port() {
        Port::Client => None,
        Port::Peer => Some(identity(&stream)?),
    };
    Ok(Entered::Secure(Box::new(stream), identity))
}

/// The node at the other end.
fn identity(stream: &TlsStream<TcpStream>) -> io::Result<Identity> {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some(own) = shown else { return Err(io::Error::other("no certificate was shown")) };
    node_of(own).map(Identity).map_err(io::Error::other)
}

/// Whether both ends have agreed on HTTP/2.
pub(crate) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP_2)
}

/// What a port does with connections: as its slot says, or plainly if it has none.
pub(crate) type Door = Option<Arc<Slot>>;
