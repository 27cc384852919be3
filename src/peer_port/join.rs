//! `POST /join`: a node asks this member to be added to the cluster. Both ends of the request are defined
//! here.
//!
//! The body is JSON ([`JoinRequest`]). A request without a proof of the cluster's key is answered with 401
//! and a challenge, and repeated with headers that answer it ([`join_proof`]); the answer to that is proved
//! too. 202 says that the node waits, and who the members are; 200 is the encoded cluster record that it is
//! in, with the formation in the header `Quorate-Formation`; all else is a refusal.
//!
//! [`join_proof`]: quorate_engine::membership::join_proof

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use quorate_engine::membership::join_proof::{CHALLENGE_BYTES, JoinProof};
use quorate_engine::membership::joining::{self, JoinRefusal, Newcomer, Welcome};
use quorate_engine::node::Node;
use quorate_engine::peer_port::receive::cut_off;
use quorate_protocol::hex::{hex, unhex};
use quorate_protocol::name::NodeId;
use quorate_protocol::proof::{NONCE_BYTES, PROOF_BYTES};
use quorate_protocol::record::DiskId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::tls::door::Identity;

/// The path of the request.
pub(crate) const PATH: &str = "/join";
/// What a member wants answered, and which answer a request has, in hexadecimal as all of these.
pub(crate) const CHALLENGE: HeaderName = HeaderName::from_static("quorate-join-challenge");
/// What a node wants answered for.
pub(crate) const NONCE: HeaderName = HeaderName::from_static("quorate-join-nonce");
/// The proof of the cluster's key, in a request and in its answer.
pub(crate) const PROOF: HeaderName = HeaderName::from_static("quorate-join-proof");
/// The formation of the cluster in hexadecimal.
pub(crate) const FORMATION: HeaderName = HeaderName::from_static("quorate-formation");
/// The longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4 << 10;
/// How long the body may take.
const BODY_WITHIN: Duration = Duration::from_secs(2);

/// What a node says of itself when it asks to be added. More fields may follow in later releases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    /// The id of the cluster that it means.
    pub(crate) cluster_id: String,
    /// Its name.
    pub(crate) node: NodeId,
    /// The id of its disk, 32 hexadecimal digits.
    pub(crate) disk: String,
    /// Where peers reach it: host and port.
    pub(crate) peer_addr: String,
    /// Where clients reach it, if that is known.
    #[serde(default)]
    pub(crate) client_addr: Option<String>,
    /// Its failure domain.
    pub(crate) zone: String,
    /// Its share of the data.
    pub(crate) weight: u16,
    /// Its release.
    pub(crate) release: String,
}

/// The body of a 202.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinWaits {
    /// Always true.
    pub(crate) waiting: bool,
    /// The peer addresses of the members.
    pub(crate) members: Vec<String>,
}

/// The body of a refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinRefused {
    /// The reason by name.
    pub(crate) refused: String,
    /// The reason in words.
    pub(crate) detail: String,
}

