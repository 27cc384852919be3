//! The connecting end of a stream: `GET /peer` with an upgrade.

use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use quorate_engine::config::Config;
use quorate_engine::host::{Dialing, Io, Wire};
use quorate_protocol::name::NodeId;

use crate::peer_port::UPGRADE_NAME;
use crate::peer_port::connect::{Connector, host_header, reason};
use crate::tls::Tls;

/// The longest part of a refusal's text that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Why no peer could be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// A peer's address is not a host and port.
    #[error("layout.nodes.peer_addr {0:?} is not a host and port")]
    PeerAddr(String),
}

/// Connects to peers over TCP.
pub(crate) struct Dialer(Connector);

impl Dialer {
    /// Connects to nodes, those of the configured layout and others.
    ///
    /// # Errors
    /// [`DialerError`] if a peer's address is not a host and port.
    pub(crate) fn new(config: &Config, tls: &Tls) -> Result<Self, DialerError> {
        for node in config.layout_nodes() {
            let wrong = |_| DialerError::PeerAddr(node.peer_addr.clone());
            host_header(&node.peer_addr).map_err(wrong)?;
        }
        Ok(Self(Connector::new(config, tls)))
    }

    async fn open(&self, peer: NodeId, addr: &str) -> Result<Box<dyn Io>, String> {
        let request =
            Request::get("/peer").header(CONNECTION, "upgrade").header(UPGRADE, UPGRADE_NAME);
        let request = request.body(Bytes::new()).map_err(|error| error.to_string())?;
        let mut response = self.0.send((addr, Some(peer)), request).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let text = match response.frame().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) | None => Bytes::new(),
            };
            let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES_MAX)]);
            return Err(format!("{status}: {text}"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| reason(&error))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

impl Wire for Dialer {
    fn dial<'a>(&'a self, peer: NodeId, addr: &'a str) -> Dialing<'a> {
        Box::pin(self.open(peer, addr))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_opens_no_stream_is_told_in_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let n2 = NodeId::parse("n2").unwrap();
        let addr = addr.to_string();
        let dialer = dialer();
        let refusing = async {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1000];
            let len = io.read(&mut head).await.unwrap();
            assert!(String::from_utf8_lossy(&head[..len]).contains("upgrade: quorate-peer"));
            let full = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull";
            io.write_all(full).await.unwrap();
            io
        };
        let (refused, _io) = tokio::join!(dialer.dial(n2, &addr), refusing);
        assert_eq!(refused.err().unwrap(), "503 Service Unavailable: full");
        drop(listener);
        assert!(dialer.dial(n2, &addr).await.err().unwrap().contains("refused"), "nothing listens");
    }

    #[tokio::test]
    async fn bad_addresses_are_refused_in_words() {
        let (dialer, n2) = (dialer(), NodeId::parse("n2").unwrap());
        for bad in [
            "",
            "host",
            "host:0",
            "host:70000",
            "a b:1",
            "h:1/x:2",
            "u@h/y:3",
            "u@h:3",
            "h?q:4",
            "h#f:5",
        ] {
            let error = dialer.dial(n2, bad).await.err().unwrap();
            assert!(error.contains("is not a host and port"), "{bad}: {error}");
        }
        assert_eq!(host_header("[::1]:7501").unwrap(), "[::1]:7501");
    }

    fn dialer() -> Dialer {
        Dialer(Connector::plain(std::time::Duration::from_secs(5)))
    }
}
