//! TLS on the client port and between nodes: certificates, keys and authorities, loaded, checked and loaded
//! again (docs/security.md).
//!
//! `files` reads what a port is configured with, `certificate` says what is in a certificate, `node_names`
//! recognises nodes (`pinned` one certificate; `verifier` is what both share), `authority` signs, `load`
//! makes of all that what rustls needs. `slot` holds it for one port and replaces it (`reload`); `door` is
//! what a new connection meets. Connections to peers are opened in `peer_port/connect.rs`.

pub(crate) mod authority;
pub(crate) mod certificate;
pub(crate) mod door;
pub(crate) mod files;
pub(crate) mod load;
mod node_names;
pub(crate) mod own_client;
mod pinned;
pub(crate) mod private_file;
pub(crate) mod reload;
pub(crate) mod slot;
mod verifier;

use std::sync::Arc;

use quorate_engine::config::{Config, TlsConfig, TlsMode};
use quorate_engine::host::{CertificateState, Certificates};
use rustls::crypto::CryptoProvider;

pub use self::load::TlsError;
use self::slot::Slot;

/// A port that can speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The client port.
    Client,
    /// The peer port, and connections to those of others.
    Peer,
}

impl Port {
    /// Its name in metrics and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }

    /// Its settings.
    pub(crate) fn settings(self, config: &Config) -> &TlsConfig {
        match self {
            Self::Client => &config.client_tls,
            Self::Peer => &config.peer_tls,
        }
    }
}

/// What a node has for TLS: nothing for a port whose mode is "off".
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// For the client port.
    pub(crate) client: Option<Arc<Slot>>,
    /// For the peer port and connections to peers.
    pub(crate) peer: Option<Arc<Slot>>,
}

impl Tls {
    /// Loads what a configuration names. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] that names the setting and the file, and says what to do.
    pub(crate) fn load(config: &Config) -> Result<Self, TlsError> {
        let slot = |port: Port| match port.settings(config).mode {
            TlsMode::Off => Ok(None),
            TlsMode::Accept | TlsMode::Require => Slot::load(config, port).map(Arc::new).map(Some),
        };
        Ok(Self { client: slot(Port::Client)?, peer: slot(Port::Peer)? })
    }

    /// Whether no port speaks TLS.
    pub(crate) fn is_off(&self) -> bool {
        self.client.is_none() && self.peer.is_none()
    }

    fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.client.iter().chain(&self.peer)
    }
}

impl Certificates for Tls {
    fn list(&self) -> Vec<CertificateState> {
        self.slots().map(|slot| slot.state()).collect()
    }
}

/// The cryptography that all TLS here uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
