//! From the acceptance of a connection to its first request, on a port that speaks TLS. Nobody may take a
//! slot of the port for long without having said anything: who has not finished the handshake makes way
//! like who is idle.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::http::idle::Crowd;
use crate::tls::door::{Entered, enter};
use crate::tls::slot::Slot;

/// The response to plain HTTP on a port that takes TLS alone.
pub(crate) const NOT_SECURE: &[u8] = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\n\
    Connection: Upgrade, close\r\nContent-Type: application/problem+json\r\nContent-Length: 131\r\n\r\n\
    {\"type\":\"urn:quorate:problem:tls_required\",\"title\":\"TLS required\",\
    \"status\":426,\"detail\":\"this port takes TLS alone: use https://\"}\n";

/// Lets a connection in, within limits of time. `None` if it broke, took too long, or had to make way for
/// another one or for the stop.
pub(super) async fn entered(
    slot: &Slot,
    stream: TcpStream,
    (patience, crowd): (Duration, &Arc<Crowd>),
    stop: &CancellationToken,
) -> Option<Entered> {
    tokio::select! {
        biased; // what has arrived by now is read before the connection counts as idle
        entered = enter(slot, stream) => entered.ok(),
        () = stop.cancelled() => None,
        () = crowd.wait(patience) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_refusal_is_right() {
        let text = std::str::from_utf8(NOT_SECURE).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
