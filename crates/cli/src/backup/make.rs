//! Makes a backup of the cluster: every node copies its store, then the copies are fetched.
//!
//! First all nodes keep what they would hand over to others, so that no row is between two copies; then all
//! copy at the same time. What was acknowledged before that is in W of the copies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use quorate_client::{Admin, Client, Error};
use serde_json::{Value, json};

use super::catalog::{Catalog, Known};
use super::copy::{Source, copy};
use super::lock::Lock;
use super::manifest::{ClusterManifest, FORMAT, NodeEntry, NodeFile, NodeManifest, check_name};
use crate::app::App;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::nodes::Member;
use crate::out::{bytes, count, millis, note};
use crate::progress::{Progress, TICK};
use crate::refusal;

/// How long a node keeps what it would hand over, at most: longer than copies are waited for.
const HOLD_MS: u64 = 120_000;
/// How long nodes may take to copy their stores.
const COPY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may be silent while its files are hashed and fetched.
const PATIENCE: Duration = Duration::from_secs(60);
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

/// A node that is backed up.
struct Node {
    name: String,
    admin: Admin,
    /// Whether it has a copy, of this name, that is to be deleted in the end.
    has_copy: Cell<bool>,
    // Keeps its connections.
    _client: Client,
}

/// A node's manifest, as it gave it and read.
struct Copied<'a> {
    node: &'a Node,
    text: Bytes,
    manifest: NodeManifest,
}

/// When the copies were made, by the clock of this machine, in milliseconds since 1970.
#[derive(Clone, Copy)]
struct Window {
    began_at: u64,
    ended_at: u64,
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
    if catalog.names().await?.contains(&name) {
        let what = match catalog.look(&name).await? {
            Known::Whole(_) => "a backup",
            Known::Unfinished | Known::Unreadable(_) => "something left of a backup",
        };
        let message = format!("{}: there is {what} called {name} already", catalog.place.shown);
        return Err(Failure::usage(message)
            .advise("give another --name, or delete that one")
            .into());
    }
    let lock = Lock::take(catalog, &format!("backup {name}"), wanted.break_lock).await?;
    let made = locked(app, catalog, &name, &wanted).await;
    lock.release().await;
    made
}

async fn locked(app: &App, catalog: &Catalog, name: &str, wanted: &Wanted<'_>) -> Done<Exit> {
    let (nodes, missing) = answering(app, wanted.allow_missing).await?;
    let made = tokio::select! {
        made = make(app, catalog, (name, &missing), &nodes) => made,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted").into()),
    };
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
        super::keep::prune_locked(app, catalog, keep).await?;
    }
    Ok(Exit::Ok)
}

