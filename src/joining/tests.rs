//! A node that waits: what it shows, whom it believes, and what it leaves in its data directory.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, body::Bytes};
use quorate_engine::membership::join_proof::{CHALLENGE_BYTES, JoinProof};
use quorate_engine::membership::voting::Proposed;
use quorate_engine::node::Node;
use quorate_protocol::hex::hex;
use quorate_protocol::name::NodeId;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::record::{Phase, Reason, RecordMember};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::LayoutConfig;
use crate::http::port::{self, Bounds, HeadBounds};
use crate::peer_port::connect::host_header;
use crate::peer_port::join::{CHALLENGE, FORMATION, NONCE, PATH, PROOF, bytes_in};
use crate::tls::own_client;

const SECRET: [u8; 32] = [7; 32];

fn name(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn config(dir: &TempDir, members: &[String]) -> Config {
    let text = format!(
        "cluster_id = \"test\"\ncluster_keys = [\"{}\"]\nnode = \"n4\"\ndata_dir = {:?}\n\
         client_addr = \"127.0.0.1:7401\"\npeer_addr = \"127.0.0.1:7501\"\n\
         [storage]\nblock_cache_bytes = 1048576\nmemtable_bytes = 1048576\ndisk_free_bytes_min = 0\n",
        "07".repeat(32),
        dir.path().join("data"),
    );
    let file = dir.path().join("node.toml");
    fs::write(&file, text).unwrap();
    let joins =
        crate::config::load_with(&file, [("QUORATE_JOIN".into(), "127.0.0.1:1".into())]).unwrap();
    Config { join: members.to_owned(), ..joins }
}

fn member(node: &str, disk: DiskId) -> RecordMember {
    let node = name(node);
    let (zone, peer_addr) = ("default".to_owned(), format!("{node}.test:1"));
    RecordMember { node, disk, seat: node, zone, weight: 1, peer_addr, client_addr: None }
}

/// A record of n1 and of n4 with a disk.
fn record(cluster_id: &str, disk: DiskId) -> ClusterRecord {
    let n1 = member("n1", DiskId(1));
    ClusterRecord::first(cluster_id, 5, 8, vec![n1, member("n4", disk)]).unwrap()
}

/// How a member proves its answer.
#[derive(Clone, Copy, PartialEq)]
enum Proves {
    /// With this secret.
    By([u8; 32]),
    /// Not at all.
    Not,
}

/// Something that challenges, and then answers each request by what it says of its disk.
async fn answering(answer: impl Fn(DiskId) -> Response + Clone + Send + Sync + 'static) -> String {
    answering_as(Proves::By(SECRET), answer).await
}

async fn answering_as(
    proves: Proves,
    answer: impl Fn(DiskId) -> Response + Clone + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let on_join = move |headers: HeaderMap, body: Bytes| {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let disk = u128::from_str_radix(request["disk"].as_str().unwrap(), 16).unwrap();
        let answer = answer(DiskId(disk));
        async move {
            let challenge = [6; CHALLENGE_BYTES];
            if !headers.contains_key(CHALLENGE) {
                let headers = [(CHALLENGE, hex(&challenge))];
                return (StatusCode::UNAUTHORIZED, headers, "{}").into_response();
            }
            let (nonce, proof) = (bytes_in(&headers, NONCE), bytes_in(&headers, PROOF));
            let proof = JoinProof { challenge, nonce: nonce.unwrap(), proof: proof.unwrap() };
            assert!(proof.is_for(&PeerKeys::new(&[SECRET]), &body));
            proved(proves, &proof, answer).await
        }
    };
    let app = Router::new().route(PATH, post(on_join));
    let bounds = Bounds {
        connections_max: 10,
        heads: HeadBounds::PassedOn(10_000),
        stall_ms: 1_000,
        last_call_ms: 0,
    };
    tokio::spawn(port::run(listener, app, bounds, Default::default()));
    addr
}

/// An answer with its proof.
async fn proved(proves: Proves, proof: &JoinProof, answer: Response) -> Response {
    let Proves::By(secret) = proves else { return answer };
    let (mut head, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let formation = bytes_in::<16>(&head.headers, FORMATION);
    let formation = formation.as_ref().map_or(&[][..], |formation| formation);
    let welcome = proof.welcome(&PeerKeys::new(&[secret]), formation, &body);
    head.headers.insert(PROOF, hex(&welcome).parse().unwrap());
    Response::from_parts(head, body.into())
}

fn added(record: &ClusterRecord) -> Response {
    ([(FORMATION, hex(&[9; 16]))], record.encode()).into_response()
}

fn waits(members: &[&str]) -> Response {
    let body = json!({"waiting": true, "members": members}).to_string();
    (StatusCode::ACCEPTED, body).into_response()
}

/// A node that joins, on ports that the test opened.
struct Waiting {
    ports: [TcpListener; 2],
    config: Config,
    stop: CancellationToken,
}

impl Waiting {
    async fn new(dir: &TempDir, members: &[String]) -> Self {
        let port = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ports = [port().await, port().await];
        Self { ports, config: config(dir, members), stop: CancellationToken::new() }
    }

    async fn join(&self) -> Result<Option<Joined>, JoinError> {
        let [clients, peers] = &self.ports;
        let tls = Tls::default();
        timeout(Duration::from_secs(20), join(&self.config, &tls, (clients, peers), &self.stop))
            .await
            .unwrap()
    }

    async fn ask(&self, port: usize, path: &str) -> (u16, String) {
        let addr = self.ports[port].local_addr().unwrap();
        let client = own_client::plain().build().unwrap();
        let answer = client.get(format!("http://{addr}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until the readiness of the node says this.
    async fn shows(&self, words: &str) {
        let mut shown = String::new();
        for _ in 0..500 {
            shown = self.ask(0, "/readyz").await.1;
            if shown.contains(words) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{words}: {shown}");
    }

    /// Waits until the node says this of what keeps it from joining, and stops it.
    async fn is_told(&self, words: &str) {
        let told = async {
            self.shows(words).await;
            self.stop.cancel();
        };
        let (joined, ()) = tokio::join!(self.join(), told);
        assert!(joined.unwrap().is_none());
        let files = host::files(&self.config);
        assert!(files::load_record(&files).unwrap().is_none(), "{words}");
    }
}

#[tokio::test]
async fn a_node_that_waits_says_so_on_both_ports_and_goes_when_it_is_told_to() {
    let dir = TempDir::new().unwrap();
    let waiting = Waiting::new(&dir, &[answering(|_| waits(&[])).await]).await;
    let looking = async {
        waiting.shows("waiting to be added to the cluster: quorate layout commit --add n4").await;
        assert_eq!(waiting.ask(0, "/livez").await, (200, "alive\n".to_owned()));
        let (status, metrics) = waiting.ask(0, "/metrics").await;
        assert!(status == 200 && metrics.contains("\nquorate_ready 0\n"), "{metrics}");
        for (port, path) in [(0, "/readyz"), (0, "/kv/b/k"), (1, "/peer"), (1, "/join")] {
            let (status, text) = waiting.ask(port, path).await;
            assert!(
                status == 503 && text.contains("urn:quorate:problem:not_ready"),
                "{path}: {text}"
            );
        }
        waiting.stop.cancel();
    };
    let (joined, ()) = tokio::join!(waiting.join(), looking);
    assert!(joined.unwrap().is_none());
}

#[tokio::test]
async fn the_record_comes_from_a_member_that_was_learned_of_and_is_stored_with_a_vote() {
    let dir = TempDir::new().unwrap();
    let other = answering(|disk| added(&record("test", disk))).await;
    let first = answering(move |_| waits(&["", "no address", &other])).await;
    let waiting = Waiting::new(&dir, &[first]).await;
    assert!(is_due(&waiting.config).unwrap());
    let joined = waiting.join().await.unwrap().unwrap();
    assert_eq!(joined.formation, Formation([9; 16]));
    let files = host::files(&waiting.config);
    let disk = files::load_disk(&files, "test", name("n4")).unwrap().id;
    assert_eq!(files::load_record(&files).unwrap(), Some(record("test", disk)));
    let votes = files::load_votes(&files).unwrap().unwrap();
    assert_eq!((votes.instance.epoch, votes.promised), (6, None));
    assert!(!is_due(&waiting.config).unwrap());
    // Nothing was received yet, and there is a vote.
    let node = host::start(waiting.config.clone(), &crate::otlp::Traces::default()).unwrap();
    node.record_formation(joined.formation, true).unwrap();
    assert_eq!((node.membership.disk(), node.membership.record().epoch()), (disk, 5));
    assert!(!node.filled.is_complete());
    // The ports are still there.
    assert!(tokio::net::TcpStream::connect(waiting.ports[0].local_addr().unwrap()).await.is_ok());
}

/// Killed between any two steps, it goes on with the disk that it has.
#[tokio::test]
async fn what_was_interrupted_is_repeated() {
    let dir = TempDir::new().unwrap();
    let addr = answering(|disk| added(&record("test", disk))).await;
    let waiting = Waiting::new(&dir, &[addr]).await;
    let files = host::files(&waiting.config);
    fs::create_dir(&waiting.config.data_dir).unwrap();
    fs::write(waiting.config.data_dir.join("disk-id.tmp"), "half").unwrap();
    let disk = prepare(&waiting.config).unwrap();
    assert_eq!(prepare(&waiting.config).unwrap(), disk);
    // A vote of an earlier try, about an older record.
    let older =
        ClusterRecord::first("test", 2, 8, vec![member("n1", DiskId(1)), member("n4", disk)]);
    files::store_joined(&files, disk, &older.unwrap()).unwrap();
    fs::remove_file(waiting.config.data_dir.join("cluster-record")).unwrap();
    waiting.join().await.unwrap().unwrap();
    assert_eq!(files::load_record(&files).unwrap(), Some(record("test", disk)));
    assert_eq!(files::load_votes(&files).unwrap().unwrap().instance.epoch, 6);
}

#[tokio::test]
async fn only_what_proves_itself_is_believed() {
    let formation = || (FORMATION, hex(&[9; 16]));
    type Answer = Box<dyn Fn(DiskId) -> Response + Send + Sync>;
    let right = Proves::By(SECRET);
    let answers: [(Proves, Answer, &str); 9] = [
        (
            Proves::By([8; 32]),
            Box::new(|disk| added(&record("test", disk))),
            "does not have a key of this cluster",
        ),
        (
            Proves::Not,
            Box::new(|disk| added(&record("test", disk))),
            "does not have a key of this cluster",
        ),
        (
            right,
            Box::new(|disk| record("test", disk).encode().into_response()),
            "without the cluster's formation",
        ),
        (right, Box::new(|disk| added(&record("other", disk))), "a record without this node"),
        (right, Box::new(|_| added(&record("test", DiskId(77)))), "a record without this node"),
        (
            right,
            Box::new(move |_| ([formation()], "junk").into_response()),
            "a record that is none",
        ),
        (
            right,
            Box::new(move |_| ([formation()], vec![0; 1 << 20]).into_response()),
            "its answer is too long",
        ),
        (
            right,
            Box::new(|_| (StatusCode::ACCEPTED, "[]").into_response()),
            "an answer that is none",
        ),
        (
            right,
            Box::new(|_| {
                let body = json!({"refused": "name_taken", "detail": "the name is taken"});
                (StatusCode::CONFLICT, body.to_string()).into_response()
            }),
            "refuses: the name is taken (name_taken)",
        ),
    ];
    for (proves, answer, words) in answers {
        let (dir, answer) = (TempDir::new().unwrap(), std::sync::Arc::new(answer));
        let addr = answering_as(proves, move |disk| answer(disk)).await;
        let waiting = Waiting::new(&dir, &[addr]).await;
        waiting.is_told(words).await;
    }
}

#[test]
fn only_hosts_and_ports_are_asked() {
    assert_eq!(host_header("n1.test:7501").unwrap(), "n1.test:7501");
    assert!(host_header("[::1]:7501").is_ok());
    for bad in ["", "n1", "n1:0", "n1:1/x:2", "u@n1:1", "u:p@n1:1", "n1/x?q:1", "n1#f:1", "n 1:1"] {
        assert!(host_header(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn nobody_there_is_said_too() {
    let dir = TempDir::new().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    Waiting::new(&dir, &[gone]).await.is_told("no address in join answers").await;
}

/// Giving a founding member's disk another id would take its votes from it.
#[tokio::test]
async fn a_disk_that_may_be_a_members_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let waiting = Waiting::new(&dir, &["127.0.0.1:1".to_owned()]).await;
    fs::create_dir_all(waiting.config.data_dir.join("db")).unwrap();
    let error = waiting.join().await.unwrap_err();
    assert!(error.to_string().contains("must be empty"), "{error}");
    assert!(!files::has_disk(&host::files(&waiting.config)).unwrap());
}

/// The other way round: a disk that was drawn to join forms no cluster.
#[tokio::test]
async fn a_disk_made_to_join_does_not_start_with_a_layout() {
    let dir = TempDir::new().unwrap();
    let joining = config(&dir, &["127.0.0.1:1".to_owned()]);
    prepare(&joining).unwrap();
    let layout = json!({"nodes": [{"name": "n4", "peer_addr": "127.0.0.1:7501"}]});
    let layout = Some(serde_json::from_value(layout).unwrap());
    let error = host::start(Config { layout, join: Vec::new(), ..joining }, &Default::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("made to join"), "{error}");
}

/// A node on sockets, in this process.
fn run(node: std::sync::Arc<Node>, [clients, peers]: [TcpListener; 2]) {
    quorate_engine::background::start(&node);
    let bounds = Bounds { connections_max: 100, ..Bounds::for_peers(&node.config, 4) };
    let app = crate::peer_port::listener::app(node.clone());
    tokio::spawn(port::run(peers, app, bounds, Default::default()));
    let access = crate::api::Access::new(&node.config, &[[7; 32]], None, None);
    let app = crate::api::Api::new(node, access.into());
    tokio::spawn(port::run(clients, app, bounds, Default::default()));
}

/// The whole way: three members, a fourth that waits, is added while clients write, fills and serves.
#[allow(clippy::too_many_lines)] // one story, told in order
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_added_receives_its_share() {
    let dirs: Vec<TempDir> = (0..4).map(|_| TempDir::new().unwrap()).collect();
    let port = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports =
        [[port().await, port().await], [port().await, port().await], [port().await, port().await]];
    let addrs = ports.each_ref().map(|ports| ports.each_ref().map(|it| it.local_addr().unwrap()));
    let nodes: Vec<Value> = (1..=3)
        .map(|at| json!({"name": format!("n{at}"), "peer_addr": addrs[at - 1][1].to_string()}))
        .collect();
    let layout: LayoutConfig =
        serde_json::from_value(json!({"partitions": 8, "nodes": nodes})).unwrap();
    let mut members = Vec::new();
    for (at, ports) in ports.into_iter().enumerate() {
        let base = config(&dirs[at], &[]);
        let (node, layout) = (name(&format!("n{}", at + 1)), Some(layout.clone()));
        let config = Config { node, layout, ..base };
        let node = host::start(config, &crate::otlp::Traces::default()).unwrap();
        node.record_formation(Formation([9; 16]), false).unwrap();
        run(node.clone(), ports);
        members.push(node);
    }
    let client = own_client::plain().build().unwrap();
    let ask = async |request: reqwest::RequestBuilder, wanted: &str| {
        for _ in 0..1_000 {
            let answer = request.try_clone().unwrap().send().await;
            let text = match answer {
                Ok(answer) if answer.status().is_success() => answer.text().await.ok(),
                Ok(_) | Err(_) => None,
            };
            if text.as_deref() == Some(wanted) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{request:?}");
    };
    let url = |at: usize, key: usize| format!("http://{}/kv/b/k{key}", addrs[at % 3][0]);
    for key in 0..50 {
        ask(client.put(url(key, key)).body(format!("v{key}")), "").await;
    }
    let waiting = Waiting::new(&dirs[3], &[addrs[0][1].to_string()]).await;
    let adding = async {
        let expected = async || members[1].membership.waiting.all(members[1].uptime());
        let found = loop {
            match &expected().await[..] {
                [] => sleep(Duration::from_millis(20)).await,
                [found, ..] => break found.clone(),
            }
        };
        let record = members[1].membership.record();
        let peer_addr = waiting.ports[1].local_addr().unwrap().to_string();
        let newcomer = RecordMember { peer_addr, ..member("n4", found.disk) };
        let next = record.stable().iter().cloned().chain([newcomer]).collect();
        let reason = Reason { by: name("n2"), at: members[1].now(), note: String::new() };
        let begin = record.begin(next, &[], reason).unwrap();
        let decided = members[1].propose(begin, Duration::from_secs(10)).await.unwrap();
        assert!(matches!(decided, Proposed::Decided), "{decided:?}");
    };
    let (joined, ()) = tokio::join!(waiting.join(), adding);
    let joined = joined.unwrap().unwrap();
    let node = host::start(waiting.config.clone(), &crate::otlp::Traces::default()).unwrap();
    node.record_formation(joined.formation, true).unwrap();
    let own = waiting.ports[0].local_addr().unwrap();
    run(node.clone(), waiting.ports);
    for key in 0..50 {
        ask(client.put(format!("http://{}/kv/c/k{key}", addrs[key % 3][0])).body("v"), "").await;
    }
    for _ in 0..1_500 {
        if node.membership.record().phase() == Phase::Stable && node.filled.is_complete() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.membership.record().stable().len(), 4, "{:?}", node.membership.record());
    for key in 0..50 {
        ask(client.get(format!("http://{own}/kv/b/k{key}?r=all")), &format!("v{key}")).await;
        ask(client.get(format!("http://{own}/kv/c/k{key}?r=all")), "v").await;
    }
}
