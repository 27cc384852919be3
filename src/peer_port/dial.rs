//! The connecting end of a stream: `GET /peer` with an upgrade.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_engine::config::Config;
use quorate_engine::host::{Dialing, Io, Wire};
use quorate_protocol::name::NodeId;
use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Client, StatusCode, Url};

use crate::peer_port::UPGRADE_NAME;
use crate::server::ServeError;

/// The longest part of a refusal's text that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Connects to the peers of a layout over TCP.
pub(crate) struct Dialer {
    client: Client,
    /// Parsed once: parsing costs as much as the rest of a small request.
    urls: BTreeMap<NodeId, Url>,
}

impl Dialer {
    /// # Errors
    /// [`ServeError`] if a peer's address makes no URL or the HTTP client cannot be built.
    pub(crate) fn new(config: &Config) -> Result<Self, ServeError> {
        // No proxies, no delayed packets (Nagle), and no connection pool, since a connection either
        // becomes a stream or is of no use.
        let client = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_millis(config.timeouts.replica_ms))
            .build()
            .map_err(ServeError::PeerClient)?;
        let mut urls = BTreeMap::new();
        for node in &config.layout.nodes {
            let url = Url::parse(&format!("http://{}/peer", node.peer_addr));
            let url = url.map_err(|_| ServeError::PeerAddr(node.peer_addr.clone()))?;
            urls.insert(node.name, url);
        }
        Ok(Self { client, urls })
    }

    async fn open(&self, peer: NodeId) -> Result<Box<dyn Io>, String> {
        let url = self.urls.get(&peer).ok_or_else(|| format!("{peer} is not in the layout"))?;
        let request = self.client.get(url.clone());
        let request = request.header(CONNECTION, "upgrade").header(UPGRADE, UPGRADE_NAME);
        let mut response = request.send().await.map_err(|error| reason(&error))?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let text = response.chunk().await.unwrap_or_default().unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES_MAX)]);
            return Err(format!("{status}: {text}"));
        }
        let upgraded = response.upgrade().await.map_err(|error| reason(&error))?;
        Ok(Box::new(upgraded))
    }
}

impl Wire for Dialer {
    fn dial(&self, peer: NodeId) -> Dialing<'_> {
        Box::pin(self.open(peer))
    }
}

/// The innermost cause of an error: the most specific one.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
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
        let url = Url::parse(&format!("http://{addr}/peer")).unwrap();
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let dialer = Dialer { client, urls: [(n2, url)].into() };
        let refusing = async {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1000];
            let len = io.read(&mut head).await.unwrap();
            assert!(String::from_utf8_lossy(&head[..len]).contains("upgrade: quorate-peer"));
            let full = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull";
            io.write_all(full).await.unwrap();
            io
        };
        let (refused, _io) = tokio::join!(dialer.dial(n2), refusing);
        assert_eq!(refused.err().unwrap(), "503 Service Unavailable: full");
        drop(listener);
        assert!(dialer.dial(n2).await.err().unwrap().contains("refused"), "nothing listens");
        let stranger = NodeId::parse("n9").unwrap();
        assert!(dialer.dial(stranger).await.err().unwrap().contains("not in the layout"));
    }
}
