//! Every background job of a node, once: [`JOBS`].

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use quorate_protocol::name::NodeId;
use quorate_storage::Condition;

use super::jobs::{Job, JobState, JobView, Pause, Phase};
use super::{periodic, reopen};
use crate::background::throttle::Throttle;
use crate::backup::make;
use crate::cluster::hello;
use crate::liveness::health::State;
use crate::membership::moves;
use crate::node::Node;
use crate::repair::{
    anti_entropy, build_index, distrusted, expirer, fill, handoff, reaper, reassign, trim_feeds,
    unowned,
};

/// A running job.
pub type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who starts a job, and how often.
#[derive(Clone, Copy)]
pub enum Start {
    /// Once.
    Once(fn(Arc<Node>, Arc<JobState>) -> Run),
    /// For each peer.
    PerPeer(fn(Arc<Node>, NodeId, Arc<JobState>) -> Run),
    /// The host does, by [`launch`], if it has such a job.
    ByHost,
}

/// A job of the registry.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What it is.
    pub job: Job,
    /// What keeps it within its share of a core, if anything does.
    pub throttle: Option<fn(&Node) -> &Throttle>,
    /// How it is started.
    pub start: Start,
}

/// Handoff, anti-entropy and scans over all rows share one budget.
const REPAIR: Option<fn(&Node) -> &Throttle> = Some(|node| &node.anti_entropy.throttle);

/// A job that a host starts, if it has a network for it.
pub const GOSSIP: Job =
    Job { name: "gossip", about: "Gossips with all nodes and reviews which peers are suspected" };

/// The same, if a port speaks TLS.
pub const CERTIFICATES: Job = Job {
    name: "certificates",
    about: "Loads certificates, keys and authorities that have changed",
};

/// The same, if it takes tokens of an issuer.
pub const ISSUER_KEYS: Job =
    Job { name: "issuer_keys", about: "Reads the keys of the issuer of tokens again" };

/// Every job, in the order in which they are started and listed.
pub const JOBS: [Entry; 22] = [
    Entry {
        job: Job {
            name: "hello",
            about: "Greets a peer: state, generation, bucket properties, tokens",
        },
        throttle: None,
        start: Start::PerPeer(|node, peer, job| Box::pin(hello::run(node, peer, job))),
    },
    Entry {
        job: Job { name: "handoff", about: "Delivers the hints that are kept for a peer" },
        throttle: REPAIR,
        start: Start::PerPeer(|node, peer, job| Box::pin(handoff::run(node, peer, job))),
    },
    Entry {
        job: Job {
            name: "anti_entropy",
            about: "Compares the Merkle trees with a peer and repairs what differs",
        },
        throttle: REPAIR,
        start: Start::PerPeer(|node, peer, job| Box::pin(anti_entropy::run(node, peer, job))),
    },
    Entry {
        job: Job {
            name: "membership",
            about: "Learns newer cluster records and takes the steps of a layout change",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(moves::run(node, job))),
    },
    Entry {
        job: Job { name: "fill", about: "Receives partitions and buckets that this node lacks" },
        throttle: Some(|node| &node.fill_throttle),
        start: Start::Once(|node, job| Box::pin(fill::run(node, job))),
    },
    Entry {
        job: Job {
            name: "distrusted",
            about: "Compares rows that are set aside with the cluster's; ends when there are none",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(distrusted::run(node, job))),
    },
    Entry {
        job: Job { name: "expire", about: "Writes tombstones for values that have expired" },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(expirer::run(node, job))),
    },
    Entry {
        job: Job { name: "trim_feeds", about: "Trims entries of feeds that are older than kept" },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(trim_feeds::run(node, job))),
    },
    Entry {
        job: Job {
            name: "reap",
            about: "Deletes tombstones that cover every copy left of their keys",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(reaper::run(node, job))),
    },
    Entry {
        job: Job {
            name: "reopen",
            about: "Once the store has failed, opens it again in a fresh process",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(reopen::run(node, job))),
    },
    Entry {
        job: Job {
            name: "reassign",
            about: "Moves rows to their Merkle trees after a bucket's n was changed",
        },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(reassign::run(node, job))),
    },
    Entry {
        job: Job {
            name: "handover",
            about: "Finds rows of which this node is no home replica and returns them",
        },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(unowned::run(node, job))),
    },
    Entry {
        job: Job {
            name: "scrub",
            about: "Recomputes the Merkle trees from the rows; ends at once if it is switched off",
        },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(reassign::scrub(node, job))),
    },
    Entry {
        job: Job {
            name: "build_index",
            about: "Builds the indexes of an earlier release's store; ends at once if they are there",
        },
        throttle: REPAIR,
        start: Start::Once(|node, job| Box::pin(build_index::run(node, job))),
    },
    Entry {
        job: Job {
            name: "backup",
            about: "Makes the backup that was asked for: copies the store and hashes the copy",
        },
        throttle: Some(|node| &node.backups.throttle),
        start: Start::Once(|node, job| Box::pin(make::run(node, job))),
    },
    Entry {
        job: Job {
            name: "mark_alive",
            about: "Records that the store is in use, which dates its rows",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(periodic::mark_alive(node, job))),
    },
    Entry {
        job: Job {
            name: "admit_alone",
            about: "After a start, goes on without peers that do not answer; then ends",
        },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(periodic::admit_alone(node, job))),
    },
    Entry {
        job: Job { name: "remember", about: "Records how far peers were durable" },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(periodic::remember(node, job))),
    },
    Entry {
        job: Job { name: "round_trips", about: "Begins a new window of measured round trips" },
        throttle: None,
        start: Start::Once(|node, job| Box::pin(periodic::turn_windows(node, job))),
    },
    Entry { job: GOSSIP, throttle: None, start: Start::ByHost },
    Entry { job: CERTIFICATES, throttle: None, start: Start::ByHost },
    Entry { job: ISSUER_KEYS, throttle: None, start: Start::ByHost },
];

