//! What a node remembers of its backups: which one is being made, and how many may be kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use super::hold::Hold;
use super::manifest::check_name;
use crate::background::throttle::Throttle;

/// How many backups a node keeps: each may come to hold as much disk space as the store does.
pub const KEPT_MAX: usize = 2;
/// How many files are sent at a time.
const STREAMS: usize = 4;

/// A node's backups.
pub struct Backups {
    making: Mutex<Option<Making>>,
    /// One is to be made.
    pub(super) wanted: Notify,
    /// It came further.
    changed: Notify,
    /// Rows that do not leave this node while nodes are copied.
    pub hold: Hold,
    /// Keeps hashing and sending files within a share of a core.
    pub throttle: Throttle,
    /// Turns to send files.
    pub streams: Arc<Semaphore>,
}

/// The last backup that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Making {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub stage: Stage,
}

/// How far a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The copy is being made: what is written now may be in it or not.
    Copying,
    /// The copy is made, and is being hashed.
    Hashing {
        /// Bytes hashed.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// It is finished.
    Whole,
    /// It came to nothing, for this reason.
    Failed(String),
}

/// Why a backup is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// Its name is none.
    #[error("{0}")]
    Name(String),
    /// There is one of this name.
    #[error("there is a backup of this name already")]
    Exists,
    /// Another one is being made.
    #[error("the backup {0:?} is being made; wait for it")]
    Busy(String),
    /// As many as may be are kept.
    #[error(
        "{KEPT_MAX} backups are kept here already ({0}), and each holds disk space: delete one that was \
         fetched"
    )]
    TooMany(String),
    /// Rows are set aside.
    #[error(
        "rows are set aside here, which would not be in the backup: decide about them first (quorate \
         distrusted)"
    )]
    SetAside,
}

impl Backups {
    /// A node's, that has just started.
    pub fn new(share_percent: u64) -> Self {
        Self {
            making: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
            hold: Hold::default(),
            throttle: Throttle::new(share_percent),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// Has a backup made, beside those that are `kept`. One that failed may be asked for again.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub fn begin(&self, name: &str, kept: &[String]) -> Result<(), NotBegun> {
        check_name(name).map_err(NotBegun::Name)?;
        let mut making = self.making();
        match &*making {
            Some(Making { name, stage: Stage::Copying | Stage::Hashing { .. } }) => {
                return Err(NotBegun::Busy(name.clone()));
            }
            Some(Making { stage: Stage::Whole | Stage::Failed(_), .. }) | None => {}
        }
        if kept.iter().any(|it| it == name) {
            return Err(NotBegun::Exists);
        }
        if kept.len() >= KEPT_MAX {
            return Err(NotBegun::TooMany(kept.join(", ")));
        }
        *making = Some(Making { name: name.to_owned(), stage: Stage::Copying });
        self.wanted.notify_one();
        Ok(())
    }

    /// The last one that was asked for since the start.
    pub fn last(&self) -> Option<Making> {
        self.making().clone()
    }

    /// The same once its copy is made, or has failed.
    pub async fn copied(&self) -> Option<Making> {
        loop {
            let changed = self.changed.notified();
            match self.last() {
                Some(Making { stage: Stage::Copying, .. }) => changed.await,
                last @ (Some(_) | None) => return last,
            }
        }
    }

    /// The one that is to be made.
    pub(super) fn to_make(&self) -> Option<String> {
        let making = self.making();
        let is_due = |it: &&Making| it.stage == Stage::Copying;
        making.as_ref().filter(is_due).map(|it| it.name.clone())
    }

    /// It is so far.
    pub(super) fn comes_to(&self, stage: Stage) {
        if let Some(making) = &mut *self.making() {
            making.stage = stage;
        }
        self.changed.notify_waiters();
    }

    fn making(&self) -> MutexGuard<'_, Option<Making>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_is_made_at_a_time_and_few_are_kept() {
        let backups = Backups::new(20);
        assert!(matches!(backups.begin("no/name", &[]), Err(NotBegun::Name(_))));
        assert_eq!((backups.to_make(), backups.copied().await), (None, None));
        backups.begin("one", &[]).unwrap();
        assert_eq!(backups.begin("two", &[]), Err(NotBegun::Busy("one".to_owned())));
        assert_eq!(backups.to_make().as_deref(), Some("one"));
        backups.comes_to(Stage::Hashing { done: 0, of: 7 });
        assert_eq!(backups.begin("two", &[]), Err(NotBegun::Busy("one".to_owned())));
        assert_eq!((backups.to_make(), backups.copied().await), (None, backups.last()));
        backups.comes_to(Stage::Whole);
        let kept = ["one", "zero"].map(str::to_owned);
        assert_eq!(backups.begin("one", &kept[..1]), Err(NotBegun::Exists));
        let many = backups.begin("two", &kept).unwrap_err();
        assert!(many.to_string().contains("one, zero"), "{many}");
        backups.begin("two", &kept[..1]).unwrap();
        backups.comes_to(Stage::Failed("no luck".to_owned()));
        backups.begin("two", &kept[..1]).unwrap();
    }
}
