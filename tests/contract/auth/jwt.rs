//! Tokens of an issuer, on a real node: who has one, what it allows, and keys that change meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ON, get, made, with};
use crate::common::http::Request;
use crate::common::{CLUSTER_ID, Cluster, operator, until};

/// An issuer with one key.
struct Issuer {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Self { pair: pair.unwrap(), kid }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": x, "y": y})
    }

    /// What the subject sends as `Authorization` for as many seconds.
    fn token(&self, subject: &str, more: &Value, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "quorate", "sub": subject, "exp": now + seconds,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "at+jwt"});
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("Bearer {message}.{}", encode(signature))
    }
}

fn publish(file: &Path, issuers: &[&Issuer]) {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.public()).collect();
    fs::write(file, json!({ "keys": keys }).to_string()).unwrap();
}

/// A node that takes tokens of the issuer whose keys are in a file, with what is in `more`.
fn start(file: &Path, more: &str) -> Cluster {
    let audit = file.with_file_name("audit.log");
    start_at(file.to_str().unwrap(), &format!("{more}\n[audit]\nto = {audit:?}\n"))
}

/// Likewise of one whose keys are in a file or at a URL. `more` has settings, then tables.
fn start_at(keys: &str, more: &str) -> Cluster {
    let settings = format!(
        "{ON}[jwt]\nkeys = {keys:?}\nissuer = \"https://issuer.example\"\n\
         audience = [\"quorate\"]\nalgorithms = [\"ES256\"]\nleeway_ms = 0\n\
         scopes_claim = \"scopes\"\n{more}\n\
         [[jwt.grants]]\nclaim = \"groups\"\nvalue = \"shop\"\n\
         scopes = [{{ actions = [\"read\", \"write\"], buckets = [\"carts\"] }}]\n"
    );
    Cluster::start_with(1, CLUSTER_ID, &settings)
}

#[test]
fn who_has_a_token_of_the_issuer_is_known_by_name() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    let issuer = Issuer::new("one");
    publish(&file, &[&issuer]);
    let cluster = start(&file, "");
    let node = &cluster.nodes[0];
    let alice = issuer.token("alice", &json!({"groups": ["shop"]}), 600);
    assert_eq!(with(node, &alice, Request::put("/kv/carts/a", "2 apples")).status, 204);
    assert_eq!(get(node, &alice, "/kv/carts/a").text(), "2 apples");
    get(node, &alice, "/kv/other/a").assert_problem(403, "forbidden");
    let who = get(node, &alice, "/auth/whoami").json();
    assert_eq!((&who["who"], &who["name"]), (&json!("subject"), &json!("alice")));
    assert_eq!(who["scopes"][0]["buckets"], json!(["carts"]));
    let mut cli = Command::new(env!("CARGO_BIN_EXE_quorate"));
    cli.args(["token", "whoami", "--url", &format!("http://{}", node.client_addr)]);
    cli.env("XDG_STATE_HOME", dir.path());
    let said = cli.env("QUORATE_TOKEN", alice.replace("Bearer ", "")).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("alice") && said.contains("read,write of carts"), "{said}");
    // What one makes for others is traced to them, and is no more than they have.
    let admin = json!([{"actions": ["admin:auth", "look"]}]);
    let admin = issuer.token("root@example", &json!({"scopes": admin}), 600);
    let body = r#"{"name": "b", "scopes": [{"actions": ["look"]}]}"#;
    let created = with(node, &admin, Request::json("POST", "/auth/tokens", body));
    assert_eq!(created.status, 201, "{}", created.text());
    let id = get(node, &admin, "/auth/whoami").json()["id"].clone();
    assert_eq!(created.json()["created_by"], id);
    let more = r#"{"name": "b", "scopes": [{"actions": ["admin"]}]}"#;
    let more = with(node, &admin, Request::json("POST", "/auth/tokens", more));
    more.assert_problem(403, "forbidden");
    // The cluster's own tokens and operators' signatures go on as before.
    let own = made(node, "own", &json!([{"actions": ["look"]}]), &json!({}));
    let own = format!("Bearer {}", own["token"].as_str().unwrap());
    assert_eq!(get(node, &own, "/cluster").status, 200);
    assert_eq!(get(node, &operator(), "/cluster").status, 200);
    let log = || fs::read_to_string(dir.path().join("audit.log")).unwrap_or_default();
    until("the audit log names her", || log().contains("\"subject\":\"alice\""));
    let (_, signature) = alice.rsplit_once('.').unwrap();
    assert!(log().contains("root@example") && !log().contains(signature));
    assert!(!node.log_text().contains(signature));
}

