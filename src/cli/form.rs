//! Forms a cluster: once, explicitly. A node never infers that it is new, because an empty node may
//! just as well have lost its disk.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quorate_engine::host::{Clock as _, Io, Wire as _};
use quorate_engine::node::{self, RELEASE};
use quorate_engine::peer::connection::Failure;
use quorate_engine::peer::framed::{Stream, frame_bytes_max};
use quorate_engine::peer::handshake::{Introduction, introduce};
use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::envelope::Kind;
use quorate_protocol::handshake::{NoCommonVersion, Versions};
use quorate_protocol::message::{
    Cluster, ClusterReply, Formation, Message, Refusal, Reply, Status,
};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::wire::{self, FrameWriter, Header};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Config, ConfigError, NodeConfig};
use crate::host::MachineClock;
use crate::peer_port::dial::{Dialer, DialerError};
use crate::tls::{Tls, TlsError};

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why a cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No node can be dialled.
    #[error(transparent)]
    Dialer(#[from] DialerError),
    /// The certificate, key or authorities of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    let deadline = Instant::now() + timeout;
    let mut formed: Option<(NodeId, Formation)> = None;
    let by = Asker::new(config)?;
    let nodes: Vec<Ask<'_>> = config.layout_nodes().iter().map(|node| by.of(node)).collect();
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
            Err(Unheard::Refused(reason) | Unheard::Silent(reason)) => reason,
        };
        return Err(FormError::NotRecorded { node: node.header.to, reason });
    }
    Ok(Formed::Now)
}

/// What there was at the address of a node.
pub(super) enum Heard {
    /// Nobody.
    Nothing,
    /// The node, which is part of this formation, if of any.
    Status(Option<Formation>),
    /// Somebody who is no node of this cluster, or will not say, for this reason.
    Refusal(String),
}

/// Looks once at every node of the layout, all at the same time.
///
/// # Errors
/// [`FormError`]: the configuration is wrong.
pub(super) async fn look(
    config: &Config,
    within: Duration,
) -> Result<Vec<(NodeId, Heard)>, FormError> {
    if config.layout.is_none() {
        return Ok(Vec::new());
    }
    let by = Asker::new(config)?;
    let looks = config.layout_nodes().iter().map(|member| {
        let ask = by.of(member);
        async move { (ask.header.to, ask.look(within).await) }
    });
    Ok(join_all(looks).await)
}

/// What is the same for all nodes of a layout.
struct Asker {
    dialer: Dialer,
    keys: PeerKeys,
    /// Without the node that is asked.
    header: Header,
    versions: Versions,
    frame_bytes_max: usize,
}

impl Asker {
    /// Asks as the node of this configuration.
    fn new(config: &Config) -> Result<Self, FormError> {
        let secrets = config.secrets()?;
        Ok(Self {
            dialer: Dialer::new(config, &Tls::load(config)?)?,
            keys: PeerKeys::new(&secrets),
            header: node::header(config, &config.layout()?, &secrets),
            versions: config.versions(),
            frame_bytes_max: frame_bytes_max(config),
        })
    }

    /// The node to ask.
    fn of(&self, member: &NodeConfig) -> Ask<'_> {
        let header = Header { to: member.name, ..self.header.clone() };
        Ask { by: self, header, addr: member.peer_addr.clone() }
    }
}

/// One node to contact.
struct Ask<'a> {
    by: &'a Asker,
    header: Header,
    addr: String,
}

