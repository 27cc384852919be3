//! What the manifests say, as far as this command needs it. That of a node is the node's own; that of a
//! cluster names them, and comes last.

use serde::{Deserialize, Serialize};

use crate::exit::{Done, Failure};

/// The format that this release writes; it reads this one and earlier ones.
pub(crate) const FORMAT: u32 = 1;
/// The longest name of a backup, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A backup of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterManifest {
    /// The format.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// What tells it from all others: 32 hexadecimal digits.
    pub id: String,
    /// The id of the cluster.
    pub cluster_id: String,
    /// The epoch of the cluster record.
    pub epoch: u64,
    /// The hash of that record.
    pub record_hash: String,
    /// The release of this command.
    pub release: String,
    /// By the clock of whoever made it, in milliseconds since 1970: everything that was acknowledged before
    /// is in it.
    pub began_at: u64,
    /// Nothing that was written later is in it.
    pub ended_at: u64,
    /// The nodes that are in it.
    pub nodes: Vec<NodeEntry>,
    /// The members that are not.
    pub missing: Vec<String>,
}

/// A node in a backup of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub node: String,
    /// The BLAKE3 hash of its manifest.
    pub manifest: String,
    /// How many files there are.
    pub files: u64,
    /// How long they are together, in bytes.
    pub bytes: u64,
}

/// The parts of a node's manifest that matter here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeManifest {
    pub(crate) name: String,
    pub(crate) cluster_id: String,
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) record_hash: String,
    pub(crate) phase: String,
    pub(crate) grace_ms: u64,
    pub(crate) files: Vec<NodeFile>,
}

/// A file of a node's backup.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct NodeFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

impl NodeFile {
    /// Whether what was hashed is this file.
    pub(crate) fn is(&self, hashed: &blake3::Hasher) -> bool {
        hashed.count() == self.bytes && hashed.finalize().to_hex().as_str() == self.blake3
    }
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Reads a manifest of either kind, which `what` names.
///
/// # Errors
/// It is damaged, or of a newer release.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, String> {
    let damaged = |error| format!("{what} is damaged: {error}");
    let Head { format } = serde_json::from_slice(text).map_err(damaged)?;
    if format > FORMAT {
        return Err(format!(
            "{what} was made in format {format} by a newer release, and this one reads formats up to {FORMAT}"
        ));
    }
    serde_json::from_slice(text).map_err(damaged)
}

impl NodeManifest {
    /// Reads one, whose files are named and hashed soundly.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn parse(what: &str, text: &[u8]) -> Result<Self, String> {
        let manifest: Self = parse(what, text)?;
        let is_sound = |file: &NodeFile| is_file_name(&file.name) && is_hash(&file.blake3);
        match manifest.files.iter().find(|file| !is_sound(file)) {
            Some(file) => Err(format!("{what} names a file that none has: {:?}", file.name)),
            None => Ok(manifest),
        }
    }

    /// How long its files are together, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

fn is_file_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=128).contains(&name.len()) && name.bytes().all(is_fit) && !name.starts_with('.')
}

/// Whether it is a BLAKE3 hash, as manifests write them.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks the name of a backup.
///
/// # Errors
/// Usage.
pub(crate) fn check_name(name: &str) -> Done {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_sound = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_fit);
    match is_sound && name != "hold" {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{:?} is no name of a backup: expected 1 to {NAME_BYTES_MAX} of a-z 0-9 -, and not hold",
            crate::out::short(name, 80)
        ))
        .into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_by_why() {
        let of = |text: &str| parse::<ClusterManifest>("it", text.as_bytes()).unwrap_err();
        assert!(of(r#"{"format": 2}"#).contains("newer release"));
        assert!(of("{}").contains("it is damaged"));
        assert!(of(r#"{"format": 1}"#).contains("it is damaged"));
        assert!(of("").contains("it is damaged"));
    }

    #[test]
    fn names_of_others_are_checked() {
        for bad in ["", "../x", "a/b", "A", "hold", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("2026-01-01t000000z").is_ok());
        let node = |file: &str, hash: &str| {
            format!(
                r#"{{"format":1,"name":"b","cluster_id":"c","node":"n1","epoch":1,"record_hash":"","phase":"",
                "grace_ms":1,"files":[{{"name":"{file}","bytes":1,"blake3":"{hash}"}}]}}"#
            )
        };
        let hash = "ab".repeat(32);
        assert_eq!(
            NodeManifest::parse("it", node("CURRENT", &hash).as_bytes()).unwrap().bytes(),
            1
        );
        for (file, hash) in [("../CURRENT", &hash[..]), ("CURRENT", "../../x"), (".x", &hash)] {
            assert!(
                NodeManifest::parse("it", node(file, hash).as_bytes()).is_err(),
                "{file} {hash}"
            );
        }
    }
}
