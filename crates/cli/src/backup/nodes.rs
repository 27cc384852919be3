//! The nodes that are backed up: which of them answer, their copies, and what those say of themselves.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_client::{Admin, Client, Error};
use serde_json::Value;

use super::manifest::NodeManifest;
use crate::app::App;
use crate::exit::{Done, Exit, Failure};
use crate::nodes::Member;
use crate::out::{bytes, count, millis};
use crate::progress::{Progress, TICK};
use crate::refusal;

/// How long a node keeps what it would hand over, at most: longer than copies are waited for.
const HOLD_MS: u64 = 120_000;
/// How long nodes may take to copy their stores.
const COPY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may be silent while its files are hashed and fetched.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that is backed up.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) admin: Admin,
    /// Whether it has a copy, of this name, that is to be deleted in the end.
    pub(crate) has_copy: Cell<bool>,
    // Keeps its connections.
    _client: Client,
}

/// A node's manifest, as it gave it and read.
pub(crate) struct Copied<'a> {
    pub(crate) node: &'a Node,
    pub(crate) text: Bytes,
    pub(crate) manifest: NodeManifest,
}

/// When the copies were made, by the clock of this machine, in milliseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) began_at: u64,
    pub(crate) ended_at: u64,
}

/// The members that answer, and those that need not and do not.
pub(crate) async fn answering(app: &App, allowed: &[String]) -> Done<(Vec<Node>, Vec<String>)> {
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

/// Has all nodes copy their stores, at the same time.
pub(crate) async fn copy_all(app: &App, nodes: &[Node], name: &str) -> Done<Window> {
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
pub(crate) async fn hashed(nodes: &[Node], name: &str) -> Done {
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

pub(crate) async fn manifests<'a>(nodes: &'a [Node], name: &str) -> Done<Vec<Copied<'a>>> {
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
pub(crate) fn check(copied: &[Copied<'_>], window: Window) -> Done {
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

fn of_node(node: &Node, error: &Error) -> Failure {
    let mut failure = refusal::of(error);
    failure.message = format!("{}: {}", node.name, failure.message);
    failure
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}