/// Starts all jobs that the host does not start.
pub(super) fn start_all(node: &Arc<Node>) {
    let _members = node.hold_members();
    node.peers.nodes().for_each(|peer| start_for(node, peer));
    for entry in JOBS {
        match entry.start {
            Start::Once(run) => launch(node, entry.job, None, |state| run(node.clone(), state)),
            Start::PerPeer(_) | Start::ByHost => {}
        }
    }
}

/// Starts the jobs for a peer, unless that was done. The caller holds the members.
pub(crate) fn start_for(node: &Arc<Node>, peer: NodeId) {
    if node.jobs.has(peer) {
        return;
    }
    for entry in JOBS {
        match entry.start {
            Start::PerPeer(run) => {
                launch(node, entry.job, Some(peer), |state| run(node.clone(), peer, state));
            }
            Start::Once(_) | Start::ByHost => {}
        }
    }
}

/// Starts a job. It ends when `node.stop` is cancelled, or with its future; one for a peer also when that
/// is none any more.
pub fn launch<F>(
    node: &Arc<Node>,
    job: Job,
    peer: Option<NodeId>,
    run: impl FnOnce(Arc<JobState>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = match peer {
        None => Some(node.stop.clone()),
        Some(peer) => node.peers.gone(peer),
    };
    let Some(stop) = stop else { return };
    let state = node.jobs.add(job, peer);
    let work = run(state.clone());
    node.background.spawn(async move {
        tokio::select! {
            biased;
            () = caught(work, job, &state) => {}
            () = stop.cancelled() => {}
        }
        state.ended();
    });
}

/// Runs a job; if it panics, that is logged and kept. What jobs share with others is atomic or behind locks
/// that survive a panic.
async fn caught(work: impl Future<Output = ()>, job: Job, state: &JobState) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        let text = panic.downcast_ref::<&'static str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let why = text.unwrap_or("no message");
        tracing::error!(job = job.name, why, "a background job panicked and has ended");
        state.panicked(why);
    }
}

/// What every job does now, in the order in which they were started. A pause whose reason is gone is none:
/// jobs that look seldom do not know that yet.
pub fn list(node: &Node) -> Vec<JobView> {
    let mut jobs = node.jobs.list();
    for job in &mut jobs {
        match job.phase {
            Phase::Paused(why) if !holds(node, job.peer, why) => job.phase = Phase::Waiting,
            Phase::Paused(_) | Phase::Waiting | Phase::Working | Phase::Ended => {}
        }
    }
    jobs
}

/// Whether a reason to pause holds now.
fn holds(node: &Node, peer: Option<NodeId>, why: Pause) -> bool {
    match why {
        Pause::NotAdmitted => !node.takes_part(),
        Pause::NotFilled => !node.filled.is_complete(),
        Pause::PeerDown => {
            let health = peer.and_then(|peer| node.peers.health(peer));
            health.is_none_or(|health| health.state() != State::Up)
        }
        Pause::NotCompared => !node.restored.is_settled(node.peers.nodes()),
        Pause::StoreFailed => matches!(node.store.condition(), Condition::Failed(_)),
    }
}

/// The share of a core that a job may take, in percent: as configured, and at the current load. `None`
/// if nothing limits it.
pub fn share_percent(node: &Node, name: &str) -> Option<(u32, f64)> {
    let entry = JOBS.into_iter().find(|entry| entry.job.name == name)?;
    let throttle = entry.throttle?(node);
    Some((throttle.share_percent(), throttle.share_percent_now()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quorate_protocol::time::WallTime;

    use super::super::jobs::Jobs;
    use super::*;
    use crate::host::Clock;

    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> WallTime {
            WallTime(7)
        }
    }

    #[test]
    fn names_are_different_and_fit_a_label() {
        let names: BTreeSet<&str> = JOBS.iter().map(|entry| entry.job.name).collect();
        assert_eq!(names.len(), JOBS.len());
        for Entry { job, .. } in JOBS {
            assert!(job.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", job.name);
            assert!(!job.about.is_empty() && !job.about.ends_with('.'), "{}", job.name);
        }
    }

    #[tokio::test]
    async fn a_panic_is_kept_in_its_own_words() {
        let jobs = Jobs::new(Arc::new(Stopped));
        let state = jobs.add(GOSSIP, None);
        let error = || jobs.list()[0].error.as_ref().map(|(_, error)| error.clone());
        caught(async {}, GOSSIP, &state).await;
        assert_eq!(error(), None);
        caught(async { panic!("no {}", "luck") }, GOSSIP, &state).await;
        assert_eq!(error().as_deref(), Some("panicked: no luck"));
        caught(async { panic!("plain") }, GOSSIP, &state).await;
        assert_eq!(error().as_deref(), Some("panicked: plain"));
        state.ended();
        assert_eq!(jobs.list()[0].phase, Phase::Ended);
    }
}
