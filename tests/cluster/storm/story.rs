//! A cluster that grows and shrinks under load: three nodes become five, then seven; one dies for good and is
//! replaced; a zone is drained, which leaves four. At random moments of each step nodes are killed and come
//! back, the joining ones and the one that was asked for the change included.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::operator::{Blow, Operator, Order, Step, Wanted};
use super::{Plan, SETTINGS, Stage, ordered};
use crate::harness::{Cluster, Setup};
use crate::members::{epoch_of, numbers_in};

/// The zones of the nodes from n1 on. The last one is drained.
const ZONES: [&str; 7] = ["a", "b", "c", "a", "b", "c", "c"];
const DRAINED: &str = "c";
/// How many nodes are killed at most in each step.
const KILLS_MAX: usize = 6;
/// Clients work in peace before each step.
const PEACE: Duration = Duration::from_secs(3);
/// How long a step may take to be accepted, with nodes killed meanwhile.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(120);

/// Parameter: `STORM_SEED`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes long: scripts/storm.sh --grow"]
async fn a_cluster_that_grows_to_order() {
    tell(ordered("STORM_SEED").unwrap_or_else(rand::random), true).await;
}

async fn tell(seed: u64, talks: bool) {
    let length = Duration::ZERO;
    let plan = Plan { grows: true, restores: false, seed, nodes: 3, length, layouts: true, talks };
    eprintln!("To repeat this story: {plan}");
    let durability = if seed.is_multiple_of(2) { "fsync" } else { "buffered" };
    let setup = Setup { spares: 5, settings: SETTINGS, durability, ..Setup::of(3) };
    let cluster = Cluster::start_in(setup, |_, directory| {
        let file = directory.join("node.toml");
        let mut config = std::fs::read_to_string(&file).unwrap();
        for (number, zone) in (1..).zip(ZONES) {
            config = config.replace(&format!("zone = \"n{number}\""), &format!("zone = {zone:?}"));
        }
        std::fs::write(file, config).unwrap();
    })
    .await;
    cluster.form();
    cluster.wait_all_up().await;
    let mut story = Story {
        stage: Stage::set(plan, cluster.clone(), None),
        cluster,
        dice: Xoshiro256PlusPlus::seed_from_u64(seed),
        kills: 0,
    };
    story.join(&[4, 5]).await;
    story.join(&[6, 7]).await;
    story.replace_a_dead_node(3, 8).await;
    story.drain().await;
    let (members, kills) = (story.cluster.all().count(), story.kills);
    eprintln!("{members} members, {kills} kills");
    assert_eq!(members, 4);
    story.stage.conclude().await;
}

struct Story {
    stage: Stage,
    cluster: std::sync::Arc<Cluster>,
    dice: Xoshiro256PlusPlus,
    kills: usize,
}

impl Story {
    fn operator(&self) -> &Operator {
        self.stage.injector.operator.as_ref().unwrap()
    }

    async fn join(&mut self, numbers: &[usize]) {
        tokio::time::sleep(PEACE).await;
        let add =
            |it: &usize| json!({"op": "add", "name": format!("n{it}"), "zone": ZONES[it - 1]});
        let changes = numbers.iter().map(add).collect();
        let wanted = Wanted { changes, joiners: numbers.to_vec(), ..Wanted::default() };
        self.step(&format!("{numbers:?} join"), wanted).await;
    }

    async fn replace_a_dead_node(&mut self, dead: usize, new: usize) {
        tokio::time::sleep(PEACE).await;
        // Else it might take the last copy of something with it.
        self.stage.injector.calm().await;
        self.cluster.bury(dead);
        let change = json!({"op": "replace", "old": format!("n{dead}"), "new": format!("n{new}")});
        let gone = vec![format!("n{dead}")];
        let wanted = Wanted { changes: vec![change], gone, joiners: vec![new] };
        self.step(&format!("n{new} takes the place of n{dead}, which is dead"), wanted).await;
    }

    async fn drain(&mut self) {
        tokio::time::sleep(PEACE).await;
        let shown = self.cluster.newest_layout().await.unwrap();
        let members = shown["members"].as_array().unwrap();
        let there = members.iter().filter(|member| member["zone"] == DRAINED);
        let remove = |member: &Value| json!({"op": "remove", "name": member["name"]});
        let wanted = Wanted { changes: there.map(remove).collect(), ..Wanted::default() };
        self.step(&format!("zone {DRAINED} is drained"), wanted).await;
    }

    /// Has a change made while nodes are killed, and waits for its end.
    async fn step(&mut self, title: &str, wanted: Wanted) {
        let begun = Instant::now();
        for number in &wanted.joiners {
            self.operator().launch(*number);
        }
        let base = epoch_of(&self.cluster.newest_layout().await.unwrap());
        loop {
            let blow = [Blow::None, Blow::Coordinator, Blow::Joiner][self.dice.random_range(0..3)];
            let (draw, after_ms) = (self.dice.random_range(0..60), self.dice.random_range(0..400));
            let order = Order { step: Step::Join(0), draw, blow, after_ms };
            self.kills += usize::from(blow != Blow::None);
            if self.operator().change(&wanted, &order).await || self.has_begun(base).await {
                break;
            }
            assert!(begun.elapsed() < ACCEPTED_WITHIN, "{title}: {:?}", self.operator().answers());
            self.stage.injector.restore_all().await;
        }
        for _ in 0..self.dice.random_range(2..=KILLS_MAX) {
            self.kill_one().await;
        }
        self.stage.injector.restore_all().await;
        let healed = Instant::now();
        self.operator().wait_settled().await;
        let shown = self.cluster.newest_layout().await.unwrap();
        self.stage.work.round.fetch_add(1, Relaxed);
        eprintln!(
            "{:>6.1} s, {:.1} s after the last kill: {title}; now {:?}",
            begun.elapsed().as_secs_f64(),
            healed.elapsed().as_secs_f64(),
            numbers_in(&shown["members"]),
        );
    }

    async fn has_begun(&self, base: u64) -> bool {
        let shown = self.cluster.newest_layout().await;
        shown.is_some_and(|shown| epoch_of(&shown) > base)
    }

    /// A node dies and comes back.
    async fn kill_one(&mut self) {
        let pause =
            |dice: &mut Xoshiro256PlusPlus| Duration::from_millis(dice.random_range(20..1200));
        tokio::time::sleep(pause(&mut self.dice)).await;
        let victim = self.cluster.some(self.dice.random_range(0..60));
        if self.cluster.is_running(victim) {
            self.cluster.kill(victim);
            self.kills += 1;
        }
        tokio::time::sleep(pause(&mut self.dice)).await;
        self.stage.injector.restore_all().await;
    }
}
