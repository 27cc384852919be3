//! What a member answers to nodes that ask to be added, and to anything else that comes to that path.

use std::sync::Arc;

use axum::http::{Method, Request};
use quorate_protocol::message::Formation;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::record::ClusterRecord;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::peer_port::listener;

/// n1 of a formed cluster of two.
struct Member {
    node: Arc<Node>,
    _dir: TempDir,
}

impl Member {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let text = format!(
            "cluster_id = \"test\"\ncluster_keys = [\"{}\", \"{}\"]\nnode = \"n1\"\ndata_dir = {:?}\n\
             client_addr = \"127.0.0.1:1\"\npeer_addr = \"127.0.0.1:2\"\ndurability = \"buffered\"\n\
             [layout]\npartitions = 8\n\
             [[layout.nodes]]\nname = \"n1\"\npeer_addr = \"127.0.0.1:2\"\n\
             [[layout.nodes]]\nname = \"n2\"\npeer_addr = \"127.0.0.1:3\"\n",
            "07".repeat(32),
            "08".repeat(32),
            dir.path().join("data"),
        );
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load_with(&file, []).unwrap();
        let node = crate::host::start(config, &crate::otlp::Traces::default()).unwrap();
        node.record_formation(Formation([9; 16]), false).unwrap();
        Self { node, _dir: dir }
    }

    async fn ask(
        &self,
        proof: &[(HeaderName, String)],
        body: impl Into<Body>,
    ) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::builder().method(Method::POST).uri(PATH);
        for (name, value) in proof {
            request = request.header(name, value);
        }
        let request = request.body(body.into()).unwrap();
        let answer = listener::app(self.node.clone()).oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    /// A challenge of this member.
    async fn challenge(&self) -> [u8; CHALLENGE_BYTES] {
        let (status, headers, _) = self.ask(&[], request().to_string()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        bytes_in(&headers, CHALLENGE).unwrap()
    }

    /// The proof of a node with the first key, for a request with this body.
    async fn proof(&self, body: &str) -> Vec<(HeaderName, String)> {
        shown(&JoinProof::new(&self.node.keys, self.challenge().await, [5; 16], body.as_bytes()))
    }

    /// The name of the refusal, with its status.
    async fn refusal(
        &self,
        proof: &[(HeaderName, String)],
        body: impl Into<Body>,
    ) -> (u16, String) {
        let (status, _, body) = self.ask(proof, body).await;
        let refused: JoinRefused = serde_json::from_slice(&body).unwrap();
        assert!(!refused.detail.is_empty());
        (status.as_u16(), refused.refused)
    }

    fn waiting(&self) -> usize {
        self.node.membership.waiting.all(self.node.uptime()).len()
    }
}

fn shown(proof: &JoinProof) -> Vec<(HeaderName, String)> {
    let JoinProof { challenge, nonce, proof } = proof;
    vec![(CHALLENGE, hex(challenge)), (NONCE, hex(nonce)), (PROOF, hex(proof))]
}

fn request() -> Value {
    json!({
        "cluster_id": "test", "node": "n4", "disk": "0".repeat(31) + "4", "peer_addr": "127.0.0.1:9",
        "client_addr": null, "zone": "z", "weight": 1, "release": "0.1.0",
    })
}

fn with(key: &str, value: impl Into<Value>) -> String {
    let mut request = request();
    request[key] = value.into();
    request.to_string()
}

#[tokio::test]
async fn a_stranger_waits_whichever_key_it_has() {
    let (member, body) = (Member::new(), request().to_string());
    for secret in [[7; 32], [8; 32]] {
        let (keys, challenge) = (PeerKeys::new(&[secret]), member.challenge().await);
        let proof = JoinProof::new(&keys, challenge, [5; 16], body.as_bytes());
        let (status, headers, answer) = member.ask(&shown(&proof), body.clone()).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let welcome = bytes_in::<PROOF_BYTES>(&headers, PROOF).unwrap();
        assert!(proof.is_welcome(&member.node.keys, &[], &answer, &welcome));
        let waits: JoinWaits = serde_json::from_slice(&answer).unwrap();
        assert!(waits.waiting);
        assert_eq!(waits.members, ["127.0.0.1:2", "127.0.0.1:3"]);
    }
    assert_eq!(member.waiting(), 1);
}

#[tokio::test]
async fn a_member_gets_the_record_and_the_formation() {
    let member = Member::new();
    let n2 = DiskId::of_name("test", NodeId::parse("n2").unwrap());
    let mut request = request();
    request["node"] = "n2".into();
    request["disk"] = n2.to_string().into();
    let proof = member.proof(&request.to_string()).await;
    let (status, headers, body) = member.ask(&proof, request.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[FORMATION].to_str().unwrap(), hex(&[9; 16]));
    assert_eq!(ClusterRecord::decode(&body).unwrap(), *member.node.membership.record());
}

#[tokio::test]
async fn refusals_have_names_and_statuses() {
    let member = Member::new();
    for (body, status, name) in [
        (with("cluster_id", "other"), 409, "other_cluster"),
        (with("node", "n2"), 409, "name_taken"),
        (with("peer_addr", "nowhere"), 400, "invalid"),
        (with("weight", 0), 400, "invalid"),
    ] {
        let proof = member.proof(&body).await;
        assert_eq!(member.refusal(&proof, body).await, (status, name.to_owned()));
    }
    let wrong = (403, "wrong_key".to_owned());
    // Without the key nothing else is told; a proof holds for its request alone.
    for body in [request().to_string(), with("node", "n2")] {
        let (stranger, challenge) = (PeerKeys::new(&[[9; 32]]), member.challenge().await);
        let proof = JoinProof::new(&stranger, challenge, [5; 16], body.as_bytes());
        assert_eq!(member.refusal(&shown(&proof), body).await, wrong);
        let of_another = member.proof("another request").await;
        assert_eq!(member.refusal(&of_another, with("node", "n2")).await, wrong);
    }
    let unproved = (401, "unproved".to_owned());
    assert_eq!(member.refusal(&[], with("node", "n2")).await, unproved);
    let foreign = Member::new().proof(&request().to_string()).await;
    let played_back = member.refusal(&foreign, request().to_string()).await;
    assert_eq!(played_back, unproved, "recorded at another member, or before a restart");
    assert_eq!(member.waiting(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let member = Member::new();
    let malformed = (400, "malformed".to_owned());
    let long = "x".repeat(BODY_BYTES_MAX);
    for body in [
        String::new(),
        "[".repeat(BODY_BYTES_MAX),
        "{}".to_owned(),
        "null".to_owned(),
        with("node", "Not a name"),
        with("node", ""),
        with("weight", 70_000),
        with("weight", -1),
        with("zone", long),
        with("disk", "4"),
        with("disk", "+".to_owned() + &"0".repeat(31)),
        with("disk", "é".repeat(16)),
    ] {
        assert_eq!(member.refusal(&[], body.clone()).await, malformed, "{body}");
    }
    let proof = member.proof(&request().to_string()).await;
    for header in 0..proof.len() {
        for bad in [String::new(), "0".repeat(31), "g".repeat(proof[header].1.len())] {
            let mut proof = proof.clone();
            proof[header].1 = bad;
            assert_eq!(member.refusal(&proof, request().to_string()).await, malformed);
        }
    }
    assert_eq!(member.refusal(&proof[..1], request().to_string()).await, malformed);
    let endless =
        Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    assert_eq!(member.refusal(&[], endless).await, malformed);
    assert_eq!(member.waiting(), 0);
}
