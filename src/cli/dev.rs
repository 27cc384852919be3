//! `quorate dev`: a whole cluster in one process, for trying it out.
//!
//! The nodes are those that `serve` runs, on ports and directories of their own; only the process is
//! shared. Nothing has to be configured, and the cluster forms itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_protocol::name::NodeId;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cli::ca::{self, Ca, Issue};
use crate::cli::form::{self, FormError};
use crate::config::{self, Config, ConfigError, TlsMode, new_key};
use crate::server::{self, Ended, ServeError, StopRequests};
use crate::tls::own_client;
use crate::tls::private_file::{SECRET, create};

/// The most nodes: each has caches and threads of its own.
pub const NODES_MAX: u16 = 9;
/// The client port of the first node, if nothing else is asked for.
pub const PORT: u16 = 7401;
/// Peer ports are this far above client ports.
const PEER_PORTS_ABOVE: u16 = 100;
/// Where certificates are, below the directory.
const CA_DIR: &str = "tls";
/// How long the cluster may take to form and become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Clone, Debug)]
pub struct Dev {
    /// How many nodes, 1 to [`NODES_MAX`].
    pub nodes: u16,
    /// The client port of the first node; the others follow. That of the cluster in the directory, or
    /// [`PORT`], if none.
    pub port: Option<u16>,
    /// Where the data is kept. A temporary directory, deleted at the end, if none.
    pub data: Option<PathBuf>,
    /// Whether all ports speak TLS alone.
    pub tls: bool,
}

