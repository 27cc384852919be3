//! Asks members to be added. What answers is believed only if it has the cluster's key, and within bounds.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use quorate_engine::config::checks::is_host_and_port;
use quorate_engine::membership::join_proof::{CHALLENGE_BYTES, JoinProof};
use quorate_protocol::hex::{hex, unhex};
use quorate_protocol::message::Formation;
use quorate_protocol::name::NodeId;
use quorate_protocol::proof::{PROOF_BYTES, PeerKeys};
use quorate_protocol::record::{ClusterRecord, DiskId, RECORD_BYTES_MAX, Standing};
use tokio::time::timeout;

use super::JoinError;
use crate::config::Config;
use crate::peer_port::connect::Connector;
use crate::peer_port::join::{
    CHALLENGE, FORMATION, JoinRefused, JoinRequest, JoinWaits, NONCE, PATH, PROOF, bytes_in,
};
use crate::tls::Tls;

/// How long a member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The longest text of a refusal that is shown, in characters.
const TEXT_CHARS_MAX: usize = 500;

/// What a member answered.
#[derive(Debug)]
pub(super) enum Heard {
    /// The node waits; these are the members.
    Waiting(Vec<String>),
    /// The node was added by this record.
    Added(Box<ClusterRecord>, Formation),
    /// It was refused, in words.
    Refused(String),
    /// There was no answer, in words.
    Silent(String),
}

/// What is asked, and how.
pub(super) struct Asking {
    members: Connector,
    keys: PeerKeys,
    cluster_id: String,
    me: (NodeId, Option<DiskId>),
    body: String,
}

impl Asking {
    /// Asks for this.
    ///
    /// # Errors
    /// [`JoinError`] if the configuration has no key.
    pub(super) fn new(
        config: &Config,
        tls: &Tls,
        request: &JoinRequest,
    ) -> Result<Self, JoinError> {
        let disk = unhex(&request.disk).map(|disk| DiskId(u128::from_be_bytes(disk)));
        Ok(Self {
            members: Connector::new(config, tls),
            keys: PeerKeys::new(&config.secrets()?),
            cluster_id: request.cluster_id.clone(),
            me: (request.node, disk),
            body: serde_json::json!(request).to_string(),
        })
    }

    /// Asks all of these at once.
    pub(super) async fn all(&self, addrs: impl Iterator<Item = &String>) -> Vec<(String, Heard)> {
        join_all(addrs.map(async |addr| (addr.clone(), self.one(addr).await))).await
    }

    async fn one(&self, addr: &str) -> Heard {
        // Without a proof a member answers with what is to be proved.
        let challenge = match self.send(addr, None).await {
            Ok((StatusCode::UNAUTHORIZED, headers, body)) => {
                match bytes_in::<CHALLENGE_BYTES>(&headers, CHALLENGE) {
                    Some(challenge) => challenge,
                    None => return refused(StatusCode::UNAUTHORIZED, &body),
                }
            }
            Ok((status, _, body)) if !status.is_success() => return refused(status, &body),
            Ok(_) => return no_member(),
            Err(why) => return Heard::Silent(why),
        };
        let proof = JoinProof::new(&self.keys, challenge, rand::random(), self.body.as_bytes());
        let (status, headers, body) = match self.send(addr, Some(&proof)).await {
            Ok(answer) => answer,
            Err(why) => return Heard::Silent(why),
        };
        if !status.is_success() {
            return refused(status, &body);
        }
        let formation = bytes_in::<16>(&headers, FORMATION);
        let shown = bytes_in::<PROOF_BYTES>(&headers, PROOF).unwrap_or_default();
        let named = formation.as_ref().map_or(&[][..], |formation| formation);
        if !proof.is_welcome(&self.keys, named, &body, &shown) {
            return no_member();
        }
        self.understand(status, formation, &body)
    }

    /// Sends the request to whichever node is at an address, and reads the answer: its name is not known yet.
    async fn send(
        &self,
        addr: &str,
        proof: Option<&JoinProof>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let mut request = Request::post(PATH).header(CONTENT_TYPE, "application/json");
        if let Some(JoinProof { challenge, nonce, proof }) = proof {
            request = request.header(CHALLENGE, hex(challenge));
            request = request.header(NONCE, hex(nonce)).header(PROOF, hex(proof));
        }
        let request = request.body(Bytes::from(self.body.clone()));
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.members.ask((addr, None), request, RECORD_BYTES_MAX);
        timeout(ANSWER_WITHIN, answer)
            .await
            .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
    }

    /// The answer of a member with the cluster's key.
    fn understand(&self, status: StatusCode, formation: Option<[u8; 16]>, body: &[u8]) -> Heard {
        if status == StatusCode::ACCEPTED {
            return match serde_json::from_slice::<JoinWaits>(body) {
                Ok(JoinWaits { mut members, .. }) => {
                    members.retain(|addr| is_host_and_port(addr));
                    Heard::Waiting(members)
                }
                Err(error) => Heard::Refused(format!("an answer that is none: {error}")),
            };
        }
        let record = match ClusterRecord::decode(body) {
            Ok(record) => record,
            Err(error) => return Heard::Refused(format!("a record that is none: {error}")),
        };
        let Some(formation) = formation else {
            return Heard::Refused("a record without the cluster's formation".to_owned());
        };
        let standing = self.me.1.map(|disk| record.standing(self.me.0, disk));
        let is_in = matches!(
            standing,
            Some(Standing::Joining | Standing::Stable | Standing::StableAndNext)
        );
        if !is_in || record.cluster_id() != self.cluster_id {
            return Heard::Refused("a record without this node and its disk".to_owned());
        }
        Heard::Added(Box::new(record), Formation(formation))
    }
}

/// What answered is not of the cluster.
fn no_member() -> Heard {
    Heard::Refused("it does not have a key of this cluster".to_owned())
}

/// A refusal in words, or none if it may pass by itself.
fn refused(status: StatusCode, body: &[u8]) -> Heard {
    let text = match serde_json::from_slice::<JoinRefused>(body) {
        Ok(JoinRefused { refused, detail }) => format!("{detail} ({refused})"),
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(body)),
    };
    let text = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
    match status.is_server_error() {
        true => Heard::Silent(text),
        false => Heard::Refused(text),
    }
}
