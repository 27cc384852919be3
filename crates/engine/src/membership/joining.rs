//! A node asks this one, a member, to be added to the cluster: whether it may wait, or has been added.
//!
//! A node that joins is in no record yet, so that it cannot send frames. It proves the cluster's key in a way
//! of its own ([`super::join_proof`]).

use std::sync::Arc;

use quorate_protocol::layout::{WEIGHT_MAX, ZONE_BYTES_MAX};
use quorate_protocol::message::Formation;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, DiskId, Standing};

use super::join_proof::JoinProof;
use super::members_of;
use super::waiting::Waiting;
use crate::config::checks::is_host_and_port;
use crate::node::Node;

/// What a node says of itself when it asks.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The id of the cluster that it means.
    pub cluster_id: String,
    /// Its request, byte by byte.
    pub request: Vec<u8>,
    /// Its proof of the cluster's key, if it has been challenged.
    pub proof: Option<JoinProof>,
    /// Its name.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Where peers reach it: host and port.
    pub peer_addr: String,
    /// Where clients reach it, if that is known.
    pub client_addr: Option<String>,
    /// Its failure domain.
    pub zone: String,
    /// Its share of the data.
    pub weight: u16,
}

/// What a node that asks is told.
#[derive(Clone, Debug)]
pub enum Welcome {
    /// It waits until an operator adds it.
    Wait {
        /// The peer addresses of the members, which it may ask as well.
        members: Vec<String>,
    },
    /// It has been added.
    Added {
        /// A record that it is in.
        record: Arc<ClusterRecord>,
        /// The formation of the cluster.
        formation: Formation,
    },
}

/// Why a node cannot join here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// It means another cluster.
    #[error("this is a node of cluster {ours:?}, not of {theirs:?}: check cluster_id and join")]
    OtherCluster {
        /// The id that it gave.
        theirs: String,
        /// That of this node.
        ours: String,
    },
    /// It has not answered a challenge of this node yet.
    #[error(
        "the request must prove the cluster's key: answer the challenge in Quorate-Join-Challenge"
    )]
    Unproved,
    /// It does not have the cluster's key.
    #[error("{0} does not have a key of this cluster: check cluster_keys")]
    WrongKey(NodeId),
    /// What it says of itself cannot be in a record.
    #[error("{key} must be {allowed}")]
    Invalid {
        /// Which part.
        key: &'static str,
        /// The accepted values.
        allowed: &'static str,
    },
    /// This node is in no formed cluster, or has been removed from it.
    #[error("this node is itself no member of a formed cluster")]
    NoMember,
    /// Its name is that of a member, whose disk is another one.
    #[error(
        "the name {node} is taken by a member with another disk ({known}): choose another name, and replace \
         that member if it is lost (quorate layout commit --replace {node}=NEW)"
    )]
    NameTaken {
        /// The name.
        node: NodeId,
        /// The member's disk.
        known: DiskId,
    },
    /// Its disk is leaving the cluster, has left it, or was declared dead.
    #[error(
        "{node} is not wanted any more: {why}. Its disk cannot come back: stop it, or start it with an empty \
         data_dir to ask anew"
    )]
    Removed {
        /// Its name.
        node: NodeId,
        /// Why, in words.
        why: &'static str,
    },
}

impl JoinRefusal {
    /// The name of the reason, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OtherCluster { .. } => "other_cluster",
            Self::Unproved => "unproved",
            Self::WrongKey(_) => "wrong_key",
            Self::Invalid { .. } => "invalid",
            Self::NoMember => "no_member",
            Self::NameTaken { .. } => "name_taken",
            Self::Removed { .. } => "removed",
        }
    }
}

