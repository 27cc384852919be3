//! Reading the files of a port: within bounds, and a key only if nobody else can read it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use quorate_engine::config::TlsConfig;

use super::Port;
use super::load::TlsError;

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The permissions of a key that somebody else than its owner has.
const OF_OTHERS: u32 = 0o077;

/// What the files of a port hold.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The certificate chain, in PEM.
    pub(super) cert: Vec<u8>,
    /// The private key, in PEM.
    pub(super) key: Vec<u8>,
    /// The files with authorities, in PEM.
    pub(super) ca: Vec<(PathBuf, Vec<u8>)>,
}

impl Contents {
    /// Reads the files that these settings name. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] if one is missing, too long, or a key that others can read.
    pub(crate) fn read(port: Port, settings: &TlsConfig) -> Result<Self, TlsError> {
        let read = |setting: &str, path: &Path| {
            read_file(path, setting == "key").map_err(|why| TlsError::new(port, setting, path, why))
        };
        let ca = settings.ca.iter().map(|path| Ok((path.clone(), read("ca", path)?)));
        Ok(Self {
            cert: read("cert", &settings.cert)?,
            key: read("key", &settings.key)?,
            ca: ca.collect::<Result<_, TlsError>>()?,
        })
    }
}

/// Reads a file whole. A secret one must be its owner's alone. Blocks.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn read_file(path: &Path, is_secret: bool) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    if is_secret {
        // Of the open file: its name may mean another one by now.
        let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode();
        if mode & OF_OTHERS != 0 {
            return Err(format!(
                "others than its owner have access to this key (mode {:04o}): chmod 600 {}",
                mode & 0o7777,
                path.display()
            ));
        }
    }
    let mut bytes = Vec::new();
    let most = FILE_BYTES_MAX + 1;
    file.by_ref().take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 >= most {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// Whether everybody can read a file; `false` if that cannot be told.
pub(crate) fn is_world_readable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}
