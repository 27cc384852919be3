//! Contexts that a person should not have to copy: what `get` saw is remembered, and the next `put`
//! of the key says so.
//!
//! They are in `$XDG_STATE_HOME/quorate/contexts.json` (`~/.local/state` if that is not set),
//! readable by their owner only. A file that cannot be read or written is no error: the command
//! says so and goes on without it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::args::Name;

/// The most contexts remembered; the oldest go first.
const ENTRIES_MAX: usize = 1000;
/// The longest context that is remembered, in bytes.
const CONTEXT_BYTES_MAX: usize = 16 << 10;
/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// How long another command may hold the file.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);

/// The remembered contexts.
#[derive(Debug)]
pub(crate) struct Session {
    file: Option<PathBuf>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    cluster: String,
    bucket: String,
    key: String,
    pub(crate) context: String,
    /// When, in milliseconds since 1970.
    at_ms: u64,
}

impl Seen {
    /// How long ago, in milliseconds.
    pub(crate) fn ago_ms(&self) -> u64 {
        now_ms().saturating_sub(self.at_ms)
    }

    fn is_of(&self, cluster: &str, name: &Name) -> bool {
        self.cluster == cluster && self.bucket == name.bucket && self.key == name.key
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    contexts: Vec<Seen>,
}

impl Session {
    /// The session of this user.
    pub(crate) fn of_user() -> Self {
        let absolute = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local").join("state")));
        Self { file: state.map(|state| state.join("quorate").join("contexts.json")) }
    }

    /// What was last seen of a key.
    pub(crate) fn find(&self, cluster: &str, name: &Name) -> Option<Seen> {
        let file = self.file.as_deref()?;
        match read(file) {
            Ok(contents) => contents.contexts.into_iter().rev().find(|it| it.is_of(cluster, name)),
            Err(error) => {
                crate::out::note(&format!(
                    "note: no context is remembered: {}: {error}",
                    file.display()
                ));
                None
            }
        }
    }

    /// Remembers what was seen of a key; `None` forgets it.
    pub(crate) fn remember(&self, cluster: &str, name: &Name, context: Option<&str>) {
        let Some(file) = self.file.as_deref() else { return };
        let context = context.filter(|context| context.len() <= CONTEXT_BYTES_MAX);
        let seen = context.map(|context| Seen {
            cluster: cluster.to_owned(),
            bucket: name.bucket.clone(),
            key: name.key.clone(),
            context: context.to_owned(),
            at_ms: now_ms(),
        });
        if let Err(error) = change(file, |contexts| {
            contexts.retain(|it| !it.is_of(cluster, name));
            contexts.extend(seen);
            let surplus = contexts.len().saturating_sub(ENTRIES_MAX);
            contexts.drain(..surplus);
        }) {
            crate::out::note(&format!(
                "note: the context is not remembered: {}: {error}",
                file.display()
            ));
        }
    }
}

fn read(file: &Path) -> std::io::Result<Contents> {
    let mut text = Vec::new();
    match File::open(file) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Contents::default());
        }
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_slice(&text)?)
}

/// Changes the file as a whole: readers see it before or after, and a crash leaves one of both.
fn change(file: &Path, how: impl FnOnce(&mut Vec<Seen>)) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let private = |path: &Path| {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    };
    let lock = private(&file.with_extension("lock"))?;
    let started = Instant::now();
    while lock.try_lock().is_err() {
        if started.elapsed() > LOCKED_WITHIN {
            return Err(std::io::Error::other("another command holds it"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // A file that is damaged is replaced: what it held can be read again from the cluster.
    let mut contents = read(file).unwrap_or_default();
    how(&mut contents.contexts);
    let new = file.with_extension("new");
    let mut out = private(&new)?;
    out.write_all(&serde_json::to_vec(&contents)?)?;
    fs::rename(&new, file)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn contexts_are_remembered_per_cluster_and_key_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/quorate/contexts.json");
        let session = Session { file: Some(file.clone()) };
        let name = |key: &str| Name { bucket: "b".to_owned(), key: key.to_owned() };
        assert_eq!(session.find("c", &name("k")), None);
        session.remember("c", &name("k"), Some("one"));
        session.remember("c", &name("k"), Some("two"));
        session.remember("other", &name("k"), Some("three"));
        assert_eq!(session.find("c", &name("k")).unwrap().context, "two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        session.remember("c", &name("k"), None);
        assert_eq!(session.find("c", &name("k")), None);
        assert_eq!(session.find("other", &name("k")).unwrap().context, "three");
        for number in 0..=ENTRIES_MAX {
            let at = |contexts: &mut Vec<Seen>| {
                contexts.push(Seen {
                    cluster: "c".to_owned(),
                    bucket: "b".to_owned(),
                    key: format!("{number}"),
                    context: "x".to_owned(),
                    at_ms: 0,
                });
            };
            if number == ENTRIES_MAX {
                session.remember("c", &name("last"), Some("x"));
            } else {
                change(&file, at).unwrap();
            }
        }
        assert_eq!(read(&file).unwrap().contexts.len(), ENTRIES_MAX);
        assert_eq!(session.find("other", &name("k")), None, "the oldest went");
        assert!(session.find("c", &name("last")).is_some());
    }

    #[test]
    fn a_damaged_file_is_replaced_by_the_next_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.json");
        fs::write(&file, "{\"contexts\": 7").unwrap();
        let session = Session { file: Some(file) };
        let name = Name { bucket: "b".to_owned(), key: "k".to_owned() };
        assert_eq!(session.find("c", &name), None);
        session.remember("c", &name, Some("one"));
        assert_eq!(session.find("c", &name).unwrap().context, "one");
    }
}
