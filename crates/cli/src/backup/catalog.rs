//! What is in a place, and how it is laid out:
//!
//! ```text
//! files/HASH                     a file of any backup, by its contents
//! backups/NAME/nodes/NODE.json   the manifest of a node
//! backups/NAME/manifest.json     that of the cluster: without it there is no backup
//! lock.json                      while a command works here
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{Error as StoreError, ObjectStore as _, ObjectStoreExt};

use super::manifest::{self, ClusterManifest, NodeFile, NodeManifest};
use super::place::Place;
use super::s3;
use super::uploads::Uploads;
use crate::exit::{Done, Exit, Failure};

pub(crate) const FILES: &str = "files";
const BACKUPS: &str = "backups";
const NODES: &str = "nodes";
const MANIFEST: &str = "manifest.json";
/// The longest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The backups in a place.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) place: Place,
    pub(crate) uploads: Uploads,
}

/// What is known of a backup by name.
#[derive(Debug)]
pub(crate) enum Known {
    /// It is whole.
    Whole(ClusterManifest),
    /// It was interrupted, or is being made.
    Unfinished,
    /// Its manifest cannot be used, for this reason.
    Unreadable(String),
}

/// How a file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is not.
    Missing,
    /// As its manifest says.
    Whole,
    /// Otherwise.
    Damaged,
}

