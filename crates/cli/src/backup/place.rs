//! Where backups are kept: a directory, or a bucket of an S3-compatible store.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::s3;
use crate::exit::{Done, Failure};

/// A place for backups.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Before every name there.
    prefix: Path,
    /// Whether it is a bucket.
    pub(crate) is_bucket: bool,
    /// As the operator gave it.
    pub(crate) shown: String,
}

impl Place {
    /// Reads `--to` or `--from`. A directory is made, if that is allowed and its parent exists.
    ///
    /// # Errors
    /// Usage: it is none, or cannot be used.
    pub(crate) fn parse(text: &str, may_make: bool) -> Done<Self> {
        let refused = |why: String| Failure::usage(format!("{}: {why}", crate::out::safe(text)));
        let path = match text.split_once("://") {
            None => text,
            Some(("file", path)) => path,
            Some(("s3", rest)) => {
                let (store, prefix) = s3::open(rest).map_err(refused)?;
                return Ok(Self { store, prefix, is_bucket: true, shown: text.to_owned() });
            }
            Some((scheme, _)) => {
                let why =
                    format!("{scheme}:// is not known; expected a directory, file:// or s3://");
                return Err(refused(why).into());
            }
        };
        let store = directory(FilePath::new(path), may_make).map_err(refused)?;
        let (prefix, shown) = (Path::default(), text.to_owned());
        Ok(Self { store, prefix, is_bucket: false, shown })
    }

    /// A name there.
    pub(crate) fn at(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.prefix.clone(), |path, part| path.join(*part))
    }

    /// The parts of a name below that of [`Place::at`].
    pub(crate) fn below(&self, path: &Path, parts: &[&str]) -> Option<Vec<String>> {
        let base = self.at(parts);
        let rest = path.prefix_match(&base)?;
        Some(rest.map(|part| part.as_ref().to_owned()).collect())
    }
}

fn directory(path: &FilePath, may_make: bool) -> Result<Arc<dyn ObjectStore>, String> {
    if may_make && !path.is_dir() {
        fs::create_dir(path).map_err(|error| error.to_string())?;
    }
    let path: PathBuf = path.canonicalize().map_err(|error| error.to_string())?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
    // What a manifest names must survive a power cut when the manifest does.
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_and_names_lie_below_them() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("new");
        let absent = Place::parse(inside.to_str().unwrap(), false);
        assert!(absent.is_err() && !inside.exists(), "not made for a reader");
        let shown = format!("file://{}", inside.display());
        for text in [&shown, inside.to_str().unwrap()] {
            let place = Place::parse(text, true).unwrap();
            let at = place.at(&["files", "ab"]);
            assert_eq!(at.to_string(), "files/ab");
            assert_eq!(place.below(&at, &["files"]), Some(vec!["ab".to_owned()]));
            assert_eq!(place.below(&at, &["backups"]), None);
        }
        let bucket =
            Place { prefix: Path::from("some/prefix"), ..Place::parse(&shown, true).unwrap() };
        let at = bucket.at(&["files", "ab"]);
        assert_eq!(at.to_string(), "some/prefix/files/ab");
        assert_eq!(bucket.below(&at, &["files"]), Some(vec!["ab".to_owned()]));
        let orphan = dir.path().join("no/such");
        for bad in ["s3://", "gs://bucket", "http://h/x", orphan.to_str().unwrap()] {
            assert!(Place::parse(bad, true).is_err(), "{bad}");
        }
    }
}
