//! Reopens a failed store in a fresh process.
//!
//! After a failed write or sync it is unknown what the disk holds, so nothing is acknowledged until
//! the store has been opened under a new incarnation. A start does exactly that, with all the
//! checks of a start: the process replaces itself, with or without a supervisor, as soon as the
//! disk has room and accepts a synced write again. Until then reads go on. Repeated failures back
//! off, and a node whose store stays failed reports that it is not alive, so that a supervisor may
//! act.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::time::WallTime;
use quorate_storage::Condition;

use super::jobs::JobState;
use crate::host::{Files, Urgency};
use crate::node::Node;

/// How often the store and, once it has failed, the disk are checked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause before the first reopening; each further one within an hour waits four times as long.
const PAUSE_MS: u64 = 1_000;
const PAUSE_MS_MAX: u64 = 300_000;
const HOUR_MS: u64 = 3_600_000;
/// How many reopenings are remembered.
const REMEMBERED: usize = 16;
/// How long a failed store may take to come back, and a sync to end, before the node reports that
/// it is not alive.
const ALIVE_FOR: Duration = Duration::from_secs(60);
/// Where reopenings are recorded. Written and synced before each one, which proves that the disk
/// works.
const FILE: &str = "reopened";
/// The size of that write, so that it reaches the disk and not only a journal.
const PROOF_BYTES: usize = 64 << 10;

/// Why a node does not count as alive; `None` while its store works, or failed or hung only a
/// moment ago.
pub fn why_not_alive(node: &Node) -> Option<String> {
    let (failed_for, stuck_for) = (node.reopening.failed_for(), node.store.stuck_for());
    if is_over(failed_for) {
        return node.accepts_requests().err().map(|why| why.to_string());
    }
    let seconds = stuck_for.as_secs();
    is_over(stuck_for).then(|| format!("a sync has been stuck for {seconds} s"))
}

fn is_over(time: Duration) -> bool {
    time >= ALIVE_FOR
}

/// How many of the reopenings at these wall-clock times were within the last hour. If the clock was
/// set back none of them was: the pause is then short, not endless.
fn recent(reopened: &[WallTime], now: WallTime) -> usize {
    reopened.iter().filter(|at| **at <= now && now.since(**at) < HOUR_MS).count()
}

/// How long after its failure a store is reopened that was reopened `recent` times lately.
fn pause_ms(recent: usize) -> u64 {
    let factor = 4u64.saturating_pow(recent.min(REMEMBERED) as u32);
    PAUSE_MS.saturating_mul(factor).min(PAUSE_MS_MAX)
}

/// Watches the store, and once it has failed, the disk.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let Condition::Failed(reason) = node.store.condition() else { continue };
        let _working = job.works();
        let failed_at = *node.reopening.lock().failed_at.get_or_insert_with(Instant::now);
        let trying = node.clone();
        let attempt = move || Ok(try_disk(&trying, failed_at.elapsed()));
        match node.host.run(Urgency::Request, attempt).await {
            Ok(Tried::Ready) => {
                tracing::warn!(
                    reason,
                    "the store failed; the node opens it again in a fresh process"
                );
                return node.reopening.now.cancel();
            }
            Ok(Tried::Later) | Err(_) => {}
            Ok(Tried::Obstacle(why)) => {
                let mut state = node.reopening.lock();
                if state.obstacle.as_ref() != Some(&why) {
                    tracing::error!(reason, why, "the store failed and cannot be opened again yet");
                    state.obstacle = Some(why);
                }
            }
        }
    }
}

enum Tried {
    Ready,
    Later,
    Obstacle(String),
}

fn try_disk(node: &Node, failed_for: Duration) -> Tried {
    let (files, now) = (&*node.host.files, node.now());
    let mut reopened = read(files);
    let recent = recent(&reopened, now);
    let pause = Duration::from_millis(pause_ms(recent));
    if failed_for < pause {
        return match pause.as_secs() {
            0..=1 => Tried::Later,
            seconds => Tried::Obstacle(format!(
                "it failed {} times within an hour; the next attempt is {seconds} s after the failure",
                recent + 1
            )),
        };
    }
    if let Err((free, needed)) = node.store.make_room_to_reopen() {
        let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let (free, needed) = (megabytes(free), megabytes(needed));
        return Tried::Obstacle(format!(
            "the disk is full: {free} MiB are free and {needed} MiB are needed; make room on it"
        ));
    }
    let excess = (reopened.len() + 1).saturating_sub(REMEMBERED);
    reopened.drain(..excess);
    reopened.push(now);
    match write(files, &reopened) {
        Ok(()) => Tried::Ready,
        Err(error) => Tried::Obstacle(format!("the disk takes no synced write: {error}")),
    }
}

/// The times of past reopenings; none if they cannot be read.
fn read(files: &dyn Files) -> Vec<WallTime> {
    let text = files.read(FILE).unwrap_or_default();
    let text = String::from_utf8(text).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok().map(WallTime)).collect()
}

fn write(files: &dyn Files, reopened: &[WallTime]) -> io::Result<()> {
    let mut text: String = reopened.iter().map(|at| format!("{}\n", at.0)).collect();
    text.push_str(&" ".repeat(PROOF_BYTES.saturating_sub(text.len())));
    files.replace(FILE, text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::MemoryFiles;

    #[test]
    fn a_store_that_fails_again_and_again_waits_longer() {
        let now = WallTime(10 * HOUR_MS);
        let ago = |ms: &[u64]| ms.iter().map(|ms| WallTime(now.0 - ms)).collect::<Vec<_>>();
        let after = |reopened: &[WallTime]| pause_ms(recent(reopened, now));
        assert_eq!(after(&[]), 1_000);
        assert_eq!(after(&ago(&[HOUR_MS, 2 * HOUR_MS])), 1_000, "long forgotten");
        assert_eq!(after(&ago(&[HOUR_MS, 9])), 4_000);
        assert_eq!(after(&ago(&[3, 2, 1])), 64_000);
        assert_eq!(after(&ago(&[1; 16])), 300_000);
        assert_eq!(after(&[WallTime(now.0 + 1)]), 1_000, "the clock was set back");
    }

    #[test]
    fn a_node_whose_store_stays_failed_is_not_alive() {
        assert!(!is_over(Duration::ZERO) && !is_over(Duration::from_secs(59)));
        assert!(is_over(ALIVE_FOR));
        assert!(Duration::from_millis(PAUSE_MS * 4 * 4) < ALIVE_FOR, "three reopenings come first");
    }

    #[test]
    fn reopenings_are_remembered_and_rubbish_is_none() {
        let files = MemoryFiles::default();
        assert_eq!(read(&files), []);
        write(&files, &[WallTime(7), WallTime(9)]).unwrap();
        assert_eq!(read(&files), [WallTime(7), WallTime(9)]);
        assert!(files.read(FILE).unwrap().len() >= PROOF_BYTES);
        files.replace(FILE, b"x\n12\n\xff").unwrap();
        assert_eq!(read(&files), []);
    }
}
