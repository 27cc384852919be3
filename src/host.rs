//! Hosts the engine on this machine: connections over TCP.

use std::sync::Arc;

use quorate_engine::config::Config;
use quorate_engine::host::Host;
use quorate_engine::node::Node;

use crate::peer_port::dial::Dialer;
use crate::server::ServeError;

/// Starts a node. Nothing listens yet.
///
/// # Errors
/// [`ServeError`], which says what to do.
pub(crate) fn start(config: Config) -> Result<Arc<Node>, ServeError> {
    let host = Host { wire: Arc::new(Dialer::new(&config)?) };
    Ok(Node::start(config, host)?)
}
