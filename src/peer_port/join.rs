//! `POST /join`: a node asks this member to be added to the cluster. Both ends of the request are defined
//! here.
//!
//! The body is JSON ([`JoinRequest`]); the key is proved by the header `Quorate-Peer-Token`, in the request
//! and in the answer. 202 says that the node waits, and who the members are; 200 is the encoded cluster
//! record that it is in, with the formation in the header `Quorate-Formation`; all else is a refusal.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use quorate_engine::membership::joining::{self, JoinRefusal, Newcomer, Welcome};
use quorate_engine::node::Node;
use quorate_engine::peer_port::receive::cut_off;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::DiskId;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The path of the request.
pub(crate) const PATH: &str = "/join";
/// Proves the cluster's key: the token of peers in hexadecimal.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("quorate-peer-token");
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
    headers: HeaderMap,
    body: Body,
) -> Response {
    let newcomer = match read(&headers, body).await {
        Ok(newcomer) => newcomer,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, "malformed", &why),
    };
    if let Err(refused) = cut_off(&node, newcomer.node).await {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "cut_off", refused.why());
    }
    let token = hex(&node.header.token);
    match joining::answer(&node, newcomer) {
        Ok(Welcome::Wait { members }) => {
            let waits = JoinWaits { waiting: true, members };
            let body = json!(waits).to_string();
            let headers = [(TOKEN, token), (CONTENT_TYPE, "application/json".to_owned())];
            (StatusCode::ACCEPTED, headers, body).into_response()
        }
        Ok(Welcome::Added { record, formation }) => {
            let headers = [(TOKEN, token), (FORMATION, hex(&formation.0))];
            (headers, record.encode()).into_response()
        }
        Err(refusal) => {
            let status = match &refusal {
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

/// Reads a request, within limits of bytes and time.
async fn read(headers: &HeaderMap, body: Body) -> Result<Newcomer, String> {
    let reading = tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_BYTES_MAX).collect());
    let body = reading.await.map_err(|_| "the body took too long".to_owned())?;
    let body =
        body.map_err(|error| format!("the body, at most {BODY_BYTES_MAX} bytes: {error}"))?;
    let request: JoinRequest =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())?;
    let disk = unhex(&request.disk).map(u128::from_be_bytes);
    let JoinRequest { cluster_id, node, peer_addr, client_addr, zone, weight, .. } = request;
    Ok(Newcomer {
        cluster_id,
        token: token_in(headers).ok_or("the header Quorate-Peer-Token: 32 hexadecimal digits")?,
        node,
        disk: DiskId(disk.ok_or("disk: 32 hexadecimal digits")?),
        peer_addr,
        client_addr,
        zone,
        weight,
    })
}

/// The token in the headers of a request or an answer.
pub(crate) fn token_in(headers: &HeaderMap) -> Option<[u8; 16]> {
    unhex(headers.get(TOKEN)?.to_str().ok()?)
}

fn refuse(status: StatusCode, name: &str, detail: &str) -> Response {
    let refused = JoinRefused { refused: name.to_owned(), detail: detail.to_owned() };
    let headers = [(CONTENT_TYPE, "application/json")];
    (status, headers, json!(refused).to_string()).into_response()
}

/// Sixteen bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

/// Sixteen bytes from 32 hexadecimal digits.
pub(crate) fn unhex(digits: &str) -> Option<[u8; 16]> {
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