impl Ask<'_> {
    async fn wait(&self, deadline: Instant) -> Result<Status, FormError> {
        loop {
            match self.ask(self.hello()).await {
                Ok(status) => return Ok(status),
                // Not retried: the answer is from another node or another cluster, and will not
                // change.
                Err(Unheard::Refused(reason)) => {
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

    /// A greeting of nobody: it is not judged.
    fn hello(&self) -> Message {
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
        Message::Cluster(Cluster::Hello { status: nothing })
    }

    /// Looks who is there. One that takes a connection and says nothing is somebody. The connection is tried
    /// first: of a node that begins to listen meanwhile, a dial that failed would say nothing.
    async fn look(&self, within: Duration) -> Heard {
        if !matches!(timeout(within, TcpStream::connect(&self.addr)).await, Ok(Ok(_))) {
            return Heard::Nothing;
        }
        match timeout(within, self.ask_once(&self.hello())).await {
            Ok(Ok(status)) => Heard::Status(status.formation),
            Ok(Err(Unheard::Refused(why) | Unheard::Silent(why))) => Heard::Refusal(why),
            Err(_) => Heard::Refusal("no answer in time".to_owned()),
        }
    }

    async fn ask(&self, message: Message) -> Result<Status, Unheard> {
        let silent = || Unheard::Silent("no answer in time".to_owned());
        tokio::time::timeout(ANSWER_WITHIN, self.ask_once(&message)).await.map_err(|_| silent())?
    }

    /// Opens a stream for one message.
    async fn ask_once(&self, message: &Message) -> Result<Status, Unheard> {
        let Self { by: Asker { dialer, keys, versions, frame_bytes_max, .. }, header, addr } = self;
        let io = dialer.dial(header.to, addr).await.map_err(Unheard::Silent)?;
        let mut stream = Stream::new(io, *frame_bytes_max);
        let introduction =
            Introduction { header, versions: *versions, keys, nonce: rand::random() };
        let agreed = introduce(&mut stream, &introduction).await;
        let agreed = agreed.map_err(|failure| match matches!(failure, Failure::Refused(_)) {
            true => Unheard::Refused(failure.error()),
            false => Unheard::Silent(failure.error()),
        })?;
        let Some(protocol) = agreed.chosen else {
            let none =
                NoCommonVersion { peer: header.to, theirs: agreed.versions, ours: *versions };
            return Err(Unheard::Refused(none.to_string()));
        };
        let (epoch, mut said) = exchange(&mut stream, protocol, header, message).await?;
        if said == Reply::Refused(Refusal::OtherEpoch) {
            // The cluster has changed since it was formed: a node answers in its own epoch.
            let header = Header { epoch, ..header.clone() };
            said = exchange(&mut stream, protocol, &header, message).await?.1;
        }
        if let Reply::Cluster(ClusterReply::Status(status)) = said {
            return Ok(*status);
        }
        Err(refused(format!("it answered {said:?}")))
    }
}

/// Sends one message on a stream, and returns the reply, and the epoch in which it was given.
async fn exchange(
    stream: &mut Stream<Box<dyn Io>>,
    protocol: u16,
    header: &Header,
    message: &Message,
) -> Result<(Epoch, Reply), Unheard> {
    let silent = |error: &dyn ToString| Unheard::Silent(error.to_string());
    let mut frame = FrameWriter::new(protocol, header);
    frame.push(message, &[]);
    let frame = frame.finish_for_stream(Kind::Frame);
    stream.write(&frame).await.map_err(|error| silent(&error))?;
    loop {
        let (kind, frame) = stream.read().await.map_err(|error| silent(&error))?;
        match kind {
            Kind::Refusal => return Err(refused(String::from_utf8_lossy(&frame))),
            Kind::Handshake => return Err(refused("it answered out of turn")),
            Kind::Frame | Kind::Part => {}
        }
        let (said_in, replies) = wire::decode::<Reply>(frame, Versions::only(protocol))
            .map_err(|error| refused(error.to_string()))?;
        match replies.into_iter().next() {
            Some(reply) => return Ok((said_in.epoch, reply.head)),
            None if kind == Kind::Part => {} // a sign of life
            None => return Err(refused("its answer was empty")),
        }
    }
}

fn refused(reason: impl Into<String>) -> Unheard {
    Unheard::Refused(reason.into())
}

/// Why the status of a node is unknown.
enum Unheard {
    /// It refused, with this reason. Not retried.
    Refused(String),
    /// It did not answer, or failed in a way that may pass. Retried.
    Silent(String),
}
