//! A random storm of faults over five nodes with clients at work, and then the reckoning.
//!
//! `STORM_SEED` repeats the faults of a run (not its timing), `STORM_MINUTES` makes it longer than
//! the usual fifteen seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::harness::{Cluster, Setup};
use crate::load::{Load, check_all};
use crate::record::Record;

const NODES: usize = 5;

/// What can happen to the cluster.
struct Storm {
    cluster: Arc<Cluster>,
    dice: Xoshiro256PlusPlus,
}

impl Storm {
    fn node(&mut self) -> usize {
        self.dice.random_range(1..=NODES)
    }

    /// Some nodes, at least one and not all, and the others.
    fn sides(&mut self) -> (Vec<usize>, Vec<usize>) {
        let mask: u32 = self.dice.random_range(1..(1 << NODES) - 1);
        (1..=NODES).partition(|number| mask & (1 << (number - 1)) != 0)
    }

    async fn strike(&mut self) {
        let number = self.node();
        let cluster = self.cluster.clone();
        match self.dice.random_range(0..12) {
            0..3 => cluster.kill(number),
            3..5 if cluster.is_awake(number) => cluster.pause(number),
            5 => {
                let (these, those) = self.sides();
                cluster.cut(&these, &those).await;
            }
            6 => {
                let (from, to) = self.sides();
                cluster.cut_one_way(&from, &to).await;
            }
            7 => {
                let others: Vec<usize> = (1..=NODES).filter(|other| *other != number).collect();
                cluster.cut(&[number], &others).await;
            }
            8 => cluster.heal().await,
            9 if self.dice.random_range(0..4) == 0 => {
                for number in cluster.all() {
                    cluster.kill(number);
                }
            }
            _ => self.restore(),
        }
    }

    /// Everybody who is gone comes back.
    fn restore(&self) {
        for number in self.cluster.all() {
            if self.cluster.is_paused(number) {
                self.cluster.resume(number);
            } else if !self.cluster.is_awake(number) {
                self.cluster.launch(number);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_faults_loses_no_acked_element_and_invents_none() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("STORM_SEED").unwrap_or_else(rand::random);
    let length = number("STORM_MINUTES").map_or(15, |minutes| 60 * minutes);
    eprintln!("STORM_SEED={seed}");
    let cluster = Cluster::start(Setup::of(NODES)).await;
    let record = Arc::new(Record::new(&cluster, 3));
    let dice = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut storm = Storm { cluster: cluster.clone(), dice };
    let until = Instant::now() + Duration::from_secs(length);
    let mut round = 0;
    while Instant::now() < until {
        // Each element is in all later values of its key: new keys keep them small.
        let keys: Vec<String> = (0..24).map(|key| format!("storm/r{round}k{key}")).collect();
        let load = Load::start(&cluster, &record, &keys, 12);
        let until = until.min(Instant::now() + Duration::from_secs(30));
        while Instant::now() < until {
            storm.strike().await;
            let pause_ms = storm.dice.random_range(50..600);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        storm.restore();
        load.stop().await;
        round += 1;
    }
    storm.restore();
    cluster.heal().await;
    cluster.wait_all_up().await;
    check_all(&cluster, &record).await;
    eprintln!("{} acknowledged writes, none lost", record.acked());
    assert!(record.acked() > 100, "too few acknowledged writes to mean anything");
}
