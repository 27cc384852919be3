//! `quorate restore`: brings the copy of a node back into its data directory. The node's own code says
//! whether that may be, and makes it a node's again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::catalog::{Catalog, Stored};
use super::manifest::{ClusterManifest, NodeFile, NodeManifest};
use super::place::Place;
use crate::exit::{Done, Exit, Failure};
use crate::out::{Out, bytes, count};
use crate::progress::Progress;

/// What is wanted: `quorate restore`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples, with all nodes of the new cluster stopped, on each of them:
  quorate restore --from /backups/prod --config n1.toml --new-cluster
One node that has lost its disk, in the cluster that goes on:
  quorate restore --from /backups/prod --config n3.toml --as-seed

--new-cluster: the configurations have a cluster_id of their own, and the [layout] of the backup: the same
names, zones, weights and partitions, at addresses of any kind. All nodes are restored from the same backup,
then started; `quorate form` is not needed. A node that is not in the backup begins empty and fills.
--as-seed: the node goes on in its cluster. Its rows save traffic; it fills all the same, and rows that are
older than deletes.grace_ms are set aside until the cluster is known to hold them (quorate distrusted).

The data directory must be empty. Without --backup it is the newest one: give it, to be sure that all nodes
are restored from the same.")]
pub struct Restore {
    /// Where the backup is: a directory, file:///DIR, or s3://BUCKET/PREFIX (quorate backup --help)
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Which backup [default: the newest]
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Whose copy; it must be that of the configuration
    #[arg(long)]
    node: Option<String>,
    /// The configuration of the node
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Go on in the same cluster, which lives
    #[arg(long, conflicts_with = "new_cluster", required_unless_present = "new_cluster")]
    pub as_seed: bool,
    /// Become a node of a new cluster
    #[arg(long)]
    pub new_cluster: bool,
}

/// A copy that was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The manifest of the cluster.
    pub cluster: ClusterManifest,
    /// That of the node, as its node wrote it; of another one if the node is not in the backup.
    pub node: Bytes,
    /// Whether the node is in the backup. If not, it begins empty.
    pub has_copy: bool,
}

/// What the node's own code does for a restore.
#[derive(Clone, Copy)]
pub struct RestoreCode<'a> {
    /// The name of the node of a configuration.
    pub name: &'a dyn Fn(&Path) -> Result<String, String>,
    /// Checks that a copy may be restored, and prepares the data directory. Returns the directory for the
    /// files of the store.
    pub begin: &'a dyn Fn(&Restore, &Chosen) -> Result<PathBuf, String>,
    /// Makes a node's store of the files that are there. Returns what there is to say.
    pub finish: &'a dyn Fn(&Restore, &Chosen) -> Result<String, String>,
    /// Removes what was begun.
    pub give_up: &'a dyn Fn(&Restore) -> Result<(), String>,
}

/// Runs the command.
pub(crate) async fn run(args: &Restore, code: RestoreCode<'_>) -> Done<Exit> {
    let out = Out::new(false);
    let refused = |why: String| Failure::new(Exit::Failed, why);
    let own = (code.name)(&args.config).map_err(refused)?;
    if let Some(other) = args.node.as_ref().filter(|other| **other != own) {
        let message =
            format!("--node {other}: the configuration is of {own}, which restores its own copy");
        return Err(Failure::usage(message).into());
    }
    let place = Place::parse(&args.from, false)?;
    let catalog = Catalog::new(place);
    let cluster = catalog.find(args.backup.as_deref()).await?;
    let has_copy = !cluster.missing.contains(&own) || args.as_seed;
    let first = cluster.nodes.first().map_or("", |entry| entry.node.as_str());
    let (text, manifest) = catalog.node(&cluster, if has_copy { &own } else { first }).await?;
    let chosen = Chosen { cluster, node: text, has_copy };
    let dir = (code.begin)(args, &chosen).map_err(refused)?;
    let restored = async {
        if has_copy {
            fetch(&catalog, &manifest, &dir).await?;
        }
        Ok((code.finish)(args, &chosen).map_err(refused)?)
    };
    match super::interruptible(restored).await {
        Ok(told) => out.line(&told).map(|()| Exit::Ok),
        Err(stop) => {
            if let Err(why) = (code.give_up)(args) {
                crate::out::note(&format!("note: what was begun is left there: {why}"));
            }
            Err(stop)
        }
    }
}

/// Fetches the files of a node, each of them as its manifest says.
async fn fetch(catalog: &Catalog, manifest: &NodeManifest, dir: &Path) -> Done {
    let all = manifest.bytes();
    let (mut progress, mut done) = (Progress::start("restoring", Some(all)), 0);
    for file in &manifest.files {
        let mut came = |more: u64| {
            done += more;
            progress.show(done, &bytes(done));
        };
        fetch_file(catalog, file, dir, &mut came).await?;
    }
    progress.finish();
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| here(dir, &error))?;
    crate::out::note(&format!("{}, {}", count(manifest.files.len() as u64, "file"), bytes(all)));
    Ok(())
}

async fn fetch_file(
    catalog: &Catalog,
    file: &NodeFile,
    dir: &Path,
    came: &mut dyn FnMut(u64),
) -> Done {
    let damaged = |why: &str| {
        let message = format!("half a copy: {} {why}", file.name);
        Failure::new(Exit::Failed, message).advise("quorate backup verify shows what else is wrong")
    };
    let path = dir.join(&file.name);
    let here = |error: std::io::Error| here(&path, &error);
    let mut to = File::create_new(&path).map_err(here)?;
    let write = |part: &[u8]| {
        came(part.len() as u64);
        Ok(to.write_all(part).map_err(here)?)
    };
    let stored = catalog.read_file(file, write).await?;
    to.sync_all().map_err(here)?;
    let why = match stored {
        Stored::Whole => return Ok(()),
        Stored::Missing => "is missing in the backup",
        Stored::Damaged => "is damaged in the backup",
    };
    drop(fs::remove_file(&path));
    Err(damaged(why).into())
}

fn here(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}
