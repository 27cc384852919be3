//! Makes a backup of the cluster: every node copies its store, then the copies are fetched.
//!
//! First all nodes keep what they would hand over to others, so that no row is between two copies; then all
//! copy at the same time. What was acknowledged before that is in W of the copies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::catalog::{Catalog, Known};
use super::copy::{Source, copy};
use super::lock::Lock;
use super::manifest::{ClusterManifest, FORMAT, NodeEntry, NodeFile, check_name};
use super::nodes::{Copied, Node, answering, check, copy_all, hashed, manifests};
use crate::app::App;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::out::{bytes, count, note};
use crate::progress::Progress;

/// How many nodes are fetched from at a time.
const NODES_AT_ONCE: usize = 4;

/// What is wanted of a backup.
pub(crate) struct Wanted<'a> {
    pub(crate) name: Option<String>,
    /// How many are kept afterwards.
    pub(crate) keep: Option<usize>,
    /// Nodes that need not answer.
    pub(crate) allow_missing: &'a [String],
    pub(crate) break_lock: bool,
}

/// What was fetched.
#[derive(Clone, Copy, Default)]
struct Fetched {
    files: u64,
    bytes: u64,
    copied_files: u64,
    copied_bytes: u64,
}

/// Runs the command.
pub(crate) async fn run(app: &App, catalog: &Catalog, wanted: Wanted<'_>) -> Done<Exit> {
    let name = wanted.name.clone().unwrap_or_else(time_name);
    check_name(&name)?;
    let lock = Lock::take(catalog, &format!("backup {name}"), wanted.break_lock).await?;
    let made = locked(app, catalog, &lock, (&name, &wanted)).await;
    lock.release().await;
    made
}

/// A name is given once: what is left of a backup that was interrupted keeps its own.
async fn check_new(catalog: &Catalog, name: &str) -> Done {
    if !catalog.names().await?.iter().any(|it| it == name) {
        return Ok(());
    }
    let what = match catalog.look(name).await? {
        Known::Whole(_) => "a backup",
        Known::Unfinished | Known::Unreadable(_) => "something left of a backup",
    };
    let message = format!("{}: there is {what} called {name} already", catalog.place.shown);
    Err(Failure::usage(message).advise("give another --name, or delete that one").into())
}

