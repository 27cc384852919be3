//! What is done with backups that are there: listed, verified, deleted.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::catalog::{Catalog, FILES, Known, Stored};
use super::lock::Lock;
use super::make::date;
use super::manifest::check_name;
use crate::app::App;
use crate::exit::{Done, Exit, Failure};
use crate::out::{bytes, count, note};
use crate::progress::Progress;
use crate::table::{Table, cell};

/// How many files are deleted at a time.
const AT_ONCE: usize = 16;

/// `quorate backup list`.
pub(crate) async fn list(app: &App, catalog: &Catalog) -> Done<Exit> {
    let all = catalog.all().await?;
    if app.out.json {
        let shown: Vec<Value> = all.iter().map(|(name, known)| shown(name, known)).collect();
        app.out.json(&json!({"place": catalog.place.shown, "backups": shown}))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["backup", "cluster", "everything before", "nodes", "bytes", ""]);
    for (name, known) in &all {
        let row = match known {
            Known::Whole(it) => {
                let size = it.nodes.iter().map(|node| node.bytes).sum();
                let missing = match it.missing.is_empty() {
                    true => String::new(),
                    false => format!("without {}", it.missing.join(", ")),
                };
                let nodes = it.nodes.len().to_string();
                [it.cluster_id.clone(), date(it.began_at), nodes, bytes(size), missing]
            }
            Known::Unfinished => none("never finished: delete it"),
            Known::Unreadable(why) => none(why),
        };
        let row =
            [name.clone()].into_iter().chain(row).map(|text| cell(crate::out::short(&text, 80)));
        table.row(row.collect::<Vec<_>>());
    }
    app.out.table(&table)?;
    Ok(Exit::Ok)
}

fn none(why: &str) -> [String; 5] {
    let nothing = String::new;
    [nothing(), nothing(), nothing(), nothing(), why.to_owned()]
}

fn shown(name: &str, known: &Known) -> Value {
    match known {
        Known::Whole(manifest) => json!({"name": name, "state": "whole", "manifest": manifest}),
        Known::Unfinished => json!({"name": name, "state": "unfinished"}),
        Known::Unreadable(why) => json!({"name": name, "state": "unreadable", "reason": why}),
    }
}

/// `quorate backup verify`.
pub(crate) async fn verify(app: &App, catalog: &Catalog, name: Option<&str>) -> Done<Exit> {
    let manifest = catalog.find(name).await?;
    let (mut files, mut wrong) = (BTreeMap::new(), Vec::new());
    for node in &manifest.nodes {
        let (_, of) = catalog.node(&manifest, &node.node).await?;
        for file in of.files {
            files.entry(file.blake3.clone()).or_insert((node.node.clone(), file));
        }
    }
    let all = files.values().map(|(_, file)| file.bytes).sum();
    let (mut progress, mut done) = (Progress::start("verifying", Some(all)), 0);
    for (node, file) in files.values() {
        let read = |part: &[u8]| {
            done += part.len() as u64;
            progress.show(done, &bytes(done));
            Ok(())
        };
        match catalog.read_file(file, read).await? {
            Stored::Whole => {}
            Stored::Missing => wrong.push(format!("{} of {node}: it is missing", file.name)),
            Stored::Damaged => {
                wrong.push(format!("{} of {node}: its contents are not what was stored", file.name))
            }
        }
    }
    progress.finish();
    let name = &manifest.name;
    if app.out.json {
        let shown = json!({"name": name, "files": files.len(), "bytes": all, "damaged": wrong});
        app.out.json(&shown)?;
    } else if wrong.is_empty() {
        let files = count(files.len() as u64, "file");
        app.out.line(&format!("backup {name} is whole: {files}, {}", bytes(all)))?;
    } else {
        app.out.line(&format!("backup {name} is damaged:\n  {}", wrong.join("\n  ")))?;
    }
    Ok(if wrong.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// `quorate backup delete`.
pub(crate) async fn delete(
    app: &App,
    catalog: &Catalog,
    name: &str,
    break_lock: bool,
) -> Done<Exit> {
    check_name(name)?;
    let lock = Lock::take(catalog, &format!("delete {name}"), break_lock).await?;
    let deleted = async {
        if !catalog.names().await?.iter().any(|it| it == name) {
            let message = format!("{}: there is no backup {name}", catalog.place.shown);
            return Err(Failure::new(Exit::NotFound, message).into());
        }
        catalog.remove_backup(name).await?;
        sweep(app, catalog, &lock, &[name.to_owned()]).await
    };
    let deleted = super::interruptible(deleted).await;
    lock.release().await;
    deleted.map(|()| Exit::Ok)
}

/// `quorate backup prune`.
pub(crate) async fn prune(
    app: &App,
    catalog: &Catalog,
    keep: usize,
    break_lock: bool,
) -> Done<Exit> {
    let lock = Lock::take(catalog, "prune", break_lock).await?;
    let pruned = super::interruptible(prune_locked(app, catalog, &lock, keep)).await;
    lock.release().await;
    pruned.map(|()| Exit::Ok)
}

/// Deletes all but the newest whole backups, by whoever has the lock.
pub(crate) async fn prune_locked(
    app: &App,
    catalog: &Catalog,
    lock: &Lock<'_>,
    keep: usize,
) -> Done {
    let all = catalog.all().await?;
    let unreadable = all.iter().find_map(|(_, known)| match known {
        Known::Unreadable(why) => Some(why),
        Known::Whole(_) | Known::Unfinished => None,
    });
    if let Some(why) = unreadable {
        let message = format!("{why}: nothing is deleted, as it may be of a newer release");
        return Err(Failure::new(Exit::Failed, message).into());
    }
    // Nobody makes one while the lock is held: what is not whole was interrupted.
    let is_whole = |known: &Known| matches!(known, Known::Whole(_));
    let whole: Vec<&String> =
        all.iter().filter(|(_, known)| is_whole(known)).map(|(name, _)| name).collect();
    let kept: BTreeSet<&String> = whole.iter().rev().take(keep).copied().collect();
    let going: Vec<String> =
        all.iter().map(|(name, _)| name.clone()).filter(|name| !kept.contains(name)).collect();
    lock.check().await?;
    for name in &going {
        catalog.remove_backup(name).await?;
    }
    sweep(app, catalog, lock, &going).await
}

/// Deletes the files that no backup needs.
async fn sweep(app: &App, catalog: &Catalog, lock: &Lock<'_>, deleted: &[String]) -> Done {
    let mut needed = BTreeSet::new();
    for name in catalog.names().await? {
        needed.extend(catalog.needed(&name).await?.into_iter().map(|file| file.blake3));
    }
    let mut going = catalog.files().await?;
    going.retain(|hash, _| !needed.contains(hash));
    lock.check().await?;
    let removals = going.keys().map(async |hash| catalog.remove(&[FILES, hash]).await);
    let mut removals = stream::iter(removals).buffer_unordered(AT_ONCE);
    while let Some(removed) = removals.next().await {
        removed?;
    }
    drop(removals);
    let (files, freed) = (going.len() as u64, going.values().sum());
    let text = format!(
        "deleted {}{}; {} in {} given back",
        count(deleted.len() as u64, "backup"),
        if deleted.is_empty() { String::new() } else { format!(" ({})", deleted.join(", ")) },
        bytes(freed),
        count(files, "file"),
    );
    if app.out.json {
        note(&text); // the answer is that of the command
        return Ok(());
    }
    app.out.line(&text)
}
