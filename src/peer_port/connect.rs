//! Connections to the peer ports of others, with TLS or without, and one request on each.
//!
//! While `peer_tls.mode` is "accept", TLS is tried first. A node that does not speak it is connected to again
//! in plain text, and plainly at once for the next minute. One that takes TLS alone says so (426) before
//! it does anything, and then is asked with TLS.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::{HOST, UPGRADE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use quorate_engine::config::checks::is_host_and_port;
use quorate_engine::config::{Config, TlsMode};
use quorate_engine::host::Io;
use quorate_protocol::name::NodeId;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::Tls;
use crate::tls::slot::Slot;

/// How long a node that does not speak TLS is asked plainly at once.
const PLAIN_FOR: Duration = Duration::from_secs(60);
/// The most nodes of which that is remembered: a cluster has at most 255.
const REMEMBERED_MAX: usize = 512;

/// Connects to peers.
#[derive(Debug)]
pub(crate) struct Connector {
    /// How long a connection may take to be made, and then again the handshake of TLS.
    within: Duration,
    tls: Option<Arc<Slot>>,
    /// Which addresses spoke no TLS, until when that is believed.
    plain: Mutex<BTreeMap<String, Instant>>,
}

/// Why a connection with TLS was not made.
enum NoTls {
    /// The other end does not speak it.
    Foreign,
    /// Anything else, in words.
    Failed(String),
}

impl Connector {
    /// Connects as a node with this configuration does.
    pub(crate) fn new(config: &Config, tls: &Tls) -> Self {
        let within = Duration::from_millis(config.timeouts.replica_ms);
        Self { within, tls: tls.peer.clone(), plain: Mutex::default() }
    }

    /// Connects without TLS.
    #[cfg(test)]
    pub(super) fn plain(within: Duration) -> Self {
        Self { within, tls: None, plain: Mutex::default() }
    }

    /// Sends a request to the node at an address (host and port); the one that is meant, or whichever is
    /// there if none. The answer's connection lives as long as the answer.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(crate) async fn send(
        &self,
        (addr, meant): (&str, Option<NodeId>),
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, String> {
        let host = host_header(addr)?;
        request.headers_mut().insert(HOST, host);
        let Some(slot) = &self.tls else { return exchange(self.reach(addr).await?, request).await };
        if slot.mode() == TlsMode::Accept && self.is_plain(addr) {
            let answer = exchange(self.reach(addr).await?, request.clone()).await?;
            if !wants_tls(&answer) {
                return Ok(answer);
            }
            self.forget(addr);
        }
        match self.secure(slot, addr, meant).await {
            Ok(stream) => exchange(stream, request).await,
            Err(NoTls::Foreign) if slot.mode() == TlsMode::Accept => {
                self.remember(addr);
                exchange(self.reach(addr).await?, request).await
            }
            Err(NoTls::Foreign) => {
                Err("it does not speak TLS, which peer_tls.mode requires".to_owned())
            }
            Err(NoTls::Failed(why)) => Err(why),
        }
    }

    /// The same, with the answer read whole, which has at most so many bytes.
    ///
    /// # Errors
    /// Why there is no answer, or no end of it, in words.
    pub(crate) async fn ask(
        &self,
        whom: (&str, Option<NodeId>),
        request: Request<Bytes>,
        bytes_max: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let (head, body) = self.send(whom, request).await?.into_parts();
        let body = Limited::new(body, bytes_max).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => "its answer is too long".to_owned(),
            false => format!("its answer: {error}"),
        });
        let body = body?.to_bytes();
        Ok((head.status, head.headers, body))
    }

    async fn reach(&self, addr: &str) -> Result<TcpStream, String> {
        match timeout(self.within, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                drop(stream.set_nodelay(true)); // no delayed packets
                Ok(stream)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no connection in time".to_owned()),
        }
    }

    async fn secure(
        &self,
        slot: &Slot,
        addr: &str,
        meant: Option<NodeId>,
    ) -> Result<Box<TlsStream<TcpStream>>, NoTls> {
        let failed = |why: &str| NoTls::Failed(why.to_owned());
        let config =
            slot.current().to_peer(meant).ok_or_else(|| failed("there is no certificate"))?;
        let stream = self.reach(addr).await.map_err(NoTls::Failed)?;
        // Nobody looks at it: the node's name is verified, not the host's.
        let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        match timeout(self.within, connecting).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) if is_foreign(&error) => Err(NoTls::Foreign),
            Ok(Err(error)) => Err(NoTls::Failed(format!("TLS: {error}"))),
            Err(_) => Err(failed("no TLS handshake in time")),
        }
    }

    fn is_plain(&self, addr: &str) -> bool {
        let plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        plain.get(addr).is_some_and(|until| Instant::now() < *until)
    }

    fn forget(&self, addr: &str) {
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).remove(addr);
    }

    fn remember(&self, addr: &str) {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.len() >= REMEMBERED_MAX {
            plain.clear(); // of nodes that have moved or left, mostly; the others are tried again
        }
        plain.insert(addr.to_owned(), Instant::now() + PLAIN_FOR);
    }
}

/// The value of the header `Host` for an address.
///
/// # Errors
/// If it is no host and port, or more than that.
pub(crate) fn host_header(addr: &str) -> Result<HeaderValue, String> {
    let wrong = || format!("the peer address {addr:?} is not a host and port");
    let authority: Authority = addr.parse().map_err(|_| wrong())?;
    if !is_host_and_port(addr) || addr.contains('@') || authority.port().is_none() {
        return Err(wrong());
    }
    HeaderValue::from_str(addr).map_err(|_| wrong())
}

/// One request on a connection of its own.
async fn exchange(
    stream: impl Io + 'static,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| reason(&error))?;
    // Ends with the answer, or with the stream that the connection becomes.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    sender.send_request(request.map(Full::new)).await.map_err(|error| reason(&error))
}

/// Whether a node refuses what does not come with TLS.
fn wants_tls(answer: &Response<Incoming>) -> bool {
    let upgrade = answer.headers().get(UPGRADE).map(HeaderValue::as_bytes);
    answer.status() == StatusCode::UPGRADE_REQUIRED
        && upgrade.is_some_and(|name| name.starts_with(b"TLS/"))
}

/// Whether what answered does not speak TLS: it sent something else.
fn is_foreign(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

/// The innermost cause of an error: the most specific one.
pub(crate) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
