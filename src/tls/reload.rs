//! Certificates, keys and authorities are loaded again when their files change.
//!
//! The files are looked at every few seconds, and at once on SIGHUP. Those that cannot be used leave what was
//! there before in place; that is said once, and shown until it is mended (`quorate_tls_reload_failed`).

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::background::jobs::JobState;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Tls;
use super::slot::{Looked, Slot};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// After so many failures in a row it is said: a certificate and its key are replaced one after the other.
const FAILURES_TOLD: u32 = 2;

/// Looks at the files of all ports as long as the node runs, and whenever it is asked to.
pub(crate) async fn run(tls: Tls, asked: Arc<Notify>, job: Arc<JobState>) {
    let mut failures: Vec<u32> = tls.slots().map(|_| 0).collect();
    loop {
        job.waits();
        let was_asked = timeout(LOOK_EVERY, asked.notified()).await.is_ok();
        let _working = job.works();
        for (slot, failures) in tls.slots().zip(&mut failures) {
            let at = slot.clone();
            // A panic while reading would be a broken invariant; it aborts the process.
            let Ok(looked) = spawn_blocking(move || at.look()).await else { return };
            *failures = match &looked {
                Looked::Failed(_) => failures.saturating_add(1),
                Looked::Same | Looked::Replaced => 0,
            };
            tell(slot, looked, was_asked || *failures >= FAILURES_TOLD);
        }
    }
}

fn tell(slot: &Slot, looked: Looked, is_told: bool) {
    let port = slot.port().name();
    match looked {
        Looked::Same => {}
        Looked::Replaced => {
            let expires_ms = slot.current().expires.0;
            tracing::info!(port, expires_ms, "loaded a changed certificate, key or authority");
        }
        Looked::Failed(error) if is_told => {
            if slot.set_trouble(Some(error.clone())) {
                tracing::error!(port, %error, "the changed files are not used; those from before are");
            }
        }
        Looked::Failed(_) => {}
    }
}
