//! File descriptors: how many each part of the node may use.
//!
//! A store that cannot open its next file fails, and with it the node. So the store is allotted its
//! share first, then the peers, and clients get the rest: a client connection past that is refused
//! and can retry later.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::http::port::{Bounds, REFUSALS_MAX};

/// The most descriptors of an open store: the tables that it keeps open (`max_open_files` of the
/// store's options), and other files: logs, manifests, and the outputs of flushes and compactions.
const OF_STORE: usize = 512 + 128;
/// Standard streams, listeners, the runtime, gossip, connections being refused on both ports, and
/// the disk check.
const OF_NODE: usize = 64 + 2 * REFUSALS_MAX;
/// Streams to a peer per lane: for reads, for writes, and for the rest.
const STREAMS_PER_LANE: usize = 3;
/// With fewer client connections than this a node is not worth running.
const CLIENTS_MIN: usize = 16;

/// The descriptor limit is too low to run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, but at least {needed} are needed; raise it \
     (ulimit -n, or LimitNOFILE= of the service)"
)]
pub struct TooFew {
    limit: usize,
    needed: usize,
}

/// Raises the soft limit to the hard limit, as far as the system allows. Returns the resulting
/// limit; `usize::MAX` for none.
pub(crate) fn raise_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "could not raise the limit of open files");
        }
        limit = getrlimit(Resource::Nofile);
    }
    limit.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// How many client connections a descriptor limit allows in a cluster of so many nodes.
///
/// # Errors
/// [`TooFew`]: not enough even for the store and the peers.
pub(crate) fn client_connections(
    config: &Config,
    nodes: usize,
    limit: usize,
) -> Result<usize, TooFew> {
    let peers = nodes.saturating_sub(1);
    let to_peers = config.peers.lanes.saturating_mul(STREAMS_PER_LANE).saturating_mul(peers);
    let from_peers = Bounds::for_peers(config, nodes).connections_max;
    let taken = OF_STORE.saturating_add(OF_NODE).saturating_add(to_peers);
    let taken = taken.saturating_add(from_peers);
    let left = limit.saturating_sub(taken);
    if left < CLIENTS_MIN {
        return Err(TooFew { limit, needed: taken.saturating_add(CLIENTS_MIN) });
    }
    Ok(left.min(config.limits.connections_max))
}

/// How many descriptors this process has open; `None` if the system does not report it.
pub(crate) fn open_now() -> Option<u64> {
    let open = std::fs::read_dir("/dev/fd").ok()?;
    Some((open.count() as u64).saturating_sub(1)) // less the one that lists them
}

/// The current limit of descriptors; `None` for no limit.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_store_and_the_peers_leave() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        let key = "07".repeat(32);
        let text = format!(
            "cluster_id = \"x\"\ncluster_keys = [\"{key}\"]\nnode = \"n1\"\ndata_dir = \"d\"\n\
             [layout]\n[[layout.nodes]]\nname = \"n1\"\npeer_addr = \"127.0.0.1:7501\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        let clients = |limit| client_connections(&config, 1, limit);
        assert_eq!(clients(usize::MAX), Ok(config.limits.connections_max));
        let some = clients(1024).unwrap();
        assert!((CLIENTS_MIN..1024 - OF_STORE).contains(&some), "{some}");
        assert_eq!(clients(1025), Ok(some + 1));
        let needed = clients(100).unwrap_err().needed;
        assert_eq!(clients(needed), Ok(CLIENTS_MIN));
        assert!(clients(needed - 1).is_err());
    }

    #[test]
    fn open_descriptors_are_counted() {
        let before = open_now().unwrap();
        let _files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_now().unwrap() >= before + 25, "other tests open and close some concurrently");
    }
}
