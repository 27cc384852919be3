//! One command at a time works in a place: pruning must not delete a file that a backup under way has found
//! there and counts on.
//!
//! The lock is an object that is only created if there is none. A store that ignores that condition would
//! give it to two at once, so it is asked twice; where stores are known not to have conditions, the
//! operator says so (`AWS_CONDITIONAL_PUT=disabled`), and a lock that is there is all that is respected.

use bytes::Bytes;
use object_store::{Error as StoreError, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, failed};
use crate::exit::{Done, Exit, Failure};
use crate::out::note;

const LOCK: &str = "lock.json";

#[derive(Serialize, Deserialize)]
struct Held {
    what: String,
    since: String,
    host: String,
    process: u32,
    /// Drawn for each lock.
    #[serde(default)]
    id: String,
}

/// The lock is held until it is released; a command that dies leaves it.
#[must_use]
pub(crate) struct Lock<'a> {
    catalog: &'a Catalog,
    id: String,
}

/// What became of an attempt to create it.
enum Created {
    Yes,
    /// There is one already.
    No,
    /// The store is said not to know conditions.
    Unknown,
}

impl<'a> Lock<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    /// Another command has it, or the place cannot be written.
    pub(crate) async fn take(catalog: &'a Catalog, what: &str, break_it: bool) -> Done<Self> {
        if break_it {
            catalog.remove(&[LOCK]).await?;
        }
        let lock = Self { catalog, id: format!("{:032x}", rand::random::<u128>()) };
        let text = lock.text(what);
        match lock.created(&text).await? {
            Created::Yes if catalog.place.is_bucket => lock.try_again(&text).await?,
            Created::Yes => {}
            Created::No => return Err(lock.busy().await.into()),
            Created::Unknown => {
                if catalog.read(&[LOCK]).await?.is_some() {
                    return Err(lock.busy().await.into());
                }
                note(
                    "note: without conditional puts: see to it yourself that no other command works there",
                );
                catalog.write(&[LOCK], text).await?;
            }
        }
        Ok(lock)
    }

    fn text(&self, what: &str) -> Bytes {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let held = Held {
            what: what.to_owned(),
            since: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            host: host.trim().to_owned(),
            process: std::process::id(),
            id: self.id.clone(),
        };
        serde_json::to_vec(&held).unwrap_or_default().into()
    }

    /// Creates it. What was refused, or was not answered, may have succeeded all the same: then the one
    /// that is there is this one.
    async fn created(&self, text: &Bytes) -> Done<Created> {
        let created = create(self.catalog, text).await;
        match created {
            Ok(Created::Yes | Created::Unknown) => created,
            Ok(Created::No) => Ok(if self.is_own().await? { Created::Yes } else { Created::No }),
            Err(stop) => match self.is_own().await {
                Ok(true) => Ok(Created::Yes),
                Ok(false) | Err(_) => Err(stop),
            },
        }
    }

    /// A store that creates it once more does not look at conditions.
    async fn try_again(&self, text: &Bytes) -> Done {
        match create(self.catalog, text).await {
            Ok(Created::No) => return Ok(()),
            Ok(Created::Yes | Created::Unknown) => self.catalog.remove(&[LOCK]).await?,
            Err(stop) => {
                drop(self.catalog.remove(&[LOCK]).await);
                return Err(stop);
            }
        }
        let message = format!(
            "{}: the store ignores the condition of a put (If-None-Match), so that two commands could work \
             there at once",
            self.catalog.place.shown
        );
        Err(Failure::new(Exit::Failed, message)
            .advise("if you see to it that only one does: AWS_CONDITIONAL_PUT=disabled")
            .into())
    }

    async fn is_own(&self) -> Done<bool> {
        Ok(held(self.catalog).await?.is_some_and(|held| held.id == self.id))
    }

    /// Checks that it was not taken over by another command: before what cannot be undone.
    ///
    /// # Errors
    /// It was, or the place cannot be read.
    pub(crate) async fn check(&self) -> Done {
        if self.is_own().await? {
            return Ok(());
        }
        let message = format!(
            "{}: the lock was taken over meanwhile (--break-lock): files may be gone that were counted on",
            self.catalog.place.shown
        );
        Err(Failure::new(Exit::Failed, message).advise("repeat the command").into())
    }

    /// Releases it, unless it was taken over.
    pub(crate) async fn release(self) {
        let removed = match self.is_own().await {
            Ok(true) => self.catalog.remove(&[LOCK]).await,
            Ok(false) => Ok(()),
            Err(stop) => Err(stop),
        };
        if removed.is_err() {
            let place = &self.catalog.place.shown;
            note(&format!("note: the lock could not be removed: {place}/{LOCK}"));
        }
    }

    async fn busy(&self) -> Failure {
        let held = held(self.catalog).await.ok().flatten();
        let by = held.map_or("another command".to_owned(), |held| {
            let Held { what, process, host, since, .. } = held;
            format!("{what} (process {process} on {host}, since {since})")
        });
        let message =
            format!("{}: {} works there", self.catalog.place.shown, crate::out::safe(&by));
        Failure::new(Exit::Failed, message)
            .advise("wait for it; if it has died, repeat the command with --break-lock")
    }
}

async fn create(catalog: &Catalog, text: &Bytes) -> Done<Created> {
    let path = catalog.place.at(&[LOCK]);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match catalog.place.store.put_opts(&path, text.clone().into(), options).await {
        Ok(_) => Ok(Created::Yes),
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Created::No),
        Err(StoreError::NotImplemented { .. }) => Ok(Created::Unknown),
        Err(error) => Err(failed(catalog, &error).into()),
    }
}

async fn held(catalog: &Catalog) -> Done<Option<Held>> {
    let text = catalog.read(&[LOCK]).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::place::Place;
    use super::*;

    #[tokio::test]
    async fn one_command_works_in_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Place::parse(dir.path().to_str().unwrap(), false).unwrap());
        let first = Lock::take(&catalog, "first", false).await.ok().unwrap();
        assert!(Lock::take(&catalog, "second", false).await.is_err());
        assert!(first.check().await.is_ok());
        let second = Lock::take(&catalog, "second", true).await.ok().unwrap();
        assert!(first.check().await.is_err(), "it was taken over");
        first.release().await;
        assert!(second.check().await.is_ok(), "and is not the first one's to release");
        second.release().await;
        assert!(held(&catalog).await.ok().unwrap().is_none());
    }
}
