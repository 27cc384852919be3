//! `quorate restore`: what the node's own code has to do with it. Nothing here asks the node that is
//! restored, which is stopped; those that would be its peers are asked whether there is a cluster already.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_cli::{Chosen, Restore};
use quorate_engine::backup::manifest::Manifest;
use quorate_engine::host::Clock as _;
use quorate_engine::node::restore::{RESTORING_FILE, RestoreError, Source};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use quorate_storage::DataDir;

use super::form;
use crate::config::{self, Config};
use crate::host::{self, MachineClock};

/// How long one that would be a peer is waited for.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// The name of the node of a configuration.
///
/// # Errors
/// What is wrong with the configuration.
pub fn name(path: &Path) -> Result<String, String> {
    Ok(load(path)?.node.to_string())
}

fn load(path: &Path) -> Result<Config, String> {
    config::load(path).map_err(|error| error.to_string())
}

/// Checks that a copy may be restored, and marks the data directory, so that no node starts with a part of
/// it. Returns the directory for the files of the store.
///
/// # Errors
/// Why not, and what to do.
pub fn begin(asked: &Restore, chosen: &Chosen) -> Result<PathBuf, String> {
    let config = load(&asked.config)?;
    let source = check(asked, chosen, &config).map_err(|error| error.to_string())?;
    let dir = &config.data_dir;
    check_empty(dir)?;
    ask_peers(asked, &config, &source)?;
    let database = dir.join("rocksdb");
    let made = || {
        if let Err(error) = fs::create_dir(dir)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        File::create_new(dir.join(RESTORING_FILE))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        if chosen.has_copy {
            fs::create_dir(&database)?;
        }
        Ok(())
    };
    made().map_err(|error| format!("data_dir {}: {error}", dir.display()))?;
    Ok(database)
}

/// What is restored, if the configuration fits.
fn check(asked: &Restore, chosen: &Chosen, config: &Config) -> Result<Source, RestoreError> {
    let cluster = &chosen.cluster;
    let id = u128::from_str_radix(&cluster.id, 16).unwrap_or_default();
    let began_at = WallTime(cluster.began_at);
    let manifest = Manifest::parse(&chosen.node)?;
    let source = Source::of(&manifest, id, began_at)?;
    match asked.as_seed {
        true => source.check_seed(config, manifest.node)?,
        false => {
            source.first_record(config)?;
            if chosen.has_copy {
                source.check_node(config, manifest.node)?;
            }
        }
    }
    Ok(source)
}

/// A data directory with anything in it is somebody's.
fn check_empty(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("data_dir {shown}: {error}")),
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "lost+found").collect();
    names.sort();
    match &names[..] {
        [] => Ok(()),
        names if names.iter().any(|name| name == RESTORING_FILE) => Err(format!(
            "data_dir {shown}: an earlier restore was interrupted, or is under way: empty the directory"
        )),
        [first, ..] => Err(format!(
            "data_dir {shown} is not empty ({first}): a restore never touches data that is there; move it \
             away, or give the node another data_dir"
        )),
    }
}

/// Asks those that would be its peers. As a seed, it must not run itself; as a node of a new cluster, none of
/// them may be of another cluster: at their addresses, or under its id.
fn ask_peers(asked: &Restore, config: &Config, source: &Source) -> Result<(), String> {
    let (config, formation, is_new) = (config.clone(), source.formation(config), asked.new_cluster);
    // On a thread of its own, as this one is in a runtime already.
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(form::look(&config, ASK_WITHIN)).map_err(|error| error.to_string())
    });
    let heard = asking.join().map_err(|_| "asking the other nodes failed".to_owned())??;
    for (node, heard) in heard {
        match heard {
            form::Heard::Nothing => {}
            form::Heard::Status(Some(theirs)) if is_new && theirs == formation => {}
            form::Heard::Status(_) if !is_new && node.to_string() != own_name(asked)? => {}
            form::Heard::Status(formed) => return Err(living(node, formed.is_some(), is_new)),
            form::Heard::Refusal(why) if is_new || node.to_string() == own_name(asked)? => {
                return Err(format!(
                    "at the address of {node} there is a node already, of another cluster or with other keys \
                     ({why}): stop it, or give the new cluster other addresses"
                ));
            }
            form::Heard::Refusal(_) => {}
        }
    }
    Ok(())
}

fn own_name(asked: &Restore) -> Result<String, String> {
    name(&asked.config)
}

fn living(node: NodeId, is_formed: bool, is_new: bool) -> String {
    match (is_new, is_formed) {
        (false, _) => format!(
            "{node} runs: a copy of a node that lives is no use; stop it, if it is to be replaced"
        ),
        (true, true) => format!(
            "{node} answers, as a node of a cluster of this id that was not restored from this backup: a \
             backup is never restored into a cluster that lives. Stop it, or take another cluster_id"
        ),
        (true, false) => format!(
            "{node} answers, and is of no cluster yet: stop all nodes, and restore each before it is started"
        ),
    }
}

/// Makes a node's store of the files that are there. Returns what there is to say.
///
/// # Errors
/// What went wrong; the data directory is to be emptied.
pub fn finish(asked: &Restore, chosen: &Chosen) -> Result<String, String> {
    let config = load(&asked.config)?;
    let told = finished(asked, chosen, &config).map_err(|error| error.to_string())?;
    unmark(&config).map_err(|error| format!("data_dir {}: {error}", config.data_dir.display()))?;
    Ok(told)
}

fn finished(asked: &Restore, chosen: &Chosen, config: &Config) -> Result<String, RestoreError> {
    let source = check(asked, chosen, config)?;
    let (files, dir) = (host::files(config), DataDir::Path(config.data_dir.clone()));
    let (node, name) = (config.node, &chosen.cluster.name);
    if asked.as_seed {
        source.seed(config, (&files, &dir))?;
        return Ok(format!(
            "restored {node} from the backup {name}, as a seed: start it; it fills from its peers before it \
             answers (quorate status)"
        ));
    }
    let record = source.found(config, (&files, &dir), (chosen.has_copy, MachineClock.now()))?;
    Ok(format!(
        "restored {node} from the backup {name} for the new cluster {}: record {} of epoch {}. Do the same \
         with --backup {name} on every other node, then start all of them; they come to the same record",
        config.cluster_id,
        record.hash(),
        record.epoch(),
    ))
}

fn unmark(config: &Config) -> io::Result<()> {
    fs::remove_file(config.data_dir.join(RESTORING_FILE))?;
    File::open(&config.data_dir)?.sync_all()
}

/// Removes what was begun: what is in the data directory, its mark last.
///
/// # Errors
/// The system's.
pub fn give_up(asked: &Restore) -> Result<(), String> {
    let dir = load(&asked.config)?.data_dir;
    let removed = || {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            match path.is_dir() {
                _ if name == RESTORING_FILE || name == "lost+found" => {}
                true => fs::remove_dir_all(&path)?,
                false => fs::remove_file(&path)?,
            }
        }
        fs::remove_file(dir.join(RESTORING_FILE))
    };
    removed().map_err(|error| format!("{}: {error}", dir.display()))
}