/// Answers a node that asks to be added.
///
/// # Errors
/// [`JoinRefusal`], which says why it is not even on the waiting list.
pub fn answer(node: &Node, newcomer: Newcomer) -> Result<Welcome, JoinRefusal> {
    check_proof(node, &newcomer)?;
    check_values(&newcomer)?;
    let record = node.membership.record();
    let formation = match record.standing(node.me, node.membership.disk()) {
        Standing::Stable | Standing::StableAndNext | Standing::Joining | Standing::Leaving => {
            node.formation().ok_or(JoinRefusal::NoMember)?
        }
        Standing::Gone | Standing::OtherDisk { .. } | Standing::Stranger => {
            return Err(JoinRefusal::NoMember);
        }
    };
    match record.standing(newcomer.node, newcomer.disk) {
        Standing::Stable | Standing::StableAndNext | Standing::Joining => {
            Ok(Welcome::Added { record, formation })
        }
        Standing::Stranger if was_member(node, &newcomer) => {
            let why = "its disk was in the cluster, or about to be, and was let go";
            Err(JoinRefusal::Removed { node: newcomer.node, why })
        }
        Standing::Stranger => {
            let members = members_of(&record).into_iter().map(|member| member.addr).collect();
            let now = node.uptime();
            let Newcomer { node: name, disk, peer_addr, client_addr, zone, weight, .. } = newcomer;
            let waiting =
                Waiting { node: name, disk, peer_addr, client_addr, zone, weight, since: now };
            node.membership.waiting.asked(waiting, now);
            Ok(Welcome::Wait { members })
        }
        Standing::OtherDisk { known } => Err(JoinRefusal::NameTaken { node: newcomer.node, known }),
        Standing::Gone => {
            let why = "its disk was sworn gone";
            Err(JoinRefusal::Removed { node: newcomer.node, why })
        }
        Standing::Leaving => {
            let why = "the change that added it was given up, or it was removed";
            Err(JoinRefusal::Removed { node: newcomer.node, why })
        }
    }
}

/// Whether a record that is remembered has the disk: what it may have acknowledged then is not known now.
fn was_member(node: &Node, newcomer: &Newcomer) -> bool {
    node.record_history().iter().any(|record| record.has_disk(newcomer.disk))
}

/// The cluster's id and key, in this order, as for frames.
fn check_proof(node: &Node, newcomer: &Newcomer) -> Result<(), JoinRefusal> {
    if newcomer.cluster_id != node.header.cluster_id {
        let (theirs, ours) = (newcomer.cluster_id.clone(), node.header.cluster_id.clone());
        return Err(JoinRefusal::OtherCluster { theirs, ours });
    }
    let (challenges, now) = (&node.membership.challenges, node.uptime());
    let is_answer = |proof: &&JoinProof| challenges.knows(&node.keys, &proof.challenge, now);
    let proof = newcomer.proof.as_ref().filter(is_answer).ok_or(JoinRefusal::Unproved)?;
    match proof.is_for(&node.keys, &newcomer.request) {
        true => Ok(()),
        false => Err(JoinRefusal::WrongKey(newcomer.node)),
    }
}

