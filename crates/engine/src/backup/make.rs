//! The job that makes backups: copies the store, hashes the copy, and writes its manifest.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_protocol::record::Phase;
use quorate_storage::{BackupFile, Error};

use super::manifest::{FORMAT, FileOf, Manifest};
use super::state::{NotBegun, Stage};
use crate::background::jobs::JobState;
use crate::background::work;
use crate::node::{Node, RELEASE};

/// How much is hashed at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Has a backup made; the job does it. Blocks.
///
/// # Errors
/// [`NotBegun`], or the store's error if what is kept cannot be read.
pub fn begin(node: &Node, name: &str) -> Result<Result<(), NotBegun>, Error> {
    if !node.distrusted.is_empty() {
        return Ok(Err(NotBegun::SetAside));
    }
    let kept = node.host.dir.backups().map_err(in_words)?;
    Ok(node.backups.begin(name, &kept))
}

/// Makes what is wanted for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    loop {
        node.backups.wanted.notified().await;
        let Some(name) = node.backups.to_make() else { continue };
        let _working = job.works();
        let stage = match make(&node, &job, &name).await {
            Ok(()) => Stage::Whole,
            Err(error) => {
                job.failed(&error);
                tracing::error!(%error, name, "a backup came to nothing");
                let sweep =
                    |node: &Node| node.host.dir.remove_unfinished_backups().map_err(in_words);
                if let Err(error) = work::run(&node, sweep).await {
                    tracing::warn!(%error, "what is left of the backup could not be removed");
                }
                Stage::Failed(error.to_string())
            }
        };
        node.backups.comes_to(stage);
    }
}

/// How many backups are kept, and how many bytes only they hold. Blocks.
///
/// # Errors
/// The system's.
pub fn kept(node: &Node) -> Result<(u64, u64), Error> {
    let kept = node.host.dir.backups().map_err(in_words)?.len() as u64;
    let bytes = if kept > 0 { node.host.dir.backup_bytes().map_err(in_words)? } else { 0 };
    Ok((kept, bytes))
}

async fn make(node: &Arc<Node>, job: &JobState, name: &str) -> Result<(), Error> {
    let began_at = node.now().0;
    let named = name.to_owned();
    let copied = move |node: &Node| {
        node.store.checkpoint(&named)?;
        node.host.dir.unfinished_backup_files(&named).map_err(in_words)
    };
    let files = work::run(node, copied).await?;
    let manifest = describe(node, name, began_at);
    let of: u64 = files.iter().map(|file| file.bytes).sum();
    node.backups.comes_to(Stage::Hashing { done: 0, of });
    tracing::info!(name, files = files.len(), bytes = of, "the store was copied for a backup");
    let (mut hashed, mut done) = (Vec::new(), 0);
    for file in files {
        let blake3 = hash(node, name, &file, |bytes| {
            done += bytes;
            job.progress(done, of);
            node.backups.comes_to(Stage::Hashing { done, of });
        });
        let blake3 = blake3.await?;
        hashed.push(FileOf { name: file.name, bytes: file.bytes, blake3 });
    }
    let manifest = Manifest { files: hashed, ..manifest };
    let text =
        serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Io(error.to_string()))?;
    let named = name.to_owned();
    let finish = move |node: &Node| node.host.dir.finish_backup(&named, &text).map_err(in_words);
    work::run(node, finish).await?;
    tracing::info!(name, "the backup is whole");
    Ok(())
}

/// What there is to say of a copy that has just been made.
fn describe(node: &Node, name: &str, began_at: u64) -> Manifest {
    let record = node.membership.record();
    let phase = match record.phase() {
        Phase::Stable => "stable",
        Phase::Moving => "moving",
        Phase::Releasing => "releasing",
    };
    Manifest {
        format: FORMAT,
        name: name.to_owned(),
        cluster_id: node.config.cluster_id.clone(),
        node: node.me,
        disk: node.membership.disk().to_string(),
        release: RELEASE.to_owned(),
        partitions: record.partitions(),
        default_n: node.header.default_n,
        grace_ms: node.config.deletes.grace_ms,
        epoch: record.epoch(),
        record_hash: record.hash().to_string(),
        phase: phase.to_owned(),
        record: STANDARD.encode(record.encode()),
        start: node.generation.start(&node.store).number,
        incarnation: format!("{:016x}", node.store.incarnation().0),
        sequence: node.store.durable_at(),
        missing_partitions: node.filled.missing_count() as u32,
        began_at,
        ended_at: node.now().0,
        files: Vec::new(),
    }
}

/// The hash of a file, read in short pieces; tells how much it read.
async fn hash(
    node: &Arc<Node>,
    name: &str,
    file: &BackupFile,
    mut progress: impl FnMut(u64),
) -> Result<String, Error> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < file.bytes {
        let (name, file) = (name.to_owned(), file.name.clone());
        let piece = move |node: &Node| {
            let piece = node
                .host
                .dir
                .read_backup((&name, false), &file, (at, PIECE_BYTES))
                .map_err(in_words)?;
            hasher.update(&piece);
            Ok((hasher, piece.len() as u64))
        };
        let read = work::run_throttled(node, &node.backups.throttle, piece).await?;
        hasher = read.0;
        if read.1 == 0 {
            return Err(Error::Io("a file became shorter".to_owned()));
        }
        at += read.1;
        progress(read.1);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn in_words(error: io::Error) -> Error {
    Error::Io(format!("backups: {error}"))
}
