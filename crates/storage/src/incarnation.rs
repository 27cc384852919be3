//! The clean-stop marker: proof that a node may keep minting under its last incarnation.
//!
//! An actor's earlier dots must all be in its row ([`quorate_protocol::row`]), so a node that may
//! have lost a write must not mint under the actors it had. The marker is written after the last
//! sync of a clean stop, and removed, with the directory synced, before the next mint. It records
//! everything that would differ if the data were not the data it was written for:
//!
//! * the incarnation and the sequence number of the last write (the rows were replaced);
//! * device, inode and birth time of the directory and of the marker itself (a copy, a restored
//!   backup, a clone by hard links);
//! * the boot of the machine (a disk image or snapshot was rolled back while the machine was off).
//!
//! The next start builds the same text from what it finds. Any difference, and anything that cannot
//! be determined, invalidates the proof, and the node draws a new incarnation.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::row::Incarnation;

const MARKER: &str = "clean-stop";
const UNFINISHED: &str = "clean-stop.tmp";
/// Identifies this boot of the machine (Linux).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What identifies the directory, the marker and the boot of the machine, as the marker names them.
pub(crate) struct Identity {
    pub(crate) directory: String,
    pub(crate) marker: String,
    pub(crate) boot: String,
}

/// The marker's text.
pub(crate) fn clean_stop(identity: &Identity, incarnation: Incarnation, sequence: u64) -> String {
    if mutated(Mutation::CloneKeepsIncarnation) {
        return format!("incarnation {:016x}\nsequence {sequence}", incarnation.0);
    }
    format!(
        "Quorate stopped cleanly here. Do not copy or edit this file.\n\
         incarnation {:016x}\nsequence {sequence}\ndirectory {}\nmarker {}\nboot {}\n",
        incarnation.0, identity.directory, identity.marker, identity.boot,
    )
}

/// Writes the marker durably. `sequence` is the number of the last write, which must be synced.
pub(crate) fn write_marker(dir: &Path, incarnation: Incarnation, sequence: u64) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    remove(&unfinished)?;
    let mut file = File::create_new(&unfinished)?;
    // The text names the file's own inode, which a rename keeps.
    let text = clean_stop(&identify(dir, &file.metadata()?)?, incarnation, sequence);
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(MARKER))?;
    sync_directory(dir)
}

/// Removes the marker durably, and returns whether it proved that the last stop of `incarnation` at
/// `sequence` was clean. Nothing may be minted before this has returned.
pub(crate) fn consume_marker(
    dir: &Path,
    incarnation: Option<Incarnation>,
    sequence: u64,
) -> io::Result<bool> {
    let path = dir.join(MARKER);
    let proven = match incarnation {
        Some(incarnation) => is_proof(dir, &path, incarnation, sequence).unwrap_or(false),
        None => false,
    };
    remove(&path)?;
    remove(&dir.join(UNFINISHED))?;
    sync_directory(dir)?;
    Ok(proven)
}

fn is_proof(dir: &Path, path: &Path, incarnation: Incarnation, sequence: u64) -> io::Result<bool> {
    let file = fs::symlink_metadata(path)?;
    let expected = clean_stop(&identify(dir, &file)?, incarnation, sequence);
    Ok(file.is_file()
        && file.len() == expected.len() as u64
        && fs::read(path)? == expected.as_bytes())
}

fn identify(dir: &Path, marker: &fs::Metadata) -> io::Result<Identity> {
    Ok(Identity {
        directory: inode(&fs::metadata(dir)?)?,
        marker: inode(marker)?,
        boot: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
    })
}

/// Device, inode and birth time (nanoseconds since 1970): no copy has all three.
fn inode(metadata: &fs::Metadata) -> io::Result<String> {
    let born = metadata.created()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(format!("{} {} {}", metadata.dev(), metadata.ino(), born.as_nanos()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes what was created, renamed or removed in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BEFORE: Incarnation = Incarnation(7);

    #[test]
    fn a_marker_proves_one_start() {
        let dir = tempfile::tempdir().unwrap();
        write_marker(dir.path(), BEFORE, 42).unwrap();
        assert!(consume_marker(dir.path(), Some(BEFORE), 42).unwrap());
        assert!(!consume_marker(dir.path(), Some(BEFORE), 42).unwrap(), "it was consumed");
    }

    #[test]
    fn any_difference_is_no_proof() {
        let doubts: [(&str, Option<Incarnation>, u64); 3] = [
            ("other data: nothing recorded", None, 42),
            ("other data: another incarnation", Some(Incarnation(8)), 42),
            ("other data: another last write", Some(BEFORE), 41),
        ];
        for (why, incarnation, sequence) in doubts {
            let dir = tempfile::tempdir().unwrap();
            write_marker(dir.path(), BEFORE, 42).unwrap();
            assert!(!consume_marker(dir.path(), incarnation, sequence).unwrap(), "{why}");
            assert!(!dir.path().join(MARKER).exists(), "{why}: it is removed anyway");
        }
    }

    #[test]
    fn a_copied_linked_or_rewritten_marker_is_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join(MARKER);
        write_marker(dir.path(), BEFORE, 42).unwrap();
        let text = fs::read(&marker).unwrap();

        let linked = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
        fs::hard_link(&marker, linked.path().join(MARKER)).unwrap();
        assert!(
            !consume_marker(linked.path(), Some(BEFORE), 42).unwrap(),
            "linked into another directory"
        );

        fs::write(dir.path().join("kept"), &text).unwrap();
        fs::rename(dir.path().join("kept"), &marker).unwrap();
        assert!(
            !consume_marker(dir.path(), Some(BEFORE), 42).unwrap(),
            "the same text in another file"
        );

        for bad in [&b""[..], b"x", &text[..text.len() - 1]] {
            fs::write(&marker, bad).unwrap();
            assert!(!consume_marker(dir.path(), Some(BEFORE), 42).unwrap());
        }
    }

    #[test]
    fn a_moved_directory_is_still_itself() {
        let parent = tempfile::tempdir().unwrap();
        let (old, new) = (parent.path().join("old"), parent.path().join("new"));
        fs::create_dir(&old).unwrap();
        write_marker(&old, BEFORE, 42).unwrap();
        fs::rename(&old, &new).unwrap();
        assert!(consume_marker(&new, Some(BEFORE), 42).unwrap());
    }
}
