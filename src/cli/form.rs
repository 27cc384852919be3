//! Forms a cluster: once, explicitly. A node never infers that it is new, because an empty node may
//! just as well have lost its disk.

use std::time::{Duration, Instant};

use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::handshake::Versions;
use quorate_protocol::message::{Cluster, ClusterReply, Formation, Message, Reply, Status};
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, FrameWriter, Header};

use crate::config::{Config, ConfigError, NodeConfig};
use crate::host::MachineClock;
use quorate_engine::host::Clock as _;
use quorate_engine::node::{self, RELEASE};
use reqwest::StatusCode;

/// Why a cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The HTTP client could not be built.
    #[error("the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// A node did not answer in time.
    #[error("{node} at {addr} does not answer: {reason}; start it and try again")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Its peer address.
        addr: String,
        /// The last error.
        reason: String,
    },
    /// A node answered and refused.
    #[error("{node} at {addr} refused: {reason}")]
    Refused {
        /// The node.
        node: NodeId,
        /// Its peer address.
        addr: String,
        /// The reason it gave.
        reason: String,
    },
    /// Two nodes belong to different clusters.
    #[error(
        "{0} and {1} were formed with different clusters; wipe the data directory of one of them"
    )]
    Different(NodeId, NodeId),
    /// A node did not record the formation.
    #[error("{node} did not record the formation: {reason}")]
    NotRecorded {
        /// The node.
        node: NodeId,
        /// The reason it gave.
        reason: String,
    },
}

/// The result of forming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formed {
    /// All nodes were new and recorded a new formation.
    Now,
    /// The cluster was formed before; empty nodes join it by themselves.
    Before,
}

/// Waits until every node of the layout answers, then makes each record one formation.
///
/// # Errors
/// [`FormError`] that names the node at fault.
pub async fn form(config: &Config, timeout: Duration) -> Result<Formed, FormError> {
    let layout = config.layout()?;
    let header = node::header(config, &layout, &config.secrets()?);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + timeout;
    let mut formed: Option<(NodeId, Formation)> = None;
    let ask = |member: &NodeConfig| Ask {
        client: client.clone(),
        header: Header { to: member.name, ..header.clone() },
        addr: member.peer_addr.clone(),
        versions: config.versions(),
    };
    let nodes: Vec<Ask> = config.layout_nodes().iter().map(ask).collect();
    for node in &nodes {
        let status = node.wait(deadline).await?;
        match (formed, status.formation) {
            (Some((first, known)), Some(found)) if known != found => {
                return Err(FormError::Different(first, node.header.to));
            }
            (None, Some(found)) => formed = Some((node.header.to, found)),
            (Some(_) | None, _) => {}
        }
    }
    if formed.is_some() {
        return Ok(Formed::Before);
    }
    let formation = Formation(rand::random());
    for node in &nodes {
        let reason = match node.ask(Message::Cluster(Cluster::Form { formation })).await {
            Ok(status) if status.formation == Some(formation) => continue,
            Ok(_) => "it has recorded another formation".to_owned(),
            Err(
                Unheard::Refused(reason) | Unheard::Silent(reason) | Unheard::OtherVersion(reason),
            ) => reason,
        };
        return Err(FormError::NotRecorded { node: node.header.to, reason });
    }
    Ok(Formed::Now)
}

/// One node to contact.
struct Ask {
    client: reqwest::Client,
    header: Header,
    addr: String,
    versions: Versions,
}

impl Ask {
    async fn wait(&self, deadline: Instant) -> Result<Status, FormError> {
        loop {
            let nothing = Box::new(Status {
                clock: MachineClock.now(),
                waits: false,
                formation: None,
                ready: false,
                holdings: Default::default(),
                writable: false,
                buckets_hash: 0,
                release: RELEASE.to_owned(),
                start: Default::default(),
                common: ClusterSettings::default(),
                remembers_since: Default::default(),
                attests: false,
                frame_bytes_max: 0, // this client accepts no frames
                client_addr: String::new(),
                hint_bytes: None,
            });
            match self.ask(Message::Cluster(Cluster::Hello { status: nothing })).await {
                Ok(status) => return Ok(status),
                // Not retried: the answer is from another node or another cluster, and will not
                // change.
                Err(Unheard::Refused(reason) | Unheard::OtherVersion(reason)) => {
                    let (node, addr) = (self.header.to, self.addr.clone());
                    return Err(FormError::Refused { node, addr, reason });
                }
                Err(Unheard::Silent(reason)) if Instant::now() >= deadline => {
                    let (node, addr) = (self.header.to, self.addr.clone());
                    return Err(FormError::Unreachable { node, addr, reason });
                }
                Err(Unheard::Silent(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Asks in the highest protocol version that the node takes.
    async fn ask(&self, message: Message) -> Result<Status, Unheard> {
        let mut answer = Err(Unheard::OtherVersion(String::new()));
        for protocol in (self.versions.min..=self.versions.max).rev() {
            answer = self.ask_in(protocol, &message).await;
            if !matches!(answer, Err(Unheard::OtherVersion(_))) {
                break;
            }
        }
        answer
    }

    async fn ask_in(&self, protocol: u16, message: &Message) -> Result<Status, Unheard> {
        let silent = |error: reqwest::Error| Unheard::Silent(error.to_string());
        let mut frame = FrameWriter::new(protocol, &self.header);
        frame.push(message, &[]);
        let url = format!("http://{}/peer", self.addr);
        let request = self.client.post(url).timeout(Duration::from_secs(5)).body(frame.finish());
        let response = request.send().await.map_err(silent)?;
        let status = response.status();
        let body = response.bytes().await.map_err(silent)?;
        if !status.is_success() {
            let reason = String::from_utf8_lossy(&body).into_owned();
            // A server error may be transient; a client error is not.
            return Err(match status.is_client_error() {
                true if status == StatusCode::UPGRADE_REQUIRED => Unheard::OtherVersion(reason),
                true => Unheard::Refused(reason),
                false => Unheard::Silent(reason),
            });
        }
        let refused = |reason: String| Unheard::Refused(reason);
        let (_, replies) = wire::decode::<Reply>(body, Versions::only(protocol))
            .map_err(|error| refused(error.to_string()))?;
        match replies.into_iter().next().map(|reply| reply.head) {
            Some(Reply::Cluster(ClusterReply::Status(status))) => Ok(*status),
            Some(other) => Err(refused(format!("it answered {other:?}"))),
            None => Err(refused("its answer was empty".to_owned())),
        }
    }
}

/// Why the status of a node is unknown.
enum Unheard {
    /// It refused, with this reason. Not retried.
    Refused(String),
    /// It takes no frame of this protocol version.
    OtherVersion(String),
    /// It did not answer, or failed in a way that may pass. Retried.
    Silent(String),
}
