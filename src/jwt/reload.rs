//! The issuer's keys are read again: a file every few seconds, a URL every few minutes, and when a token
//! names a key that is not known. Keys that cannot be read leave those from before in place; that is said
//! once, and shown until it is mended (`quorate_jwt_keys_read_failed`).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::background::jobs::JobState;
use quorate_engine::node::Node;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Jwt;

/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The shortest time between two requests to a URL, but when the operator asks; after a failure it is tried
/// again so soon.
const FETCH_EVERY_AT_MOST: Duration = Duration::from_secs(10);
/// After so many failures in a row they are told: a file may be replaced just now.
const FAILURES_TOLD: u32 = 2;

/// Reads the keys again as long as the node runs, and whenever it is asked to.
pub(crate) async fn run(jwt: Arc<Jwt>, node: Arc<Node>, asked: Arc<Notify>, job: Arc<JobState>) {
    let shown = &node.metrics.auth.issuer_keys;
    shown.show(jwt.keys_len(), false);
    let mut reading = Reading { is_due: jwt.config.is_at_url(), ..Reading::default() };
    loop {
        let was_asked = reading.wait(&jwt, &asked, &job).await;
        let _working = job.works();
        let read = jwt.source.read().await;
        match read.and_then(|text| reading.take(&jwt, text)) {
            Ok(()) => {
                reading.failures = 0;
                reading.told = None;
            }
            Err(why) => {
                reading.failures = reading.failures.saturating_add(1);
                if was_asked || reading.failures >= FAILURES_TOLD {
                    reading.tell(why);
                }
            }
        }
        shown.show(jwt.keys_len(), reading.told.is_some());
    }
}

#[derive(Default)]
struct Reading {
    /// Whether it is not to be waited for the first time.
    is_due: bool,
    /// What was taken last.
    last: Option<blake3::Hash>,
    failures: u32,
    /// What was said of the last failure.
    told: Option<String>,
}

impl Reading {
    /// Waits until it is time to read. Returns whether the operator asked for it.
    async fn wait(&mut self, jwt: &Jwt, asked: &Notify, job: &JobState) -> bool {
        if std::mem::take(&mut self.is_due) {
            return false;
        }
        job.waits();
        let is_at_url = jwt.config.is_at_url();
        let usual = match (is_at_url, self.failures) {
            (false, _) => LOOK_EVERY,
            (true, 0) => Duration::from_millis(jwt.config.refresh_ms),
            (true, _) => FETCH_EVERY_AT_MOST,
        };
        let missed = async {
            match is_at_url {
                true => sleep(FETCH_EVERY_AT_MOST).await,
                false => pending().await,
            }
            jwt.misses.notified().await;
        };
        tokio::select! {
            () = asked.notified() => true,
            () = missed => false,
            () = sleep(usual) => false,
        }
    }

    fn take(&mut self, jwt: &Jwt, text: Vec<u8>) -> Result<(), String> {
        let hash = blake3::hash(&text);
        if self.last == Some(hash) {
            return Ok(());
        }
        let (keys, passed_over) = jwt.take(&text)?;
        self.last = Some(hash);
        match keys {
            0 => tracing::warn!(
                passed_over,
                "the issuer has no key for jwt.algorithms: no token is accepted"
            ),
            _ => tracing::info!(keys, passed_over, "the issuer's keys"),
        }
        Ok(())
    }

    fn tell(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::error!(why, "the issuer's keys cannot be read; those from before stay");
        }
        self.told = Some(why);
    }
}