/// The members that answer, and those that need not and do not.
async fn answering(app: &App, allowed: &[String]) -> Done<(Vec<Node>, Vec<String>)> {
    let members = app.nodes.cluster().await?.members;
    let unknown = |name: &&String| !members.iter().any(|member| member.name == **name);
    if let Some(name) = allowed.iter().find(unknown) {
        let message = format!("--allow-missing: {} is no member", crate::out::safe(name));
        return Err(Failure::usage(message).into());
    }
    let layout = app.ask("asking", app.nodes.admin().layout()).await?;
    if layout["phase"] != "stable" {
        let message =
            "a change of the layout is under way: what is restored of it would belong nowhere";
        let failure = Failure::new(Exit::Conflict, message);
        return Err(failure.advise("wait for its end: quorate layout wait").into());
    }
    let told = app.nodes.everywhere(&members, async |admin| admin.hold_rows(HOLD_MS).await).await;
    let (mut nodes, mut missing, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    for (member, told) in members.iter().zip(told) {
        match (told, allowed.contains(&member.name)) {
            (Ok(()), _) => nodes.push(node(app, member)?),
            (Err(_), true) => missing.push(member.name.clone()),
            (Err(why), false) => silent.push(format!("{}: {why}", member.name)),
        }
    }
    if !silent.is_empty() {
        join_all(nodes.iter().map(async |node| drop(node.admin.hold_rows(0).await))).await;
        let message = format!("every node must be in the backup: {}", silent.join("; "));
        return Err(Failure::new(Exit::Unavailable, message)
            .advise("--allow-missing NODE goes on without one, and what only it holds is not in the backup")
            .into());
    }
    Ok((nodes, missing))
}

fn node(app: &App, member: &Member) -> Done<Node> {
    let url = member.url.clone().unwrap_or_default();
    let client = app.nodes.only(&url, PATIENCE)?;
    let (name, admin) = (member.name.clone(), client.admin_of(&url)?);
    Ok(Node { name, admin, has_copy: Cell::new(false), _client: client })
}

async fn make(
    app: &App,
    catalog: &Catalog,
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
    catalog.finish(&manifest).await?;
    Ok((manifest, fetched))
}

/// Has all nodes copy their stores, at the same time.
async fn copy_all(app: &App, nodes: &[Node], name: &str) -> Done<Window> {
    let began_at = now_ms();
    let asked = COPY_WITHIN.as_millis() as u64;
    let asks = nodes.iter().map(async |node| {
        // Set before: what became of a request that was not answered is unknown.
        node.has_copy.set(true);
        match node.admin.make_backup(name, asked).await {
            Ok(told) => Ok(told["state"] != "copying"),
            Err(error) => {
                let is_refusal = error.problem().is_some_and(|it| it.name() == "backup_refused");
                node.has_copy.set(!is_refusal);
                Err(of_node(node, &error))
            }
        }
    });
    let all = crate::app::patiently("waiting for the nodes' copies", join_all(asks)).await;
    let ended_at = now_ms();
    for (node, is_made) in nodes.iter().zip(all) {
        if !is_made? {
            let took = millis(ended_at - began_at);
            let message = format!("{}: its store was not copied within {took}", node.name);
            return Err(Failure::new(Exit::Unavailable, message).into());
        }
    }
    app.out.note(&format!(
        "copied the stores of {} within {}",
        count(nodes.len() as u64, "node"),
        millis(ended_at - began_at)
    ));
    Ok(Window { began_at, ended_at })
}

/// Waits until all nodes have hashed their copies.
async fn hashed(nodes: &[Node], name: &str) -> Done {
    let mut progress = Progress::start("hashing", None);
    loop {
        let states = join_all(nodes.iter().map(async |node| state(node, name).await)).await;
        let (mut done, mut of, mut is_over) = (0, 0, true);
        for state in states {
            let state = state?;
            let number = |name: &str| state[name].as_u64().unwrap_or_default();
            (done, of) = (done + number("done"), of + number("of"));
            is_over &= state["state"] == "whole";
        }
        if is_over {
            progress.finish();
            return Ok(());
        }
        progress.show(done, &format!("of {}", bytes(of)));
        tokio::time::sleep(TICK).await;
    }
}

/// How far a node's backup is.
async fn state(node: &Node, name: &str) -> Done<Value> {
    let told = node.admin.backups().await.map_err(|error| of_node(node, &error))?;
    let last = &told["last"];
    let failed = |why: &str| Failure::new(Exit::Failed, format!("{}: {why}", node.name));
    match (last["name"] == name, last["state"].as_str()) {
        (true, Some("copying" | "hashing" | "whole")) => Ok(last.clone()),
        (true, Some("failed")) => {
            Err(failed(last["reason"].as_str().unwrap_or("it came to nothing")).into())
        }
        // It was restarted: its copy is gone, if it was not whole.
        (true | false, _) => Err(failed("it does not know of the backup any more").into()),
    }
}

async fn manifests<'a>(nodes: &'a [Node], name: &str) -> Done<Vec<Copied<'a>>> {
    let mut all = Vec::new();
    for node in nodes {
        let text = node.admin.backup_manifest(name).await.map_err(|error| of_node(node, &error))?;
        let what = format!("the manifest of {}", node.name);
        let manifest =
            NodeManifest::parse(&what, &text).map_err(|why| Failure::new(Exit::Failed, why))?;
        all.push(Copied { node, text, manifest });
    }
    Ok(all)
}

/// Whether the copies belong together.
fn check(copied: &[Copied<'_>], window: Window) -> Done {
    let refused = |why: String| Err(Failure::new(Exit::Failed, why).into());
    let Some(first) = copied.first().map(|it| &it.manifest) else { return Ok(()) };
    let took = window.ended_at.saturating_sub(window.began_at);
    for Copied { node, manifest, .. } in copied {
        let NodeManifest { cluster_id, epoch, record_hash, phase, .. } = manifest;
        if manifest.node != node.name {
            return refused(format!(
                "the node at the address of {} is {}",
                node.name, manifest.node
            ));
        }
        if *cluster_id != first.cluster_id {
            return refused(format!("{} is of the cluster {cluster_id:?}", node.name));
        }
        if (epoch, record_hash) != (&first.epoch, &first.record_hash) || phase != "stable" {
            let why = "the layout changed while the nodes were copied";
            return Err(Failure::new(Exit::Conflict, why).advise("repeat it").into());
        }
        if took >= manifest.grace_ms / 2 {
            return refused(format!(
                "the copies took {}, which is too long for deletes.grace_ms of {}: what one of them shows as \
                 deleted may be forgotten by another",
                millis(took),
                millis(manifest.grace_ms)
            ));
        }
    }
    Ok(())
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

fn of_node(node: &Node, error: &Error) -> Failure {
    let mut failure = refusal::of(error);
    failure.message = format!("{}: {}", node.name, failure.message);
    failure
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

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
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
