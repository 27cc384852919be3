//! Which epoch is in force at this node, and the newest one that a peer has shown in a frame.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::name::NodeId;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The numbers of the epochs that this node knows of.
#[derive(Debug)]
pub struct Epochs {
    in_force: AtomicU64,
    /// Since when.
    since: Mutex<Instant>,
    /// The newest one that a peer has shown, and that peer.
    shown: Mutex<Option<(u64, NodeId)>>,
    /// Told when another epoch is in force.
    changed: Notify,
    /// Told when a peer shows a newer one.
    news: Notify,
}

impl Epochs {
    /// This one is in force, and no other was shown.
    pub fn new(in_force: u64) -> Self {
        Self {
            in_force: AtomicU64::new(in_force),
            since: Mutex::new(Instant::now()),
            shown: Mutex::new(None),
            changed: Notify::new(),
            news: Notify::new(),
        }
    }

    fn in_force(&self) -> u64 {
        self.in_force.load(Relaxed)
    }

    /// For how long the epoch in force has been that, since this node started.
    pub fn age(&self) -> Duration {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn shown(&self) -> MutexGuard<'_, Option<(u64, NodeId)>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one is in force from now on.
    pub(crate) fn set(&self, in_force: u64) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.in_force.store(in_force, Relaxed);
        self.changed.notify_waiters();
    }

    /// A peer has shown an epoch. Called for every frame.
    pub fn saw(&self, peer: NodeId, epoch: u64) {
        if epoch <= self.in_force() {
            return;
        }
        let mut shown = self.shown();
        if shown.is_none_or(|(known, _)| known < epoch) {
            *shown = Some((epoch, peer));
            self.news.notify_one();
        }
    }

    /// Whether a peer has shown a newer epoch than the one in force here.
    pub fn is_behind(&self) -> bool {
        self.shown().is_some_and(|(epoch, _)| epoch > self.in_force())
    }

    /// Waits until the newest epoch that a peer has shown is in force here, but not for longer than this.
    pub async fn catch_up(&self, patience: Duration) {
        let Some((epoch, _)) = *self.shown() else { return };
        self.reach(epoch, Instant::now() + patience).await;
    }

    /// Waits until an epoch, or a later one, is in force here. Returns whether it is.
    pub async fn reach(&self, epoch: u64, deadline: Instant) -> bool {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.in_force() >= epoch {
                return true;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }

    /// The next peer that shows a newer epoch than the one in force. For one task.
    pub(crate) async fn next_shown(&self) -> NodeId {
        loop {
            let newest = *self.shown();
            match newest {
                Some((epoch, peer)) if epoch > self.in_force() => return peer,
                Some(_) | None => self.news.notified().await,
            }
        }
    }

    /// A peer does not have the record of the epoch that it has shown: it is asked again when it shows one.
    pub(crate) fn disbelieve(&self, peer: NodeId) {
        let mut shown = self.shown();
        if shown.is_some_and(|(_, by)| by == peer) {
            *shown = None;
        }
    }
}
