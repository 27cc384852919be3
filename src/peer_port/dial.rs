//! The connecting end of a stream: `GET /peer` with an upgrade.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_engine::config::Config;
use quorate_engine::config::checks::is_host_and_port;
use quorate_engine::host::{Dialing, Io, Wire};
use quorate_protocol::name::NodeId;
use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Client, StatusCode, Url};

use crate::peer_port::UPGRADE_NAME;

/// The longest part of a refusal's text that is shown, in bytes.
const TEXT_BYTES_MAX: usize = 500;
/// The most addresses whose URLs are kept: a cluster has at most 255 nodes.
const URLS_MAX: usize = 512;

/// Why no peer could be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// A peer's address is not a host and port.
    #[error("layout.nodes.peer_addr {0:?} is not a host and port")]
    PeerAddr(String),
    /// The HTTP client for peers could not be built.
    #[error("cannot build the HTTP client for peers: {0}")]
    Client(#[from] reqwest::Error),
}

/// Connects to peers over TCP.
pub(crate) struct Dialer {
    client: Client,
    /// By address. Parsed once: parsing costs as much as the rest of a small request.
    urls: Mutex<BTreeMap<String, Url>>,
}

impl Dialer {
    /// Connects to nodes, those of the configured layout and others.
    ///
    /// # Errors
    /// [`DialerError`] if a peer's address makes no URL or the HTTP client cannot be built.
    pub(crate) fn new(config: &Config) -> Result<Self, DialerError> {
        // No proxies, no delayed packets (Nagle), and no connection pool, since a connection either
        // becomes a stream or is of no use.
        let client = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_millis(config.timeouts.replica_ms))
            .build()?;
        let dialer = Self { client, urls: Mutex::default() };
        for node in config.layout_nodes() {
            let wrong = |_| DialerError::PeerAddr(node.peer_addr.clone());
            dialer.url(&node.peer_addr).map_err(wrong)?;
        }
        Ok(dialer)
    }

    /// The URL of the peer port at an address.
    fn url(&self, addr: &str) -> Result<Url, String> {
        let mut urls = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(url) = urls.get(addr) {
            return Ok(url.clone());
        }
        let wrong = || format!("the peer address {addr:?} is not a host and port");
        if !is_host_and_port(addr) {
            return Err(wrong());
        }
        let url = Url::parse(&format!("http://{addr}/peer")).map_err(|_| wrong())?;
        let has_more = url.path() != "/peer" || url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong());
        }
        if urls.len() >= URLS_MAX {
            urls.clear(); // of nodes that have moved or left, mostly; the others are parsed again
        }
        urls.insert(addr.to_owned(), url.clone());
        Ok(url)
    }

    async fn open(&self, addr: &str) -> Result<Box<dyn Io>, String> {
        let url = self.url(addr)?;
        let request = self.client.get(url);
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
    fn dial<'a>(&'a self, _peer: NodeId, addr: &'a str) -> Dialing<'a> {
        Box::pin(self.open(addr))
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
    async fn addresses_are_parsed_once_and_bad_ones_refused_in_words() {
        let (dialer, n2) = (dialer(), NodeId::parse("n2").unwrap());
        for bad in
            ["", "host", "host:0", "host:70000", "a b:1", "h:1/x:2", "u@h/y:3", "h?q:4", "h#f:5"]
        {
            let error = dialer.dial(n2, bad).await.err().unwrap();
            assert!(error.contains("is not a host and port"), "{bad}: {error}");
        }
        assert!(dialer.urls.lock().unwrap().is_empty(), "no bad address is kept");
        for port in 1..=2 * URLS_MAX {
            let url = dialer.url(&format!("127.0.0.1:{port}")).unwrap();
            assert_eq!(url.as_str(), format!("http://127.0.0.1:{port}/peer").replace(":80/", "/"));
        }
        assert!(dialer.urls.lock().unwrap().len() <= URLS_MAX);
    }

    fn dialer() -> Dialer {
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        Dialer { client, urls: Mutex::default() }
    }
}