async fn locked(
    app: &App,
    catalog: &Catalog,
    lock: &Lock<'_>,
    (name, wanted): (&str, &Wanted<'_>),
) -> Done<Exit> {
    check_new(catalog, name).await?;
    let (nodes, missing) = super::interruptible(answering(app, wanted.allow_missing)).await?;
    let made = super::interruptible(make(app, (catalog, lock), (name, &missing), &nodes)).await;
    catalog.uploads.give_up().await;
    // Whatever became of it, the nodes need not keep anything any more.
    join_all(nodes.iter().map(async |node| {
        drop(node.admin.hold_rows(0).await);
        if node.has_copy.get() && node.admin.delete_backup(name).await.is_err() {
            note(&format!("note: {} still keeps its copy {name}: delete it there", node.name));
        }
    }))
    .await;
    let (manifest, fetched) = match made {
        Ok(made) => made,
        Err(Stop::ClosedPipe) => return Err(Stop::ClosedPipe),
        Err(Stop::Failed(mut failure)) => {
            let left =
                "the backup came to nothing; a file that was fetched is used by the next one";
            failure.advice = Some(match failure.advice {
                Some(advice) => format!("{advice}. {left}"),
                None => left.to_owned(),
            });
            return Err(Stop::Failed(failure));
        }
    };
    tell(app, &manifest, fetched)?;
    if let Some(keep) = wanted.keep {
        super::interruptible(super::keep::prune_locked(app, catalog, lock, keep)).await?;
    }
    Ok(Exit::Ok)
}

async fn make(
    app: &App,
    (catalog, lock): (&Catalog, &Lock<'_>),
    (name, missing): (&str, &[String]),
    nodes: &[Node],
) -> Done<(ClusterManifest, Fetched)> {
    let window = copy_all(app, nodes, name).await?;
    hashed(nodes, name).await?;
    let copied = manifests(nodes, name).await?;
    check(&copied, window)?;
    for Copied { node, text, .. } in &copied {
        catalog.write_node(name, &node.name, text.clone()).await?;
    }
    let fetched = fetch(catalog, name, &copied).await?;
    let first = copied.first().ok_or_else(|| Failure::new(Exit::Failed, "there is no node"))?;
    let entry = |it: &Copied<'_>| NodeEntry {
        node: it.node.name.clone(),
        manifest: blake3::hash(&it.text).to_hex().to_string(),
        files: it.manifest.files.len() as u64,
        bytes: it.manifest.bytes(),
    };
    let manifest = ClusterManifest {
        format: FORMAT,
        name: name.to_owned(),
        id: format!("{:032x}", rand::random::<u128>()),
        cluster_id: first.manifest.cluster_id.clone(),
        epoch: first.manifest.epoch,
        record_hash: first.manifest.record_hash.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        began_at: window.began_at,
        ended_at: window.ended_at,
        nodes: copied.iter().map(entry).collect(),
        missing: missing.to_vec(),
    };
    check_stored(catalog, &copied).await?;
    lock.check().await?;
    catalog.finish(&manifest).await?;
    Ok((manifest, fetched))
}

/// Fetches what is not there yet.
async fn fetch(catalog: &Catalog, name: &str, copied: &[Copied<'_>]) -> Done<Fetched> {
    let there = catalog.files().await?;
    let (mut fetched, mut wanted) = (Fetched::default(), BTreeMap::new());
    for it in copied {
        fetched.files += it.manifest.files.len() as u64;
        fetched.bytes += it.manifest.bytes();
        for file in &it.manifest.files {
            // Of nodes with the same file one gives it.
            if there.get(&file.blake3) != Some(&file.bytes) {
                wanted.entry(&file.blake3).or_insert((it.node, file));
            }
        }
    }
    fetched.copied_files = wanted.len() as u64;
    fetched.copied_bytes = wanted.values().map(|(_, file)| file.bytes).sum();
    let of = |node: &Node| -> Vec<&NodeFile> {
        let own = wanted.values().filter(|(by, _)| std::ptr::eq(*by, node));
        own.map(|(_, file)| *file).collect()
    };
    let progress = std::cell::RefCell::new(Progress::start("copying", Some(fetched.copied_bytes)));
    let done = Cell::new(0);
    let count = |more: u64| {
        done.set(done.get() + more);
        progress.borrow_mut().show(done.get(), &bytes(done.get()));
    };
    let fetches = copied.iter().map(async |it| {
        let from = Source { admin: &it.node.admin, node: &it.node.name, backup: name };
        for file in of(it.node) {
            copy(catalog, &from, file, &count).await?;
        }
        Ok::<(), Stop>(())
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(NODES_AT_ONCE);
    while let Some(fetched) = fetches.next().await {
        fetched?;
    }
    drop(fetches);
    progress.into_inner().finish();
    Ok(fetched)
}

/// A last look before there is a backup: whether all of its files are there, as long as they should be.
async fn check_stored(catalog: &Catalog, copied: &[Copied<'_>]) -> Done {
    let there = catalog.files().await?;
    let files = copied.iter().flat_map(|it| &it.manifest.files);
    match files.into_iter().find(|file| there.get(&file.blake3) != Some(&file.bytes)) {
        None => Ok(()),
        Some(file) => {
            let place = &catalog.place.shown;
            let why = format!("{place}: {} was stored, and is not there as it was", file.name);
            Err(Failure::new(Exit::Failed, why).into())
        }
    }
}

fn tell(app: &App, manifest: &ClusterManifest, fetched: Fetched) -> Done {
    let ClusterManifest { name, began_at, ended_at, nodes, missing, .. } = manifest;
    let Fetched { files, bytes: all, copied_files, copied_bytes } = fetched;
    if app.out.json {
        let nodes: Vec<&str> = nodes.iter().map(|it| it.node.as_str()).collect();
        return app.out.json(&json!({
            "name": name, "began_at": began_at, "ended_at": ended_at, "nodes": nodes,
            "missing": missing, "files": files, "bytes": all, "copied_files": copied_files,
            "copied_bytes": copied_bytes,
        }));
    }
    let nodes = count(nodes.len() as u64, "node");
    let text = format!(
        "backup {name}: {nodes}, {} in {}; copied {} in {}\n\
         everything acknowledged before {} is in it; what was written until {} may be",
        bytes(all),
        count(files, "file"),
        bytes(copied_bytes),
        count(copied_files, "file"),
        date(*began_at),
        date(*ended_at),
    );
    app.out.line(&text)?;
    if !missing.is_empty() {
        let missing = missing.join(", ");
        note(&format!("note: without {missing}: what only {missing} held is not in the backup"));
    }
    Ok(())
}

/// A time in RFC 3339.
pub(crate) fn date(ms: u64) -> String {
    // Far dates of a damaged manifest are not worth a panic.
    let at = UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000));
    humantime::format_rfc3339_millis(at).to_string()
}

/// A name that sorts by time.
fn time_name() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.to_lowercase().replace(':', "")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_by_time_are_names() {
        assert!(check_name(&time_name()).is_ok(), "{}", time_name());
        assert_eq!(date(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert!(date(u64::MAX).starts_with("9999"));
    }
}
