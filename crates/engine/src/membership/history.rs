//! The last cluster records, for operators and to answer a step that is repeated. They are kept in a file
//! besides the record in force. Nothing is decided by them: one that is damaged or missing costs its answers,
//! and never keeps a node from starting.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_protocol::record::ClusterRecord;
use xxhash_rust::xxh3::xxh3_64;

use crate::host::Files;

/// How many records are remembered.
pub const HISTORY_MAX: usize = 64;
/// How long the file may be, in bytes: of large records it holds fewer.
const FILE_BYTES_MAX: usize = 4 << 20;
/// The last records: the checksum of the rest, and the records.
const HISTORY_FILE: &str = "cluster-history";

/// The last records, oldest first; the one in force is the last.
#[derive(Debug)]
pub(super) struct History(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    records: VecDeque<Arc<ClusterRecord>>,
    /// Whether those of the file are among them.
    is_loaded: bool,
}

impl History {
    /// Begins with the record in force. Those before it are read from the file when they are needed.
    pub(super) fn new(current: Arc<ClusterRecord>) -> Self {
        Self(Mutex::new(Kept { records: [current].into(), is_loaded: false }))
    }

    /// All of them. Reads the file the first time.
    pub(super) fn all(&self, files: &dyn Files) -> Vec<Arc<ClusterRecord>> {
        let mut kept = self.lock();
        kept.load(files);
        kept.records.iter().cloned().collect()
    }

    /// A newer record is in force. Blocks. Where the file cannot be written, it is as before.
    pub(super) fn add(&self, files: &dyn Files, record: Arc<ClusterRecord>) {
        let mut kept = self.lock();
        kept.load(files);
        if kept.records.len() == HISTORY_MAX {
            kept.records.pop_front();
        }
        kept.records.push_back(record);
        if let Err(error) = files.replace(HISTORY_FILE, &encoded(kept.records.iter())) {
            tracing::warn!(%error, "the history of cluster records cannot be stored");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn load(&mut self, files: &dyn Files) {
        if std::mem::replace(&mut self.is_loaded, true) {
            return;
        }
        let bytes = match files.read(HISTORY_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return tracing::warn!(%error, "no history of cluster records"),
        };
        let Some(stored) = decoded(&bytes) else {
            let path = files.path(HISTORY_FILE);
            return tracing::warn!(
                path,
                "the history of cluster records is damaged, and begins anew"
            );
        };
        for record in stored.into_iter().rev().take(HISTORY_MAX) {
            let Some(child) = self.records.front() else { return };
            if self.records.len() == HISTORY_MAX {
                return;
            }
            // The last one stored is the one in force, as a rule.
            if record.epoch() < child.epoch() {
                match comes_before(&record, child) {
                    true => self.records.push_front(Arc::new(record)),
                    false => return,
                }
            }
        }
    }
}

/// Whether a record may be one before another in the same chain. Some in between may be missing: a node
/// learns the newest only.
fn comes_before(record: &ClusterRecord, later: &ClusterRecord) -> bool {
    let is_of_same = record.cluster_id() == later.cluster_id();
    let is_parent = record.hash() == later.parent();
    is_of_same && (is_parent || later.epoch() - record.epoch() > 1)
}

/// The records as they are stored: as many of the last as fit.
fn encoded<'a>(records: impl DoubleEndedIterator<Item = &'a Arc<ClusterRecord>>) -> Vec<u8> {
    let (mut newest_first, mut bytes) = (Vec::new(), 0);
    for record in records.rev() {
        let encoded = record.encode();
        bytes += encoded.len();
        if bytes > FILE_BYTES_MAX && !newest_first.is_empty() {
            break;
        }
        newest_first.push(encoded);
    }
    newest_first.reverse();
    let body = crate::node::record::encoded(&newest_first);
    [&xxh3_64(&body).to_le_bytes()[..], &body].concat()
}

/// The records that are stored; `None` if they are damaged.
fn decoded(bytes: &[u8]) -> Option<Vec<ClusterRecord>> {
    let (checksum, body) = bytes.split_first_chunk::<8>()?;
    if *checksum != xxh3_64(body).to_le_bytes() {
        return None;
    }
    let records: Vec<Vec<u8>> = postcard::from_bytes(body).ok()?;
    records.iter().map(|record| ClusterRecord::decode(record).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
