//! One command at a time works in a place: pruning must not delete a file that a backup under way has found
//! there and counts on.

use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, failed};
use crate::exit::{Done, Exit, Failure};

const LOCK: &str = "lock.json";

#[derive(Serialize, Deserialize)]
struct Held {
    what: String,
    since: String,
    host: String,
    process: u32,
}

/// The lock is held until it is released; a command that dies leaves it.
#[must_use]
pub(crate) struct Lock<'a>(&'a Catalog);

impl<'a> Lock<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another command has it, or the place cannot be written.
    pub(crate) async fn take(catalog: &'a Catalog, what: &str, break_it: bool) -> Done<Self> {
        let path = catalog.place.at(&[LOCK]);
        if break_it {
            match catalog.place.store.delete(&path).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(failed(catalog, &error).into()),
            }
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let held = Held {
            what: what.to_owned(),
            since: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            host: host.trim().to_owned(),
            process: std::process::id(),
        };
        let text = serde_json::to_vec(&held).unwrap_or_default();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match catalog.place.store.put_opts(&path, text.into(), options).await {
            Ok(_) => Ok(Self(catalog)),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Err(busy(catalog).await.into())
            }
            Err(error) => Err(failed(catalog, &error).into()),
        }
    }

    /// Releases it.
    pub(crate) async fn release(self) {
        let path = self.0.place.at(&[LOCK]);
        if let Err(error) = self.0.place.store.delete(&path).await {
            crate::out::note(&format!("note: the lock {path} could not be removed: {error}"));
        }
    }
}

async fn busy(catalog: &Catalog) -> Failure {
    let text = catalog.read(&[LOCK]).await.ok().flatten();
    let held: Option<Held> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let by = held.map_or("another command".to_owned(), |held| {
        format!("{} (process {} on {}, since {})", held.what, held.process, held.host, held.since)
    });
    let message = format!("{}: {} works there", catalog.place.shown, crate::out::safe(&by));
    Failure::new(Exit::Failed, message)
        .advise("wait for it; if it has died, repeat the command with --break-lock")
}
