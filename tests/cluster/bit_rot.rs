//! A disk that returns other bytes than were written: the row is reported as damaged, never as
//! absent, and no other row suffers.

use std::path::{Path, PathBuf};

use crate::harness::{Cluster, Setup, eventually};
use crate::ownership::wait_filled;

/// Bytes that compression leaves as they are, different for every key.
fn noise(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..4_096).map(|_| next()).collect()
}

/// The blob file that holds a value, and where in it.
fn find(data_dir: &Path, value: &[u8]) -> Option<(PathBuf, usize)> {
    let needle = &value[1_000..1_064];
    let files =
        std::fs::read_dir(data_dir.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|it| it == "blob")).find_map(|file| {
        let bytes = std::fs::read(&file).ok()?;
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((file, at))
    })
}

/// Flips one bit of a value in the files of a node that does not run.
fn rot(data_dir: &Path, value: &[u8]) {
    let (file, at) = find(data_dir, value).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

/// The damaged copy is met by reads, by the filling of another node, by comparisons and by a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_never_absent_and_harms_no_other() {
    let cluster = Cluster::start(Setup::synced(3)).await;
    let keys = cluster.keys_where("rot", 40, |_| true);
    let (rotten, sound) = (&keys[0], &keys[1..]);
    for (seed, key) in keys.iter().enumerate() {
        let put = cluster.at(2).put(&format!("/kv/{key}?w=3")).value(noise(seed)).answer().await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    // More than the memtable holds, so that the values move from the log to files.
    for number in 0..16 {
        let put = cluster.at(2).put(&format!("/kv/filler/{number}?w=3")).value(vec![7; 1 << 20]);
        assert_eq!(put.answer().await.status, 204);
    }
    let flushed = async || find(&cluster.data_dir(1), &noise(0)).map(|_| ());
    eventually("the value is in a blob file", flushed).await;
    cluster.kill(1);
    rot(&cluster.data_dir(1), &noise(0));
    cluster.restart(1).await;
    cluster.wait_all_up().await;

    // Reads: the other replicas answer for it, and without them it is unavailable, not absent.
    let read = cluster.at(1).get(&format!("/kv/{rotten}?r=2")).answer().await;
    assert_eq!(read.status, 200, "{}", read.text());
    let only_here = format!("/kv/{rotten}?r=3&sloppy=false&timeout_ms=500");
    assert_eq!(cluster.at(2).get(&only_here).answer().await.status, 503);

    // A node that fills from it gets all others, and this one from the replica that can read it.
    cluster.kill(3);
    cluster.wipe(3);
    cluster.restart(3).await;
    wait_filled(&cluster, 3).await;
    for key in sound {
        let read = cluster.at(3).get(&format!("/kv/{key}?r=1")).answer().await;
        assert_eq!(read.status, 200, "{key}: {}", read.text());
    }
    let read = cluster.at(3).get(&format!("/kv/{rotten}?r=1")).answer().await;
    assert_eq!(read.status, 200, "another replica answers: {}", read.text());

    // Writes: two replicas take it, and the third says why it does not.
    let put = cluster.at(2).put(&format!("/kv/{rotten}?w=2")).value("new").answer().await;
    assert_eq!(put.status, 204, "{}", put.text());
    assert!(cluster.log(1).contains("damaged"), "{}", cluster.log(1));

    // The way out: the node with the damaged row fills afresh.
    cluster.kill(1);
    cluster.wipe(1);
    cluster.restart(1).await;
    wait_filled(&cluster, 1).await;
    for key in &keys {
        eventually(&format!("all replicas have {key}"), async || {
            let read = cluster.at(1).get(&format!("/kv/{key}?r=3&sloppy=false")).try_answer().await;
            read.is_ok_and(|read| [200, 300].contains(&read.status)).then_some(())
        })
        .await;
    }
}
