//! Where backups are kept: a directory, or a bucket of an object store.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::exit::{Done, Failure};

/// A place for backups.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// What all names there begin with; empty for a directory.
    prefix: Path,
    /// As the operator gave it.
    pub(crate) shown: String,
}

impl Place {
    /// Reads `--to` or `--from`. A directory is made if its parent exists.
    ///
    /// # Errors
    /// Usage: it is none, or cannot be used.
    pub(crate) fn parse(text: &str) -> Done<Self> {
        let refused = |why: String| Failure::usage(format!("{}: {why}", crate::out::safe(text)));
        let (store, prefix) = match text.split_once("://") {
            Some(("s3", rest)) => s3(rest).map_err(refused)?,
            Some(("file", path)) => {
                (directory(FilePath::new(path)).map_err(refused)?, Path::default())
            }
            Some((scheme, _)) => {
                let why =
                    format!("{scheme}:// is not known; expected a directory, file:// or s3://");
                return Err(refused(why).into());
            }
            None => (directory(FilePath::new(text)).map_err(refused)?, Path::default()),
        };
        Ok(Self { store, prefix, shown: text.to_owned() })
    }

    /// A name there.
    pub(crate) fn at(&self, parts: &[&str]) -> Path {
        let mut path = self.prefix.clone();
        for part in parts {
            path = path.join(*part);
        }
        path
    }

    /// The parts of a name below that of [`Place::at`].
    pub(crate) fn below(&self, path: &Path, parts: &[&str]) -> Option<Vec<String>> {
        let base = self.at(parts);
        let rest = path.prefix_match(&base)?;
        Some(rest.map(|part| part.as_ref().to_owned()).collect())
    }
}

fn directory(path: &FilePath) -> Result<Arc<dyn ObjectStore>, String> {
    if !path.is_dir() {
        fs::create_dir(path).map_err(|error| error.to_string())?;
    }
    let path: PathBuf = path.canonicalize().map_err(|error| error.to_string())?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
    // What a manifest names must survive a power cut when the manifest does.
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

fn s3(_rest: &str) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    Err("this build has no S3".to_owned())
}