/// A failure of the place.
pub(crate) fn failed(catalog: &Catalog, error: &StoreError) -> Failure {
    let place = &catalog.place;
    let text = crate::out::short(&s3::in_words(&error.to_string()), 400);
    let failure = Failure::new(Exit::Failed, format!("{}: {text}", place.shown));
    let credentials = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
    if !place.is_bucket {
        return failure;
    }
    let is_denied = |it: &StoreError| {
        matches!(it, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
    };
    match is_denied(error) {
        true => failure.advise(format!("the credentials are those of {credentials}")),
        false => failure.advise(format!(
            "the store is that of AWS_ENDPOINT_URL and AWS_REGION, with the credentials of {credentials}"
        )),
    }
}

impl Catalog {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, uploads: Uploads::default() }
    }

    /// What is stored under a name; `None` if nothing is.
    ///
    /// # Errors
    /// The place's, or it is longer than any manifest.
    pub(crate) async fn read(&self, parts: &[&str]) -> Done<Option<Bytes>> {
        let got = match self.place.store.get(&self.place.at(parts)).await {
            Ok(got) => got,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(self, &error).into()),
        };
        if got.meta.size > MANIFEST_BYTES_MAX {
            let what = parts.join("/");
            return Err(Failure::new(Exit::Failed, format!("{what} is too long to be one")).into());
        }
        got.bytes().await.map(Some).map_err(|error| failed(self, &error).into())
    }

    /// Reads a file of any backup, and hands it on piece by piece.
    ///
    /// # Errors
    /// The place's, and those of `take`.
    pub(crate) async fn read_file(
        &self,
        file: &NodeFile,
        mut take: impl FnMut(&[u8]) -> Done,
    ) -> Done<Stored> {
        let got = match self.place.store.get(&self.place.at(&[FILES, &file.blake3])).await {
            Ok(got) => got,
            Err(StoreError::NotFound { .. }) => return Ok(Stored::Missing),
            Err(error) => return Err(failed(self, &error).into()),
        };
        let (mut parts, mut hasher) = (got.into_stream(), blake3::Hasher::new());
        while let Some(part) = parts.try_next().await.map_err(|error| failed(self, &error))? {
            hasher.update(&part);
            // What is longer than it should be must not fill a disk.
            if hasher.count() > file.bytes {
                return Ok(Stored::Damaged);
            }
            take(&part)?;
        }
        Ok(if file.is(&hasher) { Stored::Whole } else { Stored::Damaged })
    }

    pub(crate) async fn write(&self, parts: &[&str], bytes: Bytes) -> Done {
        let put = self.place.store.put(&self.place.at(parts), bytes.into()).await;
        put.map(drop).map_err(|error| failed(self, &error).into())
    }

    pub(crate) async fn remove(&self, parts: &[&str]) -> Done {
        match self.place.store.delete(&self.place.at(parts)).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(self, &error).into()),
        }
    }

    /// The names of all objects below a name, with their lengths.
    async fn list(&self, parts: &[&str]) -> Done<Vec<(Vec<String>, u64)>> {
        let base = self.place.at(parts);
        let all = self.place.store.list(Some(&base)).try_collect::<Vec<_>>().await;
        let all = all.map_err(|error| failed(self, &error))?;
        let named = all
            .into_iter()
            .filter_map(|object| Some((self.place.below(&object.location, parts)?, object.size)));
        Ok(named.collect())
    }

    /// The files that are there, by their hashes, with their lengths.
    ///
    /// # Errors
    /// The place's.
    pub(crate) async fn files(&self) -> Done<BTreeMap<String, u64>> {
        let all = self.list(&[FILES]).await?.into_iter();
        // What has another name is not of backups, and is left alone.
        let hash = |parts: Vec<String>| match <[String; 1]>::try_from(parts) {
            Ok([name]) if manifest::is_hash(&name) => Some(name),
            Ok(_) | Err(_) => None,
        };
        Ok(all.filter_map(|(parts, size)| Some((hash(parts)?, size))).collect())
    }

    /// The names of all backups, whole or not.
    ///
    /// # Errors
    /// The place's.
    pub(crate) async fn names(&self) -> Done<Vec<String>> {
        let all = self.list(&[BACKUPS]).await?.into_iter();
        let mut names: Vec<String> =
            all.filter_map(|(parts, _)| parts.into_iter().next()).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// What is known of a backup.
    ///
    /// # Errors
    /// The place's.
    pub(crate) async fn look(&self, name: &str) -> Done<Known> {
        let what = format!("the manifest of the backup {name}");
        let Some(text) = self.read(&[BACKUPS, name, MANIFEST]).await? else {
            return Ok(Known::Unfinished);
        };
        Ok(match manifest::parse::<ClusterManifest>(&what, &text) {
            Ok(manifest) if manifest.name == name => Known::Whole(manifest),
            Ok(other) => Known::Unreadable(format!("{what} is of {:?}", other.name)),
            Err(why) => Known::Unreadable(why),
        })
    }

    /// All backups, oldest first: those that are not whole come last.
    ///
    /// # Errors
    /// The place's.
    pub(crate) async fn all(&self) -> Done<Vec<(String, Known)>> {
        let mut all = Vec::new();
        for name in self.names().await? {
            let known = self.look(&name).await?;
            all.push((name, known));
        }
        all.sort_by_key(|(name, known)| match known {
            Known::Whole(manifest) => (manifest.began_at, name.clone()),
            Known::Unfinished | Known::Unreadable(_) => (u64::MAX, name.clone()),
        });
        Ok(all)
    }

    /// A whole backup: the named one, else the newest.
    ///
    /// # Errors
    /// There is none, or it is not whole.
    pub(crate) async fn find(&self, name: Option<&str>) -> Done<ClusterManifest> {
        let place = &self.place.shown;
        let Some(name) = name else {
            let newest = self.all().await?.into_iter().rev().find_map(|(_, known)| match known {
                Known::Whole(manifest) => Some(manifest),
                Known::Unfinished | Known::Unreadable(_) => None,
            });
            let none = || Failure::new(Exit::NotFound, format!("{place}: there is no backup"));
            return Ok(newest.ok_or_else(none)?);
        };
        manifest::check_name(name)?;
        let why = match self.look(name).await? {
            Known::Whole(manifest) => return Ok(manifest),
            Known::Unreadable(why) => why,
            Known::Unfinished if self.names().await?.iter().any(|it| it == name) => {
                format!("the backup {name} was never finished: it has no manifest")
            }
            Known::Unfinished => {
                let message = format!("{place}: there is no backup {name}");
                return Err(Failure::new(Exit::NotFound, message).into());
            }
        };
        Err(Failure::new(Exit::Failed, why).into())
    }

    /// The manifest of a node as it is stored.
    ///
    /// # Errors
    /// It is missing, damaged, or another one than the cluster's manifest names.
    pub(crate) async fn node(
        &self,
        of: &ClusterManifest,
        node: &str,
    ) -> Done<(Bytes, NodeManifest)> {
        let refused = |why: String| Failure::new(Exit::Failed, why);
        let Some(entry) = of.nodes.iter().find(|entry| entry.node == node) else {
            let there: Vec<&str> = of.nodes.iter().map(|entry| entry.node.as_str()).collect();
            let there = there.join(", ");
            let why = format!("the backup {} has no copy of {node}; it has {there}", of.name);
            return Err(Failure::new(Exit::NotFound, why).into());
        };
        let file = format!("{node}.json");
        let what = format!("the manifest of {node} in the backup {}", of.name);
        let text = self.read(&[BACKUPS, &of.name, NODES, &file]).await?;
        let text = text.ok_or_else(|| refused(format!("{what} is missing")))?;
        if blake3::hash(&text).to_hex().as_str() != entry.manifest {
            return Err(refused(format!("{what} is not the one that was written")).into());
        }
        let manifest = NodeManifest::parse(&what, &text).map_err(refused)?;
        let (cluster, name) = (&manifest.cluster_id, &manifest.name);
        if (cluster, name, manifest.node.as_str()) != (&of.cluster_id, &of.name, node) {
            return Err(refused(format!("{what} is of the backup {name} of {cluster}")).into());
        }
        Ok((text, manifest))
    }

    pub(crate) async fn write_node(&self, name: &str, node: &str, text: Bytes) -> Done {
        self.write(&[BACKUPS, name, NODES, &format!("{node}.json")], text).await
    }

    /// The last step of a backup.
    pub(crate) async fn finish(&self, manifest: &ClusterManifest) -> Done {
        let text = serde_json::to_vec_pretty(manifest);
        let text = text.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        self.write(&[BACKUPS, &manifest.name, MANIFEST], text.into()).await
    }

    /// Removes a backup, whole or not; its manifest first, so that no half of it passes for one.
    ///
    /// # Errors
    /// The place's.
    pub(crate) async fn remove_backup(&self, name: &str) -> Done {
        self.remove(&[BACKUPS, name, MANIFEST]).await?;
        for (parts, _) in self.list(&[BACKUPS, name]).await? {
            let mut path = vec![BACKUPS, name];
            path.extend(parts.iter().map(String::as_str));
            self.remove(&path).await?;
        }
        Ok(())
    }

    /// The files that a backup needs, whole or not; what of it cannot be read is an error, as its files are
    /// then unknown.
    ///
    /// # Errors
    /// The place's, or a manifest is damaged.
    pub(crate) async fn needed(&self, name: &str) -> Done<Vec<manifest::NodeFile>> {
        let mut needed = Vec::new();
        for (parts, _) in self.list(&[BACKUPS, name, NODES]).await? {
            let [file] = &parts[..] else { continue };
            let what = format!("{BACKUPS}/{name}/{NODES}/{file}");
            let Some(text) = self.read(&[BACKUPS, name, NODES, file]).await? else { continue };
            let manifest = NodeManifest::parse(&what, &text);
            needed.extend(manifest.map_err(|why| Failure::new(Exit::Failed, why))?.files);
        }
        Ok(needed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_as_its_manifest_says_or_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Place::parse(dir.path().to_str().unwrap(), false).ok().unwrap());
        let name = || "000001.sst".to_owned();
        let blake3 = blake3::hash(b"rows").to_hex().to_string();
        let file = NodeFile { name: name(), bytes: 4, blake3: blake3.clone() };
        let read = async || {
            let mut came = Vec::new();
            let take = |part: &[u8]| {
                came.extend_from_slice(part);
                Ok(())
            };
            let stored = catalog.read_file(&file, take).await.ok().unwrap();
            assert!(came.len() <= 4, "more than there should be is handed on");
            stored
        };
        assert_eq!(read().await, Stored::Missing);
        let sizes = [(&b"rows"[..], Stored::Whole), (b"row", Stored::Damaged)];
        for (bytes, expected) in [(&b"rowsrows"[..], Stored::Damaged)].into_iter().chain(sizes) {
            catalog.write(&[FILES, &blake3], Bytes::from_static(bytes)).await.ok().unwrap();
            assert_eq!(read().await, expected, "{bytes:?}");
        }
        catalog.write(&[FILES, "README"], Bytes::from_static(b"mine")).await.ok().unwrap();
        let there = catalog.files().await.ok().unwrap();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), [(blake3, 3)], "others are left alone");
    }
}
