//! What a node keeps of the cluster record in its data directory: the record, its votes on the next one, and
//! the id of the disk. Each is a file that is replaced as a whole, durably.

use std::io;

use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, DiskId};
use quorate_protocol::synod::{Acceptor, State};

use crate::host::Files;
use crate::node::errors::StartError;

/// The newest record that is known, if any was decided since the cluster was formed.
pub const RECORD_FILE: &str = "cluster-record";
/// What this disk has promised and accepted.
const VOTES_FILE: &str = "cluster-votes";
/// The id of this disk, if it was drawn.
const DISK_FILE: &str = "disk-id";

/// The stored record.
///
/// # Errors
/// [`StartError`] if it cannot be read.
pub fn load_record(files: &dyn Files) -> Result<Option<ClusterRecord>, StartError> {
    let Some(bytes) = read(files, RECORD_FILE)? else { return Ok(None) };
    let record = ClusterRecord::decode(&bytes);
    record.map(Some).map_err(|error| StartError::ClusterRecord {
        path: files.path(RECORD_FILE),
        reason: error.to_string(),
    })
}

/// Replaces the stored record. Blocks.
///
/// # Errors
/// The system's.
pub fn store_record(files: &dyn Files, record: &ClusterRecord) -> io::Result<()> {
    files.replace(RECORD_FILE, &record.encode())
}

/// What this disk has voted; `None` if it has never had a vote.
///
/// # Errors
/// [`StartError`] if it cannot be read.
pub fn load_votes(files: &dyn Files) -> Result<Option<State>, StartError> {
    let Some(bytes) = read(files, VOTES_FILE)?.filter(|bytes| !bytes.is_empty()) else {
        return Ok(None);
    };
    let votes = postcard::from_bytes(&bytes);
    votes.map(Some).map_err(|_| StartError::Votes(format!("{} is damaged", files.path(VOTES_FILE))))
}

/// Whether it is known whether this disk has a vote: not in a store that was made before there were votes.
///
/// # Errors
/// [`StartError`] if it cannot be read.
pub fn knows_of_votes(files: &dyn Files) -> Result<bool, StartError> {
    Ok(read(files, VOTES_FILE)?.is_some())
}

/// Replaces what this disk has voted. Blocks.
///
/// # Errors
/// The system's.
pub fn store_votes(files: &dyn Files, votes: &State) -> io::Result<()> {
    files.replace(VOTES_FILE, &crate::node::record::encoded(votes))
}

/// This disk came back without all that it has voted: it has no vote any more, and never again under an id
/// that was drawn for it. Blocks.
///
/// # Errors
/// The system's.
pub fn forget_votes(files: &dyn Files) -> io::Result<()> {
    // First the id: with it and without a vote it would pass for a disk that has not voted yet.
    if has_disk(files).map_err(io::Error::other)? {
        files.replace(DISK_FILE, &[])?;
    }
    files.replace(VOTES_FILE, &[])
}

/// The id of this disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnDisk {
    /// The id under which it votes, if it does. A disk for which none was drawn has that of its node's name.
    pub id: DiskId,
    /// The id that was drawn for it, if one was. It is another one if the disk was given its vote under the
    /// name while it asked for a record that names this one.
    pub drawn: Option<DiskId>,
}

/// The id of this disk.
///
/// # Errors
/// [`StartError`] if it cannot be read.
pub fn load_disk(files: &dyn Files, cluster_id: &str, node: NodeId) -> Result<OwnDisk, StartError> {
    let Some(bytes) = read(files, DISK_FILE)?.filter(|bytes| !bytes.is_empty()) else {
        return Ok(OwnDisk { id: DiskId::of_name(cluster_id, node), drawn: None });
    };
    let id = <[u8; 16]>::try_from(&bytes[..]);
    let damaged = |_| StartError::Votes(format!("{} is damaged", files.path(DISK_FILE)));
    let id = DiskId(u128::from_le_bytes(id.map_err(damaged)?));
    Ok(OwnDisk { id, drawn: Some(id) })
}

/// The id under which this disk votes, as a node that this record names. If it has a vote and is named by the
/// node's name, it was given that after it had drawn an id ([`OwnDisk::drawn`]).
///
/// # Errors
/// [`StartError`] if the id or the votes cannot be read.
pub fn load_member_disk(
    files: &dyn Files,
    record: &ClusterRecord,
    node: NodeId,
) -> Result<OwnDisk, StartError> {
    let disk = load_disk(files, record.cluster_id(), node)?;
    let by_name = DiskId::of_name(record.cluster_id(), node);
    let is_named = record.member(node).is_some_and(|member| member.disk == by_name);
    Ok(if is_named && load_votes(files)?.is_some() {
        OwnDisk { id: by_name, ..disk }
    } else {
        disk
    })
}

/// Gives this disk an id. Blocks.
///
/// # Errors
/// The system's.
pub fn store_disk(files: &dyn Files, disk: DiskId) -> io::Result<()> {
    files.replace(DISK_FILE, &disk.0.to_le_bytes())
}

/// Whether this disk was given an id.
///
/// # Errors
/// [`StartError`] if that cannot be read.
pub fn has_disk(files: &dyn Files) -> Result<bool, StartError> {
    Ok(read(files, DISK_FILE)?.is_some_and(|bytes| !bytes.is_empty()))
}

/// Stores what a new member starts with: its vote, and the record that it was added by. Blocks. May be
/// repeated, with a later record too, as long as the node has not started with one.
///
/// # Errors
/// [`StartError`] or the system's: the node has not joined then.
pub fn store_joined(
    files: &dyn Files,
    disk: DiskId,
    record: &ClusterRecord,
) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::Votes(error.to_string());
    let acceptor = Acceptor::restore(disk, record.clone(), None);
    let acceptor = acceptor.map_err(|error| StartError::Votes(error.to_string()))?;
    // The vote first: with the record the node is a member, and a member without a vote gets none. A disk
    // that was never a member's has forgotten no vote.
    store_votes(files, &acceptor.state()).map_err(failed)?;
    store_record(files, record).map_err(failed)
}

fn read(files: &dyn Files, name: &str) -> Result<Option<Vec<u8>>, StartError> {
    match files.read(name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StartError::Votes(format!("{}: {error}", files.path(name)))),
    }
}