/// Whether a record could say this of a member.
fn check_values(newcomer: &Newcomer) -> Result<(), JoinRefusal> {
    let host_and_port = "a host and a port, such as 10.0.0.4:7501";
    let client_addr = newcomer.client_addr.as_deref();
    let checks = [
        ("peer_addr", is_host_and_port(&newcomer.peer_addr), host_and_port),
        ("client_addr", client_addr.is_none_or(is_host_and_port), host_and_port),
        ("zone", (1..=ZONE_BYTES_MAX).contains(&newcomer.zone.len()), "1 to 64 bytes"),
        ("weight", (1..=WEIGHT_MAX).contains(&newcomer.weight), "from 1 to 100"),
    ];
    match checks.into_iter().find(|(_, is_valid, _)| !is_valid) {
        Some((key, _, allowed)) => Err(JoinRefusal::Invalid { key, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::record::{Reason, RecordMember};
    use quorate_protocol::time::WallTime;

    use super::*;
    use crate::testing;

    fn name(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn proof(node: &Node) -> JoinProof {
        let challenge = node.membership.challenges.issue(&node.keys, node.uptime());
        JoinProof::new(&node.keys, challenge, [1; 16], b"request")
    }

    fn newcomer(node: &Node) -> Newcomer {
        Newcomer {
            cluster_id: "test".to_owned(),
            request: b"request".to_vec(),
            proof: Some(proof(node)),
            node: name("n4"),
            disk: DiskId(4),
            peer_addr: "n4.test:1".to_owned(),
            client_addr: Some("n4.test:2".to_owned()),
            zone: "default".to_owned(),
            weight: 1,
        }
    }

    fn formed(dir: &tempfile::TempDir) -> Arc<Node> {
        let node = testing::node(dir.path(), "n1", &["n1", "n2", "n3"]);
        node.record_formation(Formation([9; 16]), false).unwrap();
        node
    }

    #[tokio::test]
    async fn a_stranger_waits_and_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let node = formed(&dir);
        let Ok(Welcome::Wait { members }) = answer(&node, newcomer(&node)) else { panic!() };
        assert_eq!(members, ["n1.test:1", "n2.test:1", "n3.test:1"]);
        let all = node.membership.waiting.all(node.uptime());
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].node, all[0].disk), (name("n4"), DiskId(4)));
    }

    #[tokio::test]
    async fn a_member_with_its_disk_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let node = formed(&dir);
        let disk = DiskId::of_name("test", name("n2"));
        let member = Newcomer { node: name("n2"), disk, ..newcomer(&node) };
        let Ok(Welcome::Added { record, formation }) = answer(&node, member) else { panic!() };
        assert_eq!((record.epoch(), formation), (1, Formation([9; 16])));
        assert_eq!(node.membership.waiting.all(node.uptime()), []);
    }

    #[tokio::test]
    async fn who_cannot_join_is_told_why_and_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let node = formed(&dir);
        let long = "x".repeat(300);
        let refused = |change: &dyn Fn(&mut Newcomer)| {
            let mut newcomer = newcomer(&node);
            change(&mut newcomer);
            answer(&node, newcomer).unwrap_err().name()
        };
        assert_eq!(refused(&|it| it.cluster_id = "other".to_owned()), "other_cluster");
        assert_eq!(refused(&|it| it.proof = None), "unproved");
        assert_eq!(refused(&|it| it.proof.as_mut().unwrap().challenge[9] ^= 1), "unproved");
        assert_eq!(refused(&|it| it.proof.as_mut().unwrap().proof[31] ^= 1), "wrong_key");
        assert_eq!(refused(&|it| it.request.push(b' ')), "wrong_key");
        assert_eq!(refused(&|it| it.peer_addr = "n4".to_owned()), "invalid");
        assert_eq!(refused(&|it| it.peer_addr = format!("{long}:1")), "invalid");
        assert_eq!(refused(&|it| it.client_addr = Some(String::new())), "invalid");
        assert_eq!(refused(&|it| it.zone = String::new()), "invalid");
        assert_eq!(refused(&|it| it.zone.clone_from(&long)), "invalid");
        assert_eq!(refused(&|it| it.weight = 0), "invalid");
        assert_eq!(refused(&|it| it.weight = 101), "invalid");
        assert_eq!(refused(&|it| it.node = name("n2")), "name_taken");
        assert_eq!(refused(&|it| it.node = name("n1")), "name_taken");
        assert_eq!(node.membership.waiting.all(node.uptime()), []);
    }

    #[tokio::test]
    async fn one_whose_change_was_given_up_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let node = formed(&dir);
        let first = node.membership.record();
        let reason = || Reason { by: name("n1"), at: WallTime(1), note: "a test".to_owned() };
        let n4 = RecordMember {
            node: name("n4"),
            disk: DiskId(4),
            seat: name("n4"),
            zone: "n4".to_owned(),
            weight: 1,
            peer_addr: "n4.test:1".to_owned(),
            client_addr: None,
        };
        let begun = first.begin([first.stable(), &[n4]].concat(), &[], reason()).unwrap();
        let aborted = begun.abort(&[].into(), reason()).unwrap();
        let released = aborted.release(name("n4"), reason()).unwrap();
        node.learn(&begun).unwrap();
        assert!(matches!(answer(&node, newcomer(&node)), Ok(Welcome::Added { .. })));
        for record in [aborted, released] {
            node.learn(&record).unwrap();
            let told = answer(&node, newcomer(&node)).unwrap_err();
            assert_eq!(told.name(), "removed");
            assert!(told.to_string().starts_with("n4 is not wanted any more: "), "{told}");
        }
        let other = Newcomer { disk: DiskId(5), ..newcomer(&node) };
        assert!(matches!(answer(&node, other), Ok(Welcome::Wait { .. })), "an empty disk may");
    }

    #[tokio::test]
    async fn a_node_without_a_cluster_takes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path(), "n1", &["n1", "n2", "n3"]);
        assert_eq!(answer(&node, newcomer(&node)).unwrap_err(), JoinRefusal::NoMember);
    }
}