/// Why the cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The ports do not fit.
    #[error("--port must be from 1 to {max} for {nodes} nodes, not {port}")]
    Port {
        /// The greatest that fits.
        max: u16,
        /// How many nodes.
        nodes: u16,
        /// What was asked.
        port: u16,
    },
    /// The directory holds a cluster of another shape.
    #[error("{dir} holds a cluster of {found} nodes: use --nodes {found}, or another directory")]
    OtherNodes {
        /// The directory.
        dir: PathBuf,
        /// How many nodes it holds.
        found: usize,
    },
    /// The directory holds a cluster on other ports.
    #[error("{dir} holds a cluster on port {found}: use --port {found}, or another directory")]
    OtherPort {
        /// The directory.
        dir: PathBuf,
        /// The client port of its first node.
        found: u16,
    },
    /// The directory holds a cluster with TLS, or without.
    #[error("{dir} holds a cluster {}: start it likewise, or use another directory", with_or_without(.with))]
    OtherTls {
        /// The directory.
        dir: PathBuf,
        /// Whether it has TLS.
        with: bool,
    },
    /// No certificates can be made.
    #[error("certificates: {0}")]
    Certificates(String),
    /// A file or directory cannot be written.
    #[error("{path}: {source}")]
    Files {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration in the directory is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node did not start, or failed.
    #[error("{node}: {source}")]
    Node {
        /// Its name.
        node: String,
        /// Why.
        source: ServeError,
    },
    /// A node ended because another process runs under its name.
    #[error("{0}: another process runs on a copy of its data directory")]
    Twin(String),
    /// The cluster did not form.
    #[error(transparent)]
    Form(#[from] FormError),
    /// There is no HTTP client of the nodes.
    #[error("the HTTP client: {0}")]
    Client(String),
    /// It formed, and did not become ready.
    #[error("the nodes did not become ready within {} s", READY_WITHIN.as_secs())]
    NotReady,
}

/// Runs the cluster until `requests` asks it to stop. Says on `out` how to use it once it is ready.
///
/// # Errors
/// [`DevError`] that says what to do; all nodes have stopped then.
pub async fn run(
    dev: &Dev,
    dir: &Path,
    requests: &StopRequests,
    out: &mut (dyn Write + Send),
) -> Result<(), DevError> {
    let configs = configure(dev, dir)?;
    let mut nodes = JoinSet::new();
    for config in &configs {
        nodes.spawn(keep_running(config.clone(), requests.clone()));
    }
    let ready = async {
        form::form(&configs[0], READY_WITHIN).await?;
        wait_until_ready(&configs).await
    };
    let mut failed = tokio::select! {
        ready = ready => ready.err(),
        ended = nodes.join_next() => ended.and_then(result_of),
        () = requests.stop.cancelled() => None,
    };
    if failed.is_none() && !requests.stop.is_cancelled() {
        tell(dev, dir, &configs, out);
        failed = nodes.join_next().await.and_then(result_of);
    }
    requests.stop.cancel();
    while let Some(ended) = nodes.join_next().await {
        failed = failed.or_else(|| result_of(ended));
    }
    failed.map_or(Ok(()), Err)
}

fn result_of(ended: Result<Result<(), DevError>, tokio::task::JoinError>) -> Option<DevError> {
    match ended {
        Ok(result) => result.err(),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Runs one node, and starts it again when it has to start over.
async fn keep_running(config: Config, requests: StopRequests) -> Result<(), DevError> {
    let node = config.node.to_string();
    loop {
        match server::run(config.clone(), requests.clone()).await {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::StartOver) => {}
            Ok(Ended::BesideTwin) => return Err(DevError::Twin(node)),
            Err(source) => return Err(DevError::Node { node, source }),
        }
    }
}

/// The configurations of all nodes: those in the directory, or new ones.
fn configure(dev: &Dev, dir: &Path) -> Result<Vec<Config>, DevError> {
    let file = |number: u16| dir.join(format!("n{number}")).join("node.toml");
    let found = (1..=NODES_MAX).take_while(|number| file(*number).exists()).count();
    if found == 0 {
        write_files(dev, dir)?;
    } else if found != usize::from(dev.nodes) {
        return Err(DevError::OtherNodes { dir: dir.to_owned(), found });
    }
    let load = |number| config::load_with(&file(number), []);
    let configs = (1..=dev.nodes).map(load).collect::<Result<Vec<_>, _>>()?;
    let found = configs[0].client_addr.port(); // there is one: `dev.nodes` is not 0
    if dev.port.is_some_and(|port| port != found) {
        return Err(DevError::OtherPort { dir: dir.to_owned(), found });
    }
    let with = configs.iter().any(|config| config.client_tls.mode != TlsMode::Off);
    if with != dev.tls {
        return Err(DevError::OtherTls { dir: dir.to_owned(), with });
    }
    Ok(configs)
}

fn with_or_without(tls: &bool) -> &'static str {
    if *tls { "with --tls" } else { "without --tls" }
}

/// Makes an authority and the certificates of all nodes.
fn make_certificates(dev: &Dev, dir: &Path) -> Result<(), String> {
    ca::run(&Ca::Init { dir: dir.join(CA_DIR), days: 3650 }, true)?;
    for number in 1..=dev.nodes {
        let node = NodeId::parse(&format!("n{number}")).map_err(|error| error.to_string())?;
        let hosts = ["127.0.0.1", "::1", "localhost"];
        ca::run(&Ca::Issue(Issue::of_node(node, &hosts, &dir.join(CA_DIR), 365)), true)?;
    }
    Ok(())
}

/// The settings of a node with TLS on all ports.
fn tls_settings(dir: &Path, number: u16) -> String {
    let ca = dir.join(CA_DIR);
    let path = |file: String| ca.join(file).display().to_string();
    let (cert, key) = (path(format!("n{number}.pem")), path(format!("n{number}.key")));
    let of = |table: &str, more: String| {
        format!("[{table}]\nmode = \"require\"\ncert = {cert:?}\nkey = {key:?}\n{more}")
    };
    let authority = path("ca.pem".to_owned());
    of("client_tls", String::new()) + &of("peer_tls", format!("ca = [{authority:?}]\n"))
}

fn write_files(dev: &Dev, dir: &Path) -> Result<(), DevError> {
    let (first, max) = (dev.port.unwrap_or(PORT), u16::MAX - PEER_PORTS_ABOVE - dev.nodes);
    if !(1..=max).contains(&first) {
        return Err(DevError::Port { max, nodes: dev.nodes, port: first });
    }
    if dev.tls {
        make_certificates(dev, dir).map_err(DevError::Certificates)?;
    }
    let key = new_key();
    let peer_port = |number: u16| first + PEER_PORTS_ABOVE + number - 1;
    let mut layout = String::from("[layout]\nversion = 1\npartitions = 64\n");
    for number in 1..=dev.nodes {
        let port = peer_port(number);
        layout += &format!(
            "[[layout.nodes]]\nname = \"n{number}\"\npeer_addr = \"127.0.0.1:{port}\"\n\
             zone = \"n{number}\"\n"
        );
    }
    for number in 1..=dev.nodes {
        // Small caches, and of the disk only a small reserve, which is as large as what must stay free.
        let home = dir.join(format!("n{number}"));
        let files = |path: &Path, source| DevError::Files { path: path.to_owned(), source };
        std::fs::create_dir_all(&home).map_err(|source| files(&home, source))?;
        let text = format!(
            "# Written by `quorate dev`.\ncluster_id = \"dev\"\ncluster_keys = [{key:?}]\n\
             node = \"n{number}\"\ndata_dir = {data:?}\nclient_addr = \"127.0.0.1:{client}\"\n\
             peer_addr = \"127.0.0.1:{peer}\"\ndurability = \"buffered\"\n\
             [storage]\nblock_cache_bytes = 33554432\nrow_cache_bytes = 16777216\n\
             memtable_bytes = 16777216\ndisk_free_bytes_min = 33554432\n{tls}{layout}",
            tls = if dev.tls { tls_settings(dir, number) } else { String::new() },
            data = home.join("data").display().to_string(),
            client = first + number - 1,
            peer = peer_port(number),
        );
        let path = home.join("node.toml");
        drop(std::fs::remove_file(&path)); // of an earlier start that did not get far
        create(&path, SECRET, text.as_bytes()).map_err(|source| files(&path, source))?;
    }
    Ok(())
}

/// Waits until every node takes requests.
async fn wait_until_ready(configs: &[Config]) -> Result<(), DevError> {
    let deadline = Instant::now() + READY_WITHIN;
    for config in configs {
        let (client, scheme) = own_client::of_client_port(config).map_err(DevError::Client)?;
        let client = client.build().map_err(|error| DevError::Client(error.to_string()))?;
        let url = format!("{scheme}://{}/readyz", config.client_addr);
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if Instant::now() > deadline {
                return Err(DevError::NotReady);
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Says where the nodes are and what to try.
fn tell(dev: &Dev, dir: &Path, configs: &[Config], out: &mut dyn Write) {
    let scheme = if dev.tls { "https" } else { "http" };
    let url = |at: usize| format!("{scheme}://{}", configs[at % configs.len()].client_addr);
    let ca = dir.join(CA_DIR).join("ca.pem").display().to_string();
    let (curl, ca) = match dev.tls {
        true => (format!("curl --cacert {ca}"), format!(" --ca {ca}")),
        false => ("curl".to_owned(), String::new()),
    };
    let kept = match dev.data {
        Some(_) => "kept",
        None => "deleted at the end",
    };
    let nodes: Vec<String> = (0..configs.len()).map(url).collect();
    let text = format!(
        "{} {} up: {}\nData in {} ({kept}). Ctrl-C stops.\n\nTry:\n  \
         {curl} -X PUT {}/kv/carts/alice -d '2 apples'\n  \
         {curl} {}/kv/carts/alice\n  \
         quorate status --url {}{ca}\n\nConsole: {}/\n",
        configs.len(),
        if configs.len() == 1 { "node is" } else { "nodes are" },
        nodes.join(" "),
        dir.display(),
        url(0),
        url(1),
        url(0),
        url(0),
    );
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush())); // a closed pipe is no error
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn dev(nodes: u16, port: u16) -> Dev {
        Dev { nodes, port: Some(port), data: None, tls: false }
    }

    #[test]
    fn configurations_are_written_once_and_fit_together() {
        let dir = tempfile::tempdir().unwrap();
        let configs = configure(&dev(3, 7401), dir.path()).unwrap();
        assert_eq!(configs.len(), 3);
        assert_eq!(configs[1].client_addr.port(), 7402);
        assert_eq!(configs[2].storage.disk_free_bytes_min, 32 << 20);
        let layout = |at: usize| format!("{:?}", configs[at].layout().unwrap());
        assert_eq!(layout(2), layout(0));
        let again = configure(&dev(3, 7401), dir.path()).unwrap();
        assert_eq!(again[0].cluster_keys, configs[0].cluster_keys);
        let other = configure(&dev(4, 7401), dir.path()).unwrap_err();
        assert!(other.to_string().contains("--nodes 3"), "{other}");
        let other = configure(&dev(3, 7501), dir.path()).unwrap_err();
        assert!(other.to_string().contains("--port 7401"), "{other}");
        let any = Dev { port: None, ..dev(3, 0) };
        assert!(configure(&any, dir.path()).is_ok(), "the ports are known");
    }

    #[test]
    fn ports_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for port in [0, 65_500, u16::MAX] {
            let error = configure(&dev(3, port), dir.path()).unwrap_err();
            assert!(error.to_string().contains("65432"), "{error}");
        }
        assert!(configure(&dev(3, 65_432), dir.path()).is_ok());
    }
}
