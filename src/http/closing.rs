//! How a port closes without resetting anybody.
//!
//! When a listener ends, the kernel resets the connections that it has completed and nobody has accepted,
//! and there is always a moment between the last look for one and the end. So the kernel is first told to
//! let no new handshake begin, then those that have begun may complete, and only then the listener ends. A
//! client that comes in between repeats its SYN, after a second, and is refused.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long a handshake that has begun may take to complete, in milliseconds: a round trip.
const HANDSHAKE_MS: u64 = 10;

/// Closes a listener, and with it its socket: nobody else may go on with that. `take` is given every
/// connection that the kernel completed on it.
pub(super) async fn close(listener: TcpListener, mut take: impl FnMut(TcpStream)) {
    if let Err(error) = let_no_handshake_begin(&listener) {
        tracing::debug!(%error, "whoever connects while the port closes may be reset");
    }
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            take(stream);
        }
    };
    drop(timeout(Duration::from_millis(HANDSHAKE_MS), accepting).await);
    waiting(listener).into_iter().for_each(take);
}

/// Ends a listener and returns the connections that wait on it. The kernel itself is asked, since the
/// runtime has not yet heard of those that came just now.
fn waiting(listener: TcpListener) -> Vec<TcpStream> {
    let mut waiting = Vec::new();
    let Ok(listener) = listener.into_std() else { return waiting };
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                waiting.extend(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return waiting, // there are no more, or no descriptors for them
        }
    }
}

/// Lets the kernel drop each segment to the listener that would begin a handshake (RFC 9293, 3.5: SYN and
/// not ACK). The filter sees the TCP header first.
#[cfg(target_os = "linux")]
fn let_no_handshake_begin(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn let_no_handshake_begin(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Connections that the runtime has not heard of: it looks only between tasks.
    #[tokio::test]
    async fn what_the_kernel_has_accepted_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(listener.accept().now_or_never().is_none());
        let clients = [(); 3].map(|()| std::net::TcpStream::connect(addr).unwrap());
        assert!(listener.accept().now_or_never().is_none(), "it has not looked");
        assert_eq!(waiting(listener).len(), 3);
        drop(clients);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn nobody_begins_a_handshake_once_that_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let early = std::net::TcpStream::connect(addr).unwrap();
        let_no_handshake_begin(&listener).unwrap();
        let late = std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(waiting(listener).len(), 1);
        let refused = std::net::TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(early);
    }
}
