//! Backups that are made in a storm, one after the other. Most come to nothing, as a node is down, and must
//! leave the place so that the next one can begin.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::backups::{quorate, text};
use crate::harness::{Cluster, within};
use crate::record::Window;

/// How long one may take before it is told to end, and how long that may take.
const ATTEMPT: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long until one succeeds once all faults have ended, with clients at work.
const CALM: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// The backups of a storm.
pub(crate) struct Backups {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    cluster: Arc<Cluster>,
    to: PathBuf,
    made: Mutex<Vec<(String, Window)>>,
    failed: AtomicUsize,
    stop: AtomicBool,
}

impl Backups {
    /// Makes them until told to stop.
    pub(crate) fn start(cluster: &Arc<Cluster>, to: &TempDir) -> Self {
        let state = Arc::new(State {
            cluster: cluster.clone(),
            to: to.path().to_owned(),
            made: Mutex::default(),
            failed: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        Self { task: tokio::spawn(state.clone().work()), state }
    }

    /// Waits until another one is made.
    pub(crate) async fn wait_for_another(&self) {
        let before = self.state.count();
        within(CALM, "a backup is made", async || {
            assert!(!self.task.is_finished(), "no backups are made any more");
            (self.state.count() > before).then_some(())
        })
        .await;
    }

    /// Stops; returns those that were made, and how many came to nothing.
    pub(crate) async fn stop(self) -> (Vec<(String, Window)>, usize) {
        let Self { state, task } = self;
        state.stop.store(true, Relaxed);
        task.await.unwrap();
        let made = std::mem::take(&mut *state.made.lock().unwrap_or_else(PoisonError::into_inner));
        (made, state.failed.load(Relaxed))
    }
}

impl State {
    fn count(&self) -> usize {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn work(self: Arc<Self>) {
        for turn in 0.. {
            if self.stop.load(Relaxed) {
                return;
            }
            self.delete_copies().await;
            let name = format!("b{turn}");
            let told = self.attempt(&name).await;
            match told.status.success() {
                true => {
                    let made: Value = serde_json::from_slice(&told.stdout).unwrap();
                    let number = |name: &str| made[name].as_u64().unwrap();
                    let (began_at, ended_at) = (number("began_at"), number("ended_at"));
                    let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push((name, Window { began_at, ended_at }));
                }
                false => {
                    let why = text(&told);
                    assert!(!why.contains("works there"), "the lock was left: {why}");
                    self.failed.fetch_add(1, Relaxed);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A node that was down when a backup came to nothing still has its copy, and takes two at most.
    async fn delete_copies(&self) {
        for number in self.cluster.all().filter(|number| self.cluster.is_awake(*number)) {
            let node = self.cluster.at(number).with_timeout(ASK_WITHIN);
            let Ok(listed) = node.get("/backups").try_answer().await else { continue };
            if listed.status != 200 {
                continue;
            }
            for backup in listed.json()["backups"].as_array().unwrap() {
                let path = format!("/backups/{}", backup["name"].as_str().unwrap());
                drop(node.delete(&path).try_answer().await);
            }
        }
    }

    async fn attempt(&self, name: &str) -> Output {
        let urls = self.cluster.all().map(|it| format!("http://{}", self.cluster.client_addr(it)));
        let urls: Vec<String> = urls.collect();
        let mut command = quorate(&["backup", "--json", "--name", name, "--url", &urls.join(",")]);
        command.arg("--to").arg(&self.to).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id().to_string();
        let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        if let Ok(output) = tokio::time::timeout(ATTEMPT, &mut ended).await {
            return output.unwrap();
        }
        // It may end by itself just now.
        drop(Command::new("kill").args(["-TERM", &pid]).output());
        let output = tokio::time::timeout(ENDS_WITHIN, &mut ended).await;
        output.expect("a backup that was told to end does").unwrap()
    }
}
