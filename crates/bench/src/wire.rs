//! The connection below a request: plain, or with TLS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::Node;

/// What connections to one node need for TLS.
#[derive(Clone)]
pub(crate) struct Secure {
    connector: TlsConnector,
    /// The name that the node's certificate must have.
    host: ServerName<'static>,
}

impl Secure {
    /// For a node with this host, `config` being shared by all.
    ///
    /// # Errors
    /// A sentence that names the host, if no certificate could be of it.
    pub(crate) fn new(config: &Arc<ClientConfig>, host: &str) -> Result<Self, String> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = ServerName::try_from(bare).map_err(|error| format!("{host}: {error}"))?;
        Ok(Self { connector: config.clone().into(), host })
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secure({:?})", self.host)
    }
}

/// What all connections with TLS share: they believe the authorities in this PEM file.
///
/// # Errors
/// A sentence that names the file and what is wrong with it.
pub(crate) fn believing(authorities: &Path) -> Result<Arc<ClientConfig>, String> {
    let wrong = |error: &dyn fmt::Display| format!("--ca {}: {error}", authorities.display());
    let pem = std::fs::read(authorities).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&pem) {
        let authority = authority.map_err(|error| wrong(&error))?;
        roots.add(authority).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| wrong(&error))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// An open connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects to a node, as it is to be spoken to.
    pub(crate) async fn connect(node: &Node) -> std::io::Result<Self> {
        let stream = TcpStream::connect(node.addr).await?;
        stream.set_nodelay(true)?;
        Ok(match &node.secure {
            None => Self::Plain(stream),
            Some(Secure { connector, host }) => {
                Self::Secure(Box::new(connector.connect(host.clone(), stream).await?))
            }
        })
    }

    /// Sends all of it.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Secure(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Appends what has arrived; 0 bytes at the end of the stream.
    pub(crate) async fn read_buf(&mut self, into: &mut Vec<u8>) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(into).await,
            Self::Secure(stream) => stream.read_buf(into).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let refused = || believing(&path).unwrap_err();
        assert!(refused().starts_with("--ca ") && refused().contains("ca.pem: "), "{}", refused());
        std::fs::write(&path, "no PEM").unwrap();
        assert!(refused().ends_with("there is no certificate in it"), "{}", refused());
    }
}
