//! What `doctor --config` checks on the machine of a node: the disk, the limits, and the way to its
//! peers.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;

use super::{Finding, NodeFile, ok, warning, wrong};
use crate::out::{bytes, count};

/// How many writes are synced to measure the disk, each as large as a small write of a node.
const SYNCS: usize = 20;
const SYNC_BYTES: usize = 4096;
/// The measurement stops after this long.
const SYNCS_WITHIN: Duration = Duration::from_secs(5);
/// Medians above these are looked at, and wrong.
const SLOW: Duration = Duration::from_millis(20);
const TOO_SLOW: Duration = Duration::from_millis(200);
/// Open files that a node needs at the least: its store, its peers, and some clients.
pub(super) const FILES_MIN: u64 = 4096;
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// All checks.
pub(super) async fn check(file: &NodeFile) -> Vec<Finding> {
    let mut findings = vec![ok(
        "configuration",
        format!(
            "node {} of cluster {}, {}",
            file.node,
            file.cluster_id,
            count(file.peers.len() as u64, "peer")
        ),
    )];
    for oddity in &file.oddities {
        let advice = "it is allowed, and most often a mistake";
        findings.push(warning("configuration", oddity.clone(), advice));
    }
    for name in &file.foreign_variables {
        let what = format!("the environment variable {name} is no setting; the node ignores it");
        findings.push(warning("environment", what, "config/node.toml lists the settings"));
    }
    let (dir, waits) = (file.data_dir.clone(), file.waits_for_disk);
    let measured = tokio::task::spawn_blocking(move || sync_latency(&dir, waits)).await;
    findings.extend(measured.ok());
    findings.push(free_space(file));
    findings.push(open_files());
    findings.extend(peers(file).await);
    findings
}

/// The data directory, or the nearest one above it that exists.
fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .find(|dir| dir.is_dir())
        .map(Path::to_owned)
        .or_else(|| Some(PathBuf::from(".")))
}

fn sync_latency(data_dir: &Path, waits: bool) -> Finding {
    const CHECK: &str = "disk sync";
    let Some(dir) = existing(data_dir) else {
        return wrong(CHECK, format!("{} is no directory", data_dir.display()), "create it");
    };
    let path = dir.join(format!(".quorate-doctor-{}", std::process::id()));
    let measured = syncs(&path);
    drop(std::fs::remove_file(&path));
    let mut times = match measured {
        Ok(times) => times,
        Err(error) => {
            let what = format!("cannot write to {}: {error}", dir.display());
            return wrong(
                CHECK,
                what,
                "run doctor as the node's user, or make the directory writable",
            );
        }
    };
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let what = format!(
        "{} in {}: median {:.1} ms, slowest {:.1} ms",
        count(times.len() as u64, "sync"),
        dir.display(),
        median.as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e3
    );
    match waits {
        _ if median < SLOW => ok(CHECK, what),
        false => warning(CHECK, what, "writes do not wait for it (durability = \"buffered\")"),
        true if median < TOO_SLOW => {
            warning(CHECK, what, "every write waits for it: a faster disk helps")
        }
        true => wrong(CHECK, what, "every write waits for it: use a faster disk"),
    }
}

/// At least one measurement.
fn syncs(path: &Path) -> std::io::Result<Vec<Duration>> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < SYNCS && (times.is_empty() || started.elapsed() < SYNCS_WITHIN) {
        file.write_all(&[0; SYNC_BYTES])?;
        let before = Instant::now();
        file.sync_data()?;
        times.push(before.elapsed());
    }
    Ok(times)
}

fn free_space(file: &NodeFile) -> Finding {
    const CHECK: &str = "disk space";
    let min = file.disk_free_bytes_min;
    let free = existing(&file.data_dir).and_then(|dir| rustix::fs::statvfs(&dir).ok());
    let Some(free) = free.map(|it| it.f_bavail.saturating_mul(it.f_frsize)) else {
        return warning(CHECK, "unknown", "the file system does not tell");
    };
    let what = format!("{} free; writes stop below {}", bytes(free), bytes(min));
    match free {
        _ if free < min => wrong(CHECK, what, "make room, or lower storage.disk_free_bytes_min"),
        _ if free < min.saturating_mul(4) => warning(CHECK, what, "make room soon"),
        _ => ok(CHECK, what),
    }
}

fn open_files() -> Finding {
    const CHECK: &str = "open files";
    // The node raises its own limit up to this.
    let Some(max) = getrlimit(Resource::Nofile).maximum else {
        return ok(CHECK, "not limited for this user");
    };
    let what = format!("at most {max} for this user");
    match max {
        0..FILES_MIN => warning(CHECK, what, "raise it: LimitNOFILE= in systemd, or `ulimit -Hn`"),
        _ => ok(CHECK, what),
    }
}

async fn peers(file: &NodeFile) -> Vec<Finding> {
    const CHECK: &str = "peer ports";
    let reach = async |name: &str, addr: &str| {
        let failed = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(addr)).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        let what = format!("{name} at {addr} cannot be reached from here: {failed}");
        let advice =
            "is it running? Is its port open to this machine? Is its address in [layout] right?";
        Some(wrong(CHECK, what, advice))
    };
    let asked = join_all(file.peers.iter().map(|(name, addr)| reach(name, addr))).await;
    let mut found: Vec<Finding> = asked.into_iter().flatten().collect();
    if found.is_empty() && !file.peers.is_empty() {
        found.push(ok(CHECK, format!("all {} can be reached from here", file.peers.len())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_disk_is_measured_and_nothing_is_left_there() {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let finding = sync_latency(&directory.path().join("not/there/yet"), true);
        assert!(finding.what.contains("syncs in"), "{}", finding.what);
        assert_eq!(std::fs::read_dir(directory.path()).map_or(9, Iterator::count), 0);
        assert_eq!(sync_latency(Path::new("/proc/self"), true).level, Level::Wrong);
    }
}