#[test]
fn what_is_no_token_of_the_issuer_is_refused_on_every_route() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    publish(&file, &[&issuer]);
    let cluster = start(&file, "rate_per_s = 2");
    let node = &cluster.nodes[0];
    let admin = json!({"scopes": [{"actions": ["admin"]}]});
    let expired = issuer.token("alice", &admin, -1);
    let told = get(node, &expired, "/cluster").assert_problem(401, "unauthenticated");
    assert!(told.contains("expired"), "{told}");
    let unsigned = |token: &str| {
        let (_, claims) = token.split_once('.').unwrap();
        let (claims, _) = claims.split_once('.').unwrap();
        format!("Bearer {}.{claims}.", encode(r#"{"alg":"none"}"#))
    };
    for bad in [
        unsigned(&issuer.token("alice", &admin, 600)),
        stranger.token("alice", &admin, 600),
        issuer.token("alice", &json!({"aud": "other", "scopes": [{"actions": ["admin"]}]}), 600),
        issuer.token("alice", &json!({"iss": "https://evil.example"}), 600),
        issuer.token("alice", &json!({"nbf": 99_999_999_999_u64}), 600),
        issuer.token("alice", &json!({"pad": "x".repeat(20_000)}), 600),
        "Bearer a.b.c".to_owned(),
        "Bearer ..".to_owned(),
    ] {
        for path in ["/cluster", "/kv/carts/a", "/auth/tokens", "/metrics", "/auth/whoami"] {
            get(node, &bad, path).assert_problem(401, "unauthenticated");
        }
    }
    let metrics = get(node, &operator(), "/metrics").text();
    assert!(metrics.contains("quorate_jwt_keys 1\n"), "{metrics}");
    assert!(metrics.contains("quorate_auth_refused_total{reason=\"expired\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("quorate_auth_refused_total{reason=\"jwt\"} 0\n"), "{metrics}");
    // A subject that is too fast waits, with whichever token.
    let mut refused = None;
    until("the rate is reached", || {
        let token = issuer.token("alice", &admin, 600);
        let answer = get(node, &token, "/auth/whoami");
        refused = (answer.status != 200).then_some(answer);
        refused.is_some()
    });
    refused.unwrap().assert_problem(429, "rate_limited");
    let bob = issuer.token("bob", &admin, 600);
    assert_eq!(get(node, &bob, "/auth/whoami").status, 200);
}

#[test]
fn keys_are_rotated_while_the_node_runs() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    publish(&file, &[&old]);
    let cluster = start(&file, "");
    let node = &cluster.nodes[0];
    let groups = json!({"groups": "shop"});
    let (of_old, of_new) = (old.token("alice", &groups, 600), new.token("alice", &groups, 600));
    let status = |token: &str| get(node, token, "/auth/whoami").status;
    assert_eq!((status(&of_old), status(&of_new)), (200, 401));
    publish(&file, &[&old, &new]);
    until("the new key is known", || status(&of_new) == 200);
    assert_eq!(status(&of_old), 200);
    // What cannot be read leaves them in place, and is told.
    fs::write(&file, "{\"keys\": [").unwrap();
    node.signal("HUP");
    let failed = |value: u8| {
        let metrics = get(node, &operator(), "/metrics").text();
        metrics.contains(&format!("quorate_jwt_keys_read_failed {value}\n"))
    };
    until("it is told", || failed(1));
    assert_eq!((status(&of_old), status(&of_new)), (200, 200));
    assert!(node.log_text().contains("issuer's keys cannot be read"), "{}", node.log_text());
    publish(&file, &[&new]);
    until("the old key is withdrawn", || status(&of_old) == 401);
    assert!(status(&of_new) == 200);
    until("it is mended", || failed(0));
}

#[test]
fn keys_are_fetched_from_a_url_and_stay_when_it_is_gone() {
    let dir = TempDir::new().unwrap();
    let ca = |args: &[&str]| {
        let mut quorate = Command::new(env!("CARGO_BIN_EXE_quorate"));
        let ended = quorate.arg("ca").args(args).current_dir(dir.path()).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    };
    ca(&["init", "--dir", "ca"]);
    ca(&["issue", "--dir", "ca", "--node", "n1", "--host", "127.0.0.1", "--out", "certs"]);
    let path = |name: &str| dir.path().join(name).display().to_string();
    // The issuer's web server: a node of another cluster, which has no keys yet.
    let tls = format!(
        "[client_tls]\nmode = \"accept\"\ncert = {:?}\nkey = {:?}\n",
        path("certs/n1.pem"),
        path("certs/n1.key")
    );
    let mut web = Cluster::start_with(1, "the-issuers", &tls);
    let bucket = Request::json("PUT", "/buckets/jwt", r#"{"conflicts": "lww"}"#);
    assert_eq!(web.nodes[0].send(&bucket).status, 200);
    let set = |issuers: &[&Issuer]| {
        let file = dir.path().join("keys.json");
        publish(&file, issuers);
        fs::read_to_string(file).unwrap()
    };
    let url = format!("https://{}/kv/jwt/keys", web.nodes[0].client_addr);
    let cluster = start_at(&url, &format!("ca = {:?}", path("ca/ca.pem")));
    let node = &cluster.nodes[0];
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let groups = json!({"groups": "shop"});
    let (of_old, of_new) = (old.token("alice", &groups, 600), new.token("alice", &groups, 600));
    get(node, &of_old, "/auth/whoami").assert_problem(503, "auth_stale");
    let put = |web: &Cluster, keys: &str| {
        assert_eq!(web.nodes[0].send(&Request::put("/kv/jwt/keys", keys)).status, 204);
    };
    let status = |token: &str| get(node, token, "/auth/whoami").status;
    put(&web, &set(&[&old]));
    node.signal("HUP");
    until("the keys are known", || status(&of_old) == 200);
    // A token that names an unknown key has the node look again, though not at once.
    put(&web, &set(&[&new]));
    until("the new key is known", || status(&of_new) == 200);
    assert_eq!(status(&of_old), 401);
    web.nodes[0].kill();
    node.signal("HUP");
    let metrics = || get(node, &operator(), "/metrics").text();
    until("it is told", || metrics().contains("quorate_jwt_keys_read_failed 1\n"));
    assert_eq!(status(&of_new), 200);
}
