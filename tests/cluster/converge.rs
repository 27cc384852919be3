//! Whether replicas have converged, according to the nodes themselves.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::{Cluster, within};

/// How long a cluster may take to converge.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Whether a node has received all its partitions.
    pub(crate) async fn is_filled(&self, number: usize) -> bool {
        let answer = self.at(number).get("/cluster").try_answer().await;
        answer.is_ok_and(|answer| answer.status == 200 && answer.json()["filled"] == true)
    }

    /// How many keys a node holds hints for, over all targets.
    pub(crate) async fn hint_keys(&self, number: usize) -> u64 {
        let metrics = self.at(number).get("/metrics").answer().await.text();
        let kept = metrics.lines().filter_map(|line| line.strip_prefix("quorate_hints{target="));
        let kept: Vec<u64> =
            kept.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!kept.is_empty(), "no gauge in {metrics}");
        kept.iter().sum()
    }

    /// Waits until all replicas of these keys have dropped their tombstones. A key that has a value
    /// is skipped.
    pub(crate) async fn wait_forgotten(&self, mut keys: Vec<String>) {
        const AT_ONCE: usize = 32;
        within(TIMEOUT, "all deletes are forgotten", async || {
            let mut remembered = Vec::new();
            for some in keys.chunks(AT_ONCE) {
                let paths = some.iter().map(|key| format!("/kv/{key}?r=all"));
                let reads = paths.map(|path| self.at(self.some(0)).get(&path).try_answer());
                for (key, read) in some.iter().zip(join_all(reads).await) {
                    let read = read.unwrap();
                    let is_deleted = read.status == 404 && read.context().is_some();
                    let expires = read.header("quorate-expires-at").is_some();
                    if read.status == 503 || is_deleted || expires {
                        remembered.push(key.clone());
                    }
                }
            }
            keys = remembered;
            keys.is_empty().then_some(())
        })
        .await;
    }

    /// Waits until every row of every node is in its tree: before that, equal trees prove nothing.
    pub(crate) async fn wait_trees_fit(&self) {
        for number in self.all() {
            let fit = async || {
                let answer = self.at(number).get("/anti-entropy").try_answer().await.ok()?;
                (answer.json()["sweep"]["trees_fit"] == true).then_some(())
            };
            within(TIMEOUT, &format!("n{number} has its rows in their trees"), fit).await;
        }
    }

    /// Waits until no node has rows that are not its own any more.
    pub(crate) async fn wait_swept(&self) {
        for number in self.all() {
            let mut begun: Option<u64> = None;
            let swept = async || {
                let answer = self.at(number).get("/anti-entropy").try_answer().await.ok()?;
                let sweep = &answer.json()["sweep"];
                let rounds = sweep["looks"].as_u64()?;
                // The first round that ends may have begun before the rows came.
                let has_looked = rounds >= *begun.get_or_insert(rounds) + 2;
                (has_looked && sweep["rows_not_owned"] == 0).then_some(())
            };
            within(TIMEOUT, &format!("n{number} has no rows of others"), swept).await;
        }
    }

    /// Makes a node compare all its trees with all its peers now.
    pub(crate) async fn compare_now(&self, number: usize) -> Value {
        let run = self.at(number).post("/anti-entropy/run?timeout_ms=10000").answer().await;
        assert_eq!(run.status, 200, "{}", run.text());
        run.json()
    }

    /// Waits until every node has received its partitions and has compared everything with every
    /// peer: what was acknowledged before is then on all its home replicas.
    pub(crate) async fn wait_whole(&self) {
        for number in self.all() {
            let filled = async || self.is_filled(number).await.then_some(());
            within(TIMEOUT, &format!("n{number} is filled"), filled).await;
        }
        for number in self.all() {
            let whole = async || (self.compare_now(number).await["complete"] == true).then_some(());
            within(TIMEOUT, &format!("n{number} has compared everything"), whole).await;
        }
    }

    /// Waits until no hints are left and a full comparison finds no difference. There must be no
    /// concurrent writes.
    pub(crate) async fn wait_converged(&self) {
        self.wait_whole().await;
        for number in self.all() {
            let drained = async || (self.hint_keys(number).await == 0).then_some(());
            within(TIMEOUT, &format!("n{number} has handed its hints off"), drained).await;
        }
        for number in self.all() {
            within(TIMEOUT, &format!("n{number} agrees with every peer"), async || {
                let run = self.compare_now(number).await;
                let rounds = run["rounds"].as_array().unwrap();
                let same = rounds.iter().all(|round| round["differing"] == 0);
                (run["complete"] == true && same).then_some(())
            })
            .await;
        }
    }
}
