//! File descriptors: who may use how many.
//!
//! A store that cannot open its next file fails, and with it the node. So it gets its share first,
//! then the peers, and clients get what is left: of them one too many is refused, and comes again
//! later.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::http::port::{Bounds, REFUSALS_MAX};

/// What an open store holds at most: the tables that it keeps open (`max_open_files` of the store's
/// options), and what is written beside them: logs, manifests, and the outputs of flushes and
/// compactions.
const OF_STORE: usize = 512 + 128;
/// Standard streams, listeners, the runtime's own, gossip, connections that are being refused, and
/// what a look at the disk opens for a moment.
const OF_NODE: usize = 64 + 2 * REFUSALS_MAX;
/// Streams that a node opens to a peer for each lane: of reads, of writes, and of all else.
const STREAMS_PER_LANE: usize = 3;
/// With fewer client connections than this a node is of no use.
const CLIENTS_MIN: usize = 16;

/// There are too few to run with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and {needed} is the least to run with; raise it \
     (ulimit -n, or LimitNOFILE= of the service)"
)]
pub struct TooFew {
    limit: usize,
    needed: usize,
}

/// Raises the soft limit to the hard one, as far as the system lets it. Returns what holds then;
/// `usize::MAX` for no limit.
pub(crate) fn raise_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
        limit = getrlimit(Resource::Nofile);
    }
    limit.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// How many connections clients may have under a limit of descriptors.
///
/// # Errors
/// [`TooFew`]: they would not even do for the store and the peers.
pub(crate) fn client_connections(config: &Config, limit: usize) -> Result<usize, TooFew> {
    let peers = config.layout.nodes.len().saturating_sub(1);
    let to_peers = config.peers.lanes.saturating_mul(STREAMS_PER_LANE).saturating_mul(peers);
    let from_peers = Bounds::for_peers(config).connections_max;
    let taken = OF_STORE.saturating_add(OF_NODE).saturating_add(to_peers);
    let taken = taken.saturating_add(from_peers);
    let left = limit.saturating_sub(taken);
    if left < CLIENTS_MIN {
        return Err(TooFew { limit, needed: taken.saturating_add(CLIENTS_MIN) });
    }
    Ok(left.min(config.limits.connections_max))
}

/// How many descriptors this process has open; `None` where the system does not tell.
pub(crate) fn open_now() -> Option<u64> {
    let open = std::fs::read_dir("/dev/fd").ok()?;
    Some((open.count() as u64).saturating_sub(1)) // the one that reads
}

/// How many it may open; `None` for no limit.
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
        let config = Config::load(&file).unwrap();
        let clients = |limit| client_connections(&config, limit);
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
        assert!(open_now().unwrap() >= before + 25, "other tests open and close some meanwhile");
    }
}
