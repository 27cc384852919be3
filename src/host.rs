//! Hosts the engine on this machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_engine::config::Config;
use quorate_engine::host::{Certificates, Chance, Clock, Files, Host};
use quorate_engine::membership::files::load_record;
use quorate_engine::membership::members_of;
use quorate_engine::node::{Node, StartError};
use quorate_protocol::time::WallTime;
use quorate_storage::DataDir;

use crate::otlp::Traces;
use crate::peer_port::dial::Dialer;
use crate::server::ServeError;
use crate::threads::MachineThreads;
use crate::tls::Tls;

/// Starts a node without TLS.
///
/// # Errors
/// [`ServeError`], which says what to do.
#[cfg(test)]
pub(crate) fn start(config: Config, traces: &Traces) -> Result<Arc<Node>, ServeError> {
    start_with(config, traces, &Tls::default())
}

/// Starts a node, whose sampled operations go to `traces`. Nothing listens yet. Needs a tokio runtime.
///
/// # Errors
/// [`ServeError`], which says what to do.
pub(crate) fn start_with(
    config: Config,
    traces: &Traces,
    tls: &Tls,
) -> Result<Arc<Node>, ServeError> {
    let certificates = (!tls.is_off()).then(|| Arc::new(tls.clone()) as Arc<dyn Certificates>);
    let host = Host {
        wire: Arc::new(Dialer::new(&config, tls)?),
        threads: Arc::new(MachineThreads::new().map_err(ServeError::Threads)?),
        clock: Arc::new(MachineClock),
        chance: Arc::new(MachineChance),
        dir: DataDir::Path(config.data_dir.clone()),
        files: Arc::new(files(&config)),
        traces: traces.sink(),
        certificates,
        gate: None,
    };
    Ok(Node::start(config, host)?)
}

/// The files in a node's data directory.
pub(crate) fn files(config: &Config) -> Directory {
    Directory(config.data_dir.clone())
}

/// How many nodes the cluster has, as far as a node knows before it starts. Blocks.
///
/// # Errors
/// [`StartError`] if the stored record cannot be read.
pub(crate) fn nodes(config: &Config) -> Result<usize, StartError> {
    let record = load_record(&files(config))?;
    Ok(record.map_or(config.layout_nodes().len(), |record| members_of(&record).len()))
}

/// The machine's clock; 0 before 1970.
pub(crate) struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        WallTime(since.as_millis() as u64)
    }
}

struct MachineChance;

impl Chance for MachineChance {
    fn draw(&self) -> u64 {
        rand::random()
    }
}

/// Files in the data directory.
pub(crate) struct Directory(PathBuf);

impl Files for Directory {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let file = self.0.join(name);
        let unfinished = file.with_extension("tmp");
        let mut out = File::create(&unfinished)?;
        out.write_all(contents)?;
        out.sync_all()?;
        fs::rename(&unfinished, &file)?;
        file.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    fn append(&self, name: &str, more: &[u8]) -> io::Result<()> {
        File::options().create(true).append(true).open(self.0.join(name))?.write_all(more)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let files = Directory(dir.path().to_owned());
        assert!(files.read("note").is_err());
        files.replace("note", b"one").unwrap();
        files.replace("note", b"two").unwrap();
        files.append("note", b" three").unwrap();
        assert_eq!(files.read("note").unwrap(), b"two three");
        fs::remove_file(dir.path().join("note")).unwrap();
        fs::create_dir(dir.path().join("note")).unwrap();
        assert!(files.replace("note", b"one").is_err(), "a disk that takes no write");
    }
}
