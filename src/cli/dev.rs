//! `quorate dev`: a whole cluster in one process, for trying it out.
//!
//! The nodes are those that `serve` runs, on ports and directories of their own; only the process is
//! shared. Nothing has to be configured, and the cluster forms itself.

mod files;
mod token;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cli::form::{self, FormError};
use crate::config::{self, AuthMode, Config, ConfigError, TlsMode};
use crate::server::{self, Ended, ServeError, StopRequests};
use crate::tls::own_client;

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
    /// Whether requests need a token. One that may do everything is made and shown.
    pub auth: bool,
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
    /// The directory holds a cluster with TLS or tokens, or without.
    #[error("{dir} holds a cluster {with}: start it likewise, or use another directory")]
    Otherwise {
        /// The directory.
        dir: PathBuf,
        /// `with` or `without`, and the option.
        with: String,
    },
    /// No token can be made.
    #[error("the token: {0}")]
    Token(String),
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
        wait_until_ready(&configs).await?;
        match dev.auth {
            true => token::make(dir, &configs[0], READY_WITHIN).await.map(Some),
            false => Ok(None),
        }
    };
    let ready = tokio::select! {
        ready = ready => ready,
        ended = nodes.join_next() => ended.and_then(result_of).map_or(Ok(None), Err),
        () = requests.stop.cancelled() => Ok(None),
    };
    let (token, mut failed) = match ready {
        Ok(token) => (token, None),
        Err(error) => (None, Some(error)),
    };
    if failed.is_none() && !requests.stop.is_cancelled() {
        tell(dev, dir, &configs, token.as_deref(), out);
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
        files::write(dev, dir)?;
    } else if found != usize::from(dev.nodes) {
        return Err(DevError::OtherNodes { dir: dir.to_owned(), found });
    }
    let load = |number| config::load_with(&file(number), []);
    let configs = (1..=dev.nodes).map(load).collect::<Result<Vec<_>, _>>()?;
    let found = configs[0].client_addr.port(); // there is one: `dev.nodes` is not 0
    if dev.port.is_some_and(|port| port != found) {
        return Err(DevError::OtherPort { dir: dir.to_owned(), found });
    }
    let has_tls = configs.iter().any(|config| config.client_tls.mode != TlsMode::Off);
    let has_auth = configs.iter().any(|config| config.auth.mode == AuthMode::On);
    for (found, wanted, option) in [(has_tls, dev.tls, "--tls"), (has_auth, dev.auth, "--auth")] {
        if found != wanted {
            let with = format!("{} {option}", if found { "with" } else { "without" });
            return Err(DevError::Otherwise { dir: dir.to_owned(), with });
        }
    }
    Ok(configs)
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
fn tell(dev: &Dev, dir: &Path, configs: &[Config], token: Option<&str>, out: &mut dyn Write) {
    let scheme = if dev.tls { "https" } else { "http" };
    let url = |at: usize| format!("{scheme}://{}", configs[at % configs.len()].client_addr);
    let ca = dir.join(CA_DIR).join("ca.pem").display().to_string();
    let (curl, ca) = match dev.tls {
        true => (format!("curl --cacert {ca}"), format!(" --ca {ca}")),
        false => ("curl".to_owned(), String::new()),
    };
    // The variable is what the command line and the clients look for.
    let (export, curl) = match token {
        Some(token) => {
            let header = "-H \"Authorization: Bearer $QUORATE_TOKEN\"";
            (format!("export QUORATE_TOKEN={token}\n  "), format!("{curl} {header}"))
        }
        None => (String::new(), curl),
    };
    let kept = match dev.data {
        Some(_) => "kept",
        None => "deleted at the end",
    };
    let nodes: Vec<String> = (0..configs.len()).map(url).collect();
    let text = format!(
        "{} {} up: {}\nData in {} ({kept}). Ctrl-C stops.\n\nTry:\n  \
         {export}{curl} -X PUT {}/kv/carts/alice -d '2 apples'\n  \
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
mod tests;