/// `POST /join`.
pub(crate) async fn on_join(
    State(node): State<Arc<Node>>,
    identity: Option<Extension<Identity>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let newcomer = match read(&headers, body).await {
        Ok(newcomer) => newcomer,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, "malformed", &why),
    };
    if let Some(Extension(Identity(shown))) = identity
        && shown != newcomer.node
    {
        let why = format!("the certificate is of node {shown}, the request of {}", newcomer.node);
        return refuse(StatusCode::FORBIDDEN, "other_node", &why);
    }
    if let Err(refused) = cut_off(&node, newcomer.node).await {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "cut_off", refused.why());
    }
    let asked = newcomer.proof.clone();
    let proved = |formation: &[u8], body: &[u8]| {
        let proof = asked.as_ref().map(|asked| asked.welcome(&node.keys, formation, body));
        hex(&proof.unwrap_or_default())
    };
    match joining::answer(&node, newcomer) {
        Ok(Welcome::Wait { members }) => {
            let waits = JoinWaits { waiting: true, members };
            let body = json!(waits).to_string();
            let proof = proved(&[], body.as_bytes());
            let headers = [(PROOF, proof), (CONTENT_TYPE, "application/json".to_owned())];
            (StatusCode::ACCEPTED, headers, body).into_response()
        }
        Ok(Welcome::Added { record, formation }) => {
            let body = record.encode();
            let proof = proved(&formation.0, &body);
            ([(PROOF, proof), (FORMATION, hex(&formation.0))], body).into_response()
        }
        Err(refusal) => {
            let status = match &refusal {
                JoinRefusal::Unproved => return challenge(&node, &refusal),
                JoinRefusal::Invalid { .. } => StatusCode::BAD_REQUEST,
                JoinRefusal::WrongKey(_) => StatusCode::FORBIDDEN,
                JoinRefusal::OtherCluster { .. }
                | JoinRefusal::NameTaken { .. }
                | JoinRefusal::Removed { .. } => StatusCode::CONFLICT,
                JoinRefusal::NoMember => StatusCode::SERVICE_UNAVAILABLE,
            };
            refuse(status, refusal.name(), &refusal.to_string())
        }
    }
}

/// Wants the cluster's key proved.
fn challenge(node: &Node, refusal: &JoinRefusal) -> Response {
    let challenge = node.membership.challenges.issue(&node.keys, node.uptime());
    let mut response = refuse(StatusCode::UNAUTHORIZED, refusal.name(), &refusal.to_string());
    if let Ok(challenge) = hex(&challenge).parse() {
        response.headers_mut().insert(CHALLENGE, challenge);
    }
    response
}

/// Reads a request, within limits of bytes and time.
async fn read(headers: &HeaderMap, body: Body) -> Result<Newcomer, String> {
    let reading = tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_BYTES_MAX).collect());
    let body = reading.await.map_err(|_| "the body took too long".to_owned())?;
    let body =
        body.map_err(|error| format!("the body, at most {BODY_BYTES_MAX} bytes: {error}"))?;
    let body = body.to_bytes();
    let request: JoinRequest = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let disk = unhex(&request.disk).map(u128::from_be_bytes);
    let JoinRequest { cluster_id, node, peer_addr, client_addr, zone, weight, .. } = request;
    Ok(Newcomer {
        cluster_id,
        request: body.to_vec(),
        proof: proof_in(headers)?,
        node,
        disk: DiskId(disk.ok_or("disk: 32 hexadecimal digits")?),
        peer_addr,
        client_addr,
        zone,
        weight,
    })
}

/// The answer to a challenge in the headers of a request; `None` if there is none.
fn proof_in(headers: &HeaderMap) -> Result<Option<JoinProof>, String> {
    if !headers.contains_key(CHALLENGE) {
        return Ok(None);
    }
    let wrong = |name: HeaderName, bytes: usize| {
        format!("the header {name}: {} hexadecimal digits", 2 * bytes)
    };
    let challenge = bytes_in(headers, CHALLENGE).ok_or(wrong(CHALLENGE, CHALLENGE_BYTES))?;
    let nonce = bytes_in(headers, NONCE).ok_or(wrong(NONCE, NONCE_BYTES))?;
    let proof = bytes_in(headers, PROOF).ok_or(wrong(PROOF, PROOF_BYTES))?;
    Ok(Some(JoinProof { challenge, nonce, proof }))
}

/// The bytes in a header.
pub(crate) fn bytes_in<const BYTES: usize>(
    headers: &HeaderMap,
    name: HeaderName,
) -> Option<[u8; BYTES]> {
    unhex(headers.get(name)?.to_str().ok()?)
}

fn refuse(status: StatusCode, name: &str, detail: &str) -> Response {
    let refused = JoinRefused { refused: name.to_owned(), detail: detail.to_owned() };
    let headers = [(CONTENT_TYPE, "application/json")];
    (status, headers, json!(refused).to_string()).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
