//! Tells the service manager that started this process (systemd, `Type=notify`) how the node is.
//!
//! A start has succeeded once the node answers on its ports and either accepts requests or waits for
//! something that no restart brings about: an operator who forms the cluster or decides about old
//! rows, or room on its disk. Otherwise a node of a cluster that is not formed yet would be ended by the
//! time-out of its unit. The status line says why requests are refused; `/readyz` is stricter.

use std::sync::Arc;
use std::time::Duration;

use quorate_storage::Condition;
use sd_notify::NotifyState;

use quorate_engine::node::{Node, Unavailable};
use quorate_engine::repair::distrusted;

/// How often the node's state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The longest status line, in characters: it is shown on one line of a terminal.
const STATUS_CHARS_MAX: usize = 400;

/// How long a report may take. A service manager that does not read must hold up nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is told how the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reports {
    /// The service manager, if one started this process. A process that replaces itself stays the same
    /// service.
    ToServiceManager,
    /// Nobody: the node is one of several in its process.
    None,
}

impl Reports {
    /// The store is about to be opened, which takes minutes if much of its log must be read again.
    pub(crate) async fn opening(self) {
        self.send(None, "opening the store").await;
    }

    /// The node waits until an operator adds it to the cluster: no restart brings that about.
    pub(crate) async fn waiting(self, what: &str) {
        self.send(Some(NotifyState::Ready), what).await;
    }

    /// The node stops, and its process ends. Not for one that replaces itself: its service goes on.
    pub(crate) async fn stopping(self, why: &str) {
        self.send(Some(NotifyState::Stopping), why).await;
    }

    /// The process is about to be replaced by a new one.
    pub(crate) async fn starting_over(self) {
        self.send(None, "starting over in a fresh process; the log says why").await;
    }

    /// Reports the state of a node whenever it changes, until it stops.
    pub(crate) async fn watch(self, node: Arc<Node>) {
        let (mut has_started, mut last) = (false, String::new());
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        while self.is_heard() && !node.is_draining() {
            ticks.tick().await;
            let (status, is_settled) = state_of(&node);
            let starts = is_settled && !has_started;
            if starts || status != last {
                self.send(starts.then_some(NotifyState::Ready), &status).await;
            }
            has_started |= is_settled;
            last = status;
        }
    }

    /// Sends from a thread where that may block.
    async fn send(self, state: Option<NotifyState<'static>>, status: &str) {
        if !self.is_heard() {
            return;
        }
        let one_line = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = status.chars().map(one_line).take(STATUS_CHARS_MAX).collect();
        let sent = tokio::task::spawn_blocking(move || {
            let states: Vec<_> = state.into_iter().chain([NotifyState::Status(&line)]).collect();
            sd_notify::notify(&states)
        });
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the service manager could not be told how the node is");
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("the service manager does not read reports"),
        }
    }

    fn is_heard(self) -> bool {
        self == Self::ToServiceManager && std::env::var_os("NOTIFY_SOCKET").is_some()
    }
}

/// The node's state in words, and whether it will stay so unless something outside changes.
fn state_of(node: &Node) -> (String, bool) {
    if let Some(waits) = distrusted::waits(node) {
        return (format!("waiting: {waits}"), true);
    }
    match node.accepts_requests() {
        Err(why @ Unavailable::Asking) => (why.to_string(), false),
        Err(why) => (format!("refusing requests: {why}"), true),
        Ok(()) => (ready(node), true),
    }
}

fn ready(node: &Node) -> String {
    let short_of = match node.store.condition() {
        Condition::DiskLow { takes_deletes: true, .. } => {
            Some("the disk is nearly full, only deletes and reads are taken")
        }
        Condition::DiskLow { takes_deletes: false, .. } => {
            Some("the disk is nearly full, only reads are taken")
        }
        Condition::Healthy | Condition::Failed(_) => None,
    };
    let fills = "data that it missed is still arriving from its peers";
    match short_of.or_else(|| (!node.filled.is_complete()).then_some(fills)) {
        Some(but) => format!("ready; {but}"),
        None => "ready".to_owned(),
    }
}
