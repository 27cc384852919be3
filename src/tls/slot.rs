//! What one port has loaded, and its replacement. Connections that are open keep what they began with.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quorate_engine::config::{Config, TlsConfig, TlsMode};
use quorate_engine::host::CertificateState;
use quorate_engine::seldom::Seldom;
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use rustls::pki_types::UnixTime;

use super::Port;
use super::files::Contents;
use super::load::{Loaded, TlsError};

/// TLS of one port.
pub(crate) struct Slot {
    port: Port,
    settings: TlsConfig,
    node: NodeId,
    current: RwLock<Arc<Loaded>>,
    /// Why the files that are there now are not used.
    trouble: Mutex<Option<TlsError>>,
    handshakes_failed: AtomicU64,
    pub(super) failures: Seldom,
}

/// What became of a look at the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// They are as they were.
    Same,
    /// They were loaded.
    Replaced,
    /// They cannot be used; what was there before is.
    Failed(TlsError),
}

impl Slot {
    /// Loads the files of a port. Blocks.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn load(config: &Config, port: Port) -> Result<Self, TlsError> {
        let (settings, node) = (port.settings(config).clone(), config.node);
        let contents = Contents::read(port, &settings)?;
        let loaded = Loaded::new((port, &settings), node, contents, now())?;
        Ok(Self {
            port,
            settings,
            node,
            current: RwLock::new(Arc::new(loaded)),
            trouble: Mutex::default(),
            handshakes_failed: AtomicU64::new(0),
            failures: Seldom::new(),
        })
    }

    /// Which port it is of.
    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// Whether plain text is taken too.
    pub(crate) fn mode(&self) -> TlsMode {
        self.settings.mode
    }

    /// What new connections use.
    pub(crate) fn current(&self) -> Arc<Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files, and loads them if they have changed. Blocks.
    pub(super) fn look(&self) -> Looked {
        let current = self.current();
        let made = match Contents::read(self.port, &self.settings) {
            Ok(contents) if contents == current.contents => {
                self.set_trouble(None);
                return Looked::Same;
            }
            Ok(contents) => Loaded::new((self.port, &self.settings), self.node, contents, now()),
            Err(error) => Err(error),
        };
        match made {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                self.set_trouble(None);
                Looked::Replaced
            }
            Err(error) => Looked::Failed(error),
        }
    }

    /// Notes why the files are not used. Returns whether that is news.
    pub(super) fn set_trouble(&self, trouble: Option<TlsError>) -> bool {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *told != trouble;
        *told = trouble;
        is_news
    }

    /// Counts a handshake that failed.
    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    /// What there is to show.
    pub(super) fn state(&self) -> CertificateState {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        CertificateState {
            port: self.port.name(),
            expires: self.current().expires,
            reload_failed: trouble.is_some(),
            handshakes_failed: self.handshakes_failed.load(Relaxed),
        }
    }
}

fn now() -> WallTime {
    WallTime(UnixTime::now().as_secs().saturating_mul(1000))
}

impl fmt::Debug for Slot {
    /// Without anything of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({}, {})", self.port.name(), self.settings.mode.name())
    }
}
