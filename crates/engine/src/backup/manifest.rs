//! What is known of a backup of one node: enough to tell whether it may be restored somewhere.

use quorate_protocol::name::NodeId;
use quorate_protocol::record::ClusterRecord;
use serde::{Deserialize, Serialize};

/// The format of [`Manifest`] and of what it describes. A release reads its own and earlier ones.
pub const FORMAT: u32 = 1;
/// The longest name of a backup, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// A name that is part of a route.
const RESERVED: &str = "hold";

/// What is known of a backup. Times are in milliseconds since 1970, by the cluster's time as the node
/// knows it; hashes and ids are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`], of the release that made it.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// The cluster.
    pub cluster_id: String,
    /// The node.
    pub node: NodeId,
    /// The id of its disk.
    pub disk: String,
    /// The release that made it.
    pub release: String,
    /// The number of partitions.
    pub partitions: u32,
    /// `defaults.n`.
    pub default_n: u16,
    /// `deletes.grace_ms`.
    pub grace_ms: u64,
    /// The epoch of the cluster record in force.
    pub epoch: u64,
    /// The hash of that record.
    pub record_hash: String,
    /// Whether a change of the layout was under way, in the words of `GET /layout`.
    pub phase: String,
    /// The record itself, encoded, in base64.
    pub record: String,
    /// The number of the node's start.
    pub start: u64,
    /// The incarnation under which it minted.
    pub incarnation: String,
    /// The sequence number of the store once the copy was made.
    pub sequence: u64,
    /// Partitions that the node had not received.
    pub missing_partitions: u32,
    /// When the copy began: everything that was acknowledged before is in it.
    pub began_at: u64,
    /// When it ended: nothing that was written later is in it.
    pub ended_at: u64,
    /// Its files, in order of their names.
    pub files: Vec<FileOf>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOf {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 hash of its contents, in 64 digits.
    pub blake3: String,
}

/// Why a manifest is none that this release can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is damaged, or something else.
    #[error("it is no manifest of a backup: {0}")]
    Damaged(String),
    /// A newer release made it.
    #[error(
        "it was made in format {0} by a newer release, and this one reads formats up to {FORMAT}: use that \
         release"
    )]
    Newer(u32),
}

impl Manifest {
    /// Reads one.
    ///
    /// # Errors
    /// [`ManifestError`], which says what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |error: serde_json::Error| ManifestError::Damaged(error.to_string());
        let Head { format } = serde_json::from_slice(text).map_err(damaged)?;
        if format > FORMAT {
            return Err(ManifestError::Newer(format));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(damaged)?;
        let is_sound = |file: &FileOf| is_file_name(&file.name) && is_hash(&file.blake3);
        if !manifest.files.iter().all(is_sound) {
            return Err(ManifestError::Damaged("a file has no sound name or hash".to_owned()));
        }
        Ok(manifest)
    }

    /// The cluster record.
    ///
    /// # Errors
    /// [`ManifestError::Damaged`].
    pub fn cluster_record(&self) -> Result<ClusterRecord, ManifestError> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&self.record);
        let record = bytes.map_err(|error| error.to_string());
        let record = record
            .and_then(|bytes| ClusterRecord::decode(&bytes).map_err(|error| error.to_string()));
        record.map_err(|reason| ManifestError::Damaged(format!("its cluster record: {reason}")))
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> Option<&FileOf> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// Checks the name of a backup, which becomes a directory's.
///
/// # Errors
/// What it may be.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let length = (1..=NAME_BYTES_MAX).contains(&name.len());
    if !length || !name.bytes().all(is_fit) || name == RESERVED {
        return Err(format!(
            "the name of a backup has 1 to {NAME_BYTES_MAX} of a-z 0-9 -, and is not {RESERVED:?}"
        ));
    }
    Ok(())
}

/// Whether a file may be called this: it is one name, and not hidden.
pub fn is_file_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=128).contains(&name.len()) && name.bytes().all(is_fit) && !name.starts_with('.')
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_strict() {
        for good in ["a", "2026-01-01t000000z", &"a".repeat(64), "-", "hold-2"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a.b", "A", "ü", "a b", "a\0", "hold", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for good in ["CURRENT", "MANIFEST-000005", "000007.sst", "OPTIONS-000009"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["", "..", ".x", "a/b", "../x", "a\\b", &"a".repeat(129), "a%2fb"] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_a_newer_release_made_is_named_as_that() {
        assert_eq!(Manifest::parse(br#"{"format":2,"what":7}"#), Err(ManifestError::Newer(2)));
        for bad in ["", "{}", "7", r#"{"format":1}"#, r#"{"format":"1"}"#] {
            let refused = Manifest::parse(bad.as_bytes());
            assert!(matches!(refused, Err(ManifestError::Damaged(_))), "{bad}: {refused:?}");
        }
    }

    #[test]
    fn a_manifest_cannot_name_a_file_elsewhere() {
        let text = |file: &str, hash: &str| {
            json!({
                "format": 1, "name": "b", "cluster_id": "c", "node": "n1", "disk": "", "release": "1",
                "partitions": 64, "default_n": 3, "grace_ms": 7, "epoch": 1, "record_hash": "",
                "phase": "stable", "record": "AAAA", "start": 1, "incarnation": "", "sequence": 9,
                "missing_partitions": 0, "began_at": 1, "ended_at": 2,
                "files": [{"name": file, "bytes": 3, "blake3": hash}],
            })
            .to_string()
        };
        let hash = "0f".repeat(32);
        let read = Manifest::parse(text("CURRENT", &hash).as_bytes()).unwrap();
        assert_eq!(read.file("CURRENT").map(|file| file.bytes), Some(3));
        assert!(read.file("current").is_none());
        assert!(matches!(read.cluster_record(), Err(ManifestError::Damaged(_))));
        let again = serde_json::to_vec(&read).unwrap();
        assert_eq!(Manifest::parse(&again), Ok(read));
        for (file, hash) in [("../CURRENT", &hash[..]), ("CURRENT", "0f"), ("CURRENT", "../../x")] {
            let refused = Manifest::parse(text(file, hash).as_bytes());
            assert!(matches!(refused, Err(ManifestError::Damaged(_))), "{file} {hash}");
        }
    }
}
