//! A node that joins a running cluster: it asks the members to be added, shows on its ports that it waits,
//! and stores the record by which it was added. Then it starts like any other node.
//!
//! Whatever is interrupted is repeated at the next start: the disk keeps its id, and what is stored at the
//! end may be stored again (`membership::files::store_joined`).

mod ask;
mod page;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_engine::config::origin::Origin;
use quorate_engine::host::Clock;
use quorate_engine::membership::files;
use quorate_engine::node::{RELEASE, StartError};
use quorate_protocol::message::Formation;
use quorate_protocol::record::{ClusterRecord, DiskId};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::ask::{Asking, Heard};
use self::page::Pages;
pub(crate) use self::page::waits_for;
use crate::config::{Config, ConfigError};
use crate::host;
use crate::peer_port::join::JoinRequest;
use crate::tls::Tls;

/// How often the members are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The most members that are asked besides those in `join`: as many as a cluster has.
const LEARNED_MAX: usize = 255;

/// Why a node cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The data directory holds something else.
    #[error(
        "data_dir {0} must be empty for a node that joins: if it holds a node of a formed cluster, give that \
         its [layout] back instead of join"
    )]
    NotEmpty(PathBuf),
    /// The data directory cannot be used.
    #[error("data_dir {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The ports cannot be shared with the node that starts later.
    #[error("cannot share a listening port: {0}")]
    Ports(io::Error),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the node keeps in its data directory cannot be read or written.
    #[error(transparent)]
    Files(#[from] StartError),
}

/// A node that was added to the cluster, and has stored that.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// The cluster's formation, which the node has not stored yet.
    pub(crate) formation: Formation,
}

/// Whether a node must be added to the cluster before it starts. Blocks.
///
/// # Errors
/// [`JoinError`] if the configuration says neither that nor its layout, or the data directory cannot be read.
pub(crate) fn is_due(config: &Config) -> Result<bool, JoinError> {
    if files::load_record(&host::files(config))?.is_some() {
        return Ok(false);
    }
    Ok(matches!(config.origin()?, Origin::Join(_)))
}

/// Asks the members until one of them has added this node, and stores that. Meanwhile the ports say what is
/// waited for. `None` if it is asked to stop before.
///
/// # Errors
/// [`JoinError`], which says what to do.
pub(crate) async fn join(
    config: &Config,
    tls: &Tls,
    (clients, peers): (&TcpListener, &TcpListener),
    stop: &CancellationToken,
) -> Result<Option<Joined>, JoinError> {
    let Origin::Join(joining) = config.origin()? else { return Err(StartError::NotAdded.into()) };
    let at = config.clone();
    let disk = off_thread(move || prepare(&at)).await?;
    let request = JoinRequest {
        cluster_id: config.cluster_id.clone(),
        node: config.node,
        disk: disk.to_string(),
        peer_addr: config.peer_addr_for_others()?,
        client_addr: config.advertised_client_addr(),
        zone: joining.zone.to_owned(),
        weight: joining.weight,
        release: RELEASE.to_owned(),
    };
    let (clients, peers) = (shared(clients)?, shared(peers)?);
    let pages = Pages::open(config, host::MachineClock.now(), (clients, peers), tls);
    tracing::info!(%disk, members = ?joining.members, "{}", waits_for(config.node));
    let asking = Asking::new(config, tls, &request)?;
    let found = tokio::select! {
        found = until_added(&asking, joining.members, &pages) => Some(found),
        () = stop.cancelled() => None,
    };
    let Some((record, formation)) = found else {
        pages.close().await;
        return Ok(None);
    };
    tracing::info!(?record, "this node was added to the cluster");
    let at = config.clone();
    let storing = move || Ok(files::store_joined(&host::files(&at), disk, &record)?);
    let stored = off_thread(storing).await;
    pages.close().await;
    stored.map(|()| Some(Joined { formation }))
}

/// Asks all members every second, those in `join` and those that are learned of.
async fn until_added(
    asking: &Asking,
    members: &[String],
    pages: &Pages,
) -> (ClusterRecord, Formation) {
    let configured: BTreeSet<String> = members.iter().cloned().collect();
    let mut learned = BTreeSet::new();
    let mut told = None;
    loop {
        let next = Instant::now() + ASK_EVERY;
        let heard = asking.all(configured.union(&learned)).await;
        let trouble = trouble_in(&heard);
        let (mut added, mut named) = (Vec::new(), BTreeSet::new());
        for (_, heard) in heard {
            match heard {
                Heard::Added(record, formation) => added.push((*record, formation)),
                Heard::Waiting(members) => named.extend(members),
                Heard::Refused(_) | Heard::Silent(_) => {}
            }
        }
        if let Some(newest) = added.into_iter().max_by_key(|(record, _)| record.epoch()) {
            return newest;
        }
        if !named.is_empty() {
            learned = named.into_iter().take(LEARNED_MAX).collect();
        }
        if trouble != told {
            match &trouble {
                Some(trouble) => tracing::warn!("cannot join: {trouble}"),
                None => tracing::info!("the members know that this node waits"),
            }
            pages.show(trouble.clone());
            told = trouble;
        }
        sleep_until(next).await;
    }
}

/// What keeps the node from being added, in words: a refusal, or that nobody answers.
fn trouble_in(heard: &[(String, Heard)]) -> Option<String> {
    let refused = heard.iter().find_map(|(addr, heard)| match heard {
        Heard::Refused(why) => Some(format!("{addr} refuses: {why}")),
        Heard::Waiting(_) | Heard::Added(..) | Heard::Silent(_) => None,
    });
    let mut silent = heard.iter().filter_map(|(addr, heard)| match heard {
        Heard::Silent(why) => Some(format!("no address in join answers; {addr}: {why}")),
        Heard::Waiting(_) | Heard::Added(..) | Heard::Refused(_) => None,
    });
    let all_silent = heard.iter().all(|(_, heard)| matches!(heard, Heard::Silent(_)));
    refused.or_else(|| silent.next().filter(|_| all_silent))
}

/// Makes the data directory of a node that joins, and draws the id of its disk, once. Blocks.
fn prepare(config: &Config) -> Result<DiskId, JoinError> {
    let (dir, files) = (&config.data_dir, host::files(config));
    let failed = |source| JoinError::Directory { path: dir.clone(), source };
    match fs::create_dir(dir) {
        Ok(()) => sync_parent(dir).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    if files::has_disk(&files)? {
        return Ok(files::load_disk(&files, &config.cluster_id, config.node)?.id);
    }
    // A disk that was a member's must not get another id.
    if !is_empty(dir).map_err(failed)? {
        return Err(JoinError::NotEmpty(dir.clone()));
    }
    let disk = DiskId(rand::random());
    files::store_disk(&files, disk).map_err(failed)?;
    Ok(disk)
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether a directory holds nothing but what is there by itself: an unfinished file of an earlier try, and
/// what a file system begins with.
fn is_empty(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name != "lost+found" && Path::new(&name).extension().is_none_or(|it| it != "tmp") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Another listener on the same port: connections that come while neither accepts wait for either.
fn shared(listener: &TcpListener) -> Result<TcpListener, JoinError> {
    let share = || {
        let descriptor = listener.as_fd().try_clone_to_owned()?;
        TcpListener::from_std(std::net::TcpListener::from(descriptor))
    };
    share().map_err(JoinError::Ports)
}

/// Runs what blocks where that is no harm.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
) -> Result<T, JoinError> {
    spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
