//! TLS: a running cluster moves to it and back node by node, certificates and authorities are replaced, and
//! whoever has not the right certificate gets nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use quorate_protocol::handshake::{Opening, Versions, Who};
use quorate_protocol::name::NodeId;
use quorate_protocol::proof::PeerKeys;

use crate::harness::{CLUSTER_ID, Cluster, KEY, Setup, eventually, name_of};
use crate::http::{Answer, Ask, Node};

const CLIENTS: usize = 6;

/// A client of plain HTTP, which reads no authorities of the system.
pub(crate) fn plain_http() -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config)
}

/// An authority and the certificates of nodes, made by `quorate ca`.
pub(crate) struct Ca {
    dir: tempfile::TempDir,
}

impl Ca {
    pub(crate) fn new(nodes: usize) -> Self {
        let ca = Self { dir: tempfile::tempdir().unwrap() };
        ca.init("ca");
        (1..=nodes).for_each(|number| ca.issue("ca", &format!("n{number}"), "certs"));
        ca
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        let made = command.arg("ca").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// Runs a command that asks n1 over TLS.
    fn quorate(&self, cluster: &Cluster, args: &[&str]) {
        let url = format!("https://{}", cluster.client_addr(1));
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(args).args(["--url", &url, "--ca"]).arg(self.path("ca/ca.pem"));
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    fn init(&self, dir: &str) {
        self.run(&["init", "--dir", dir]);
    }

    fn issue(&self, dir: &str, node: &str, out: &str) {
        self.run(&["issue", "--dir", dir, "--node", node, "--host", "127.0.0.1", "--out", out]);
    }

    /// The tables of a node's configuration.
    pub(crate) fn tables(&self, number: usize, mode: &str, authorities: &[&str]) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (cert, key) =
            (path(&format!("certs/n{number}.pem")), path(&format!("certs/n{number}.key")));
        let ca: Vec<String> =
            authorities.iter().map(|dir| path(&format!("{dir}/ca.pem"))).collect();
        format!(
            "[client_tls]\nmode = {mode:?}\ncert = {cert:?}\nkey = {key:?}\n\
             [peer_tls]\nmode = {mode:?}\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n"
        )
    }

    /// A client that believes these authorities, with the certificate in these files, if any.
    pub(crate) fn trust(
        &self,
        authorities: &[&str],
        identity: Option<(&Path, &Path)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for dir in authorities {
            let pem = self.path(&format!("{dir}/ca.pem"));
            roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap);
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain.collect(), key).unwrap()
            }
        }
    }

    pub(crate) fn client(&self, authorities: &[&str]) -> reqwest::Client {
        let config = self.trust(authorities, None);
        let builder = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
        builder.pool_idle_timeout(Duration::from_millis(300)).build().unwrap()
    }
}

/// A configuration with other tables for TLS, or with some for the first time.
fn with_tables(config: &str, tables: &str) -> String {
    let end = config.find("[layout]").unwrap();
    let begin = config.find("[client_tls]").unwrap_or(end);
    format!("{}{tables}{}", &config[..begin], &config[end..])
}

/// Sends a request to one node after the other until one takes it, each as it speaks.
async fn send(world: &World, turn: usize, ask: impl Fn(&Node) -> Ask) -> Answer {
    let nodes = world.cluster.all().count();
    for at in 0..nodes {
        let number = 1 + (turn + at) % nodes;
        for scheme in ["https", "http"] {
            let base = format!("{scheme}://{}", world.cluster.client_addr(number));
            match ask(&Node::new(world.http.clone(), base)).try_answer().await {
                Ok(answer) if answer.status == 426 && answer.text().contains("tls_required") => {}
                Ok(answer) if answer.status == 503 && answer.text().contains("not_ready") => {}
                Ok(answer) if answer.status == 503 && answer.text().contains("stopping") => {}
                Ok(answer) => return answer,
                Err(error) if error.is_connect() => {}
                Err(error) => panic!("no answer from n{number} over {scheme}: {error:?}"),
            }
        }
    }
    panic!("no node takes requests");
}

/// A cluster whose nodes show certificates, and its clients.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    http: reqwest::Client,
    stop: AtomicBool,
    answered: AtomicU64,
}

async fn work(world: Arc<World>, client: usize) {
    for turn in 0.. {
        if world.stop.load(Relaxed) {
            return;
        }
        let key = format!("/kv/tls/{client}-{}", turn % 50);
        let value = turn.to_string();
        let put = send(&world, client + turn, |node| {
            node.put(&format!("{key}?return_body=true")).value(value.clone())
        });
        let put = put.await;
        assert!([200, 300].contains(&put.status), "{key}: {} {}", put.status, put.text());
        let get = send(&world, client + turn + 1, |node| node.get(&key)).await;
        assert!([200, 300].contains(&get.status), "{key}: {} {}", get.status, get.text());
        let context = get.header("quorate-context").unwrap_or_default().to_owned();
        let resolved = send(&world, client + turn, |node| {
            node.put(&key).context(Some(&context)).value(value.clone())
        });
        let resolved = resolved.await;
        assert_eq!(resolved.status, 204, "{key}: {}", resolved.text());
        world.answered.fetch_add(3, Relaxed);
    }
}

impl World {
    /// Runs something while clients work, none of whose requests may fail.
    pub(crate) async fn under_load(self: &Arc<Self>, changes: impl AsyncFnOnce()) {
        let mut clients = JoinSet::new();
        (0..CLIENTS).for_each(|client| drop(clients.spawn(work(self.clone(), client))));
        tokio::select! {
            () = changes() => {}
            ended = clients.join_next() => panic!("a client ended: {ended:?}"),
        }
        self.stop.store(true, Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        self.stop.store(false, Relaxed);
        eprintln!("{} requests answered, none failed", self.answered.load(Relaxed));
    }

    /// The node's answer, over TLS if it takes that.
    async fn look(&self, number: usize, path: &str) -> Option<Answer> {
        for scheme in ["https", "http"] {
            let base = format!("{scheme}://{}", self.cluster.client_addr(number));
            let answer = Node::new(self.http.clone(), base).get(path).try_answer().await;
            if let Ok(answer) = answer.map_err(|error| assert!(error.is_connect(), "{error:?}")) {
                return Some(answer);
            }
        }
        None
    }

    /// Waits until a node takes requests and sees all others up.
    async fn is_in(&self, number: usize) {
        eventually(&format!("n{number} is ready and sees all others"), async || {
            let ended = self.cluster.ended(number);
            assert!(ended.is_none(), "n{number} ended: {ended:?}\n{}", self.cluster.log(number));
            let ready = self.look(number, "/readyz").await.filter(|it| it.status == 200)?;
            assert!(ready.text().contains("true"));
            let view = self.look(number, "/cluster").await?.json();
            let nodes = view["nodes"].as_array()?;
            nodes.iter().all(|it| it["state"] == "up" || it["state"] == "self").then_some(())
        })
        .await;
    }

    /// Restarts every node in turn in a mode.
    async fn move_to(&self, ca: &Ca, mode: &str) {
        for number in self.cluster.all() {
            let (status, _) = self.cluster.terminate(number).await;
            assert!(status.success(), "{status}");
            let tables = ca.tables(number, mode, &["ca"]);
            self.cluster
                .configure(number, &with_tables(&self.cluster.configuration(number), &tables));
            self.cluster.launch(number);
            for other in self.cluster.all() {
                self.is_in(other).await;
            }
        }
        eprintln!("all are in mode {mode}");
    }
}

pub(crate) async fn world(ca: &Ca, nodes: usize, mode: &str, authorities: &[&str]) -> Arc<World> {
    // Strict quorums: what was acknowledged is read, whichever node is away.
    let setup = Setup { settings: "[defaults]\nsloppy = false\n", ..Setup::synced(nodes) };
    let cluster = Cluster::start_in(setup, |number, directory| {
        let file = directory.join("node.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, with_tables(&config, &ca.tables(number, mode, &["ca"]))).unwrap();
    });
    let cluster = cluster.await;
    cluster.form();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let world = Arc::new(World { cluster, http: ca.client(authorities), stop, answered });
    for number in 1..=nodes {
        world.is_in(number).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_to_tls_and_back_under_load_without_a_failed_request() {
    let ca = Ca::new(5);
    let world = world(&ca, 5, "off", &["ca"]).await;
    world
        .under_load(async || {
            for mode in ["accept", "require"] {
                world.move_to(&ca, mode).await;
            }
            // In this mode nothing else gets through.
            let addr = world.cluster.client_addr(2);
            let plain = Node::new(world.http.clone(), format!("http://{addr}"));
            let refused = plain.get("/kv/tls/0-0").answer().await;
            assert_eq!(
                (refused.status, refused.header("connection")),
                (426, Some("Upgrade, close"))
            );
            let addr = world.cluster.peer_addr(2);
            let plain = Node::new(world.http.clone(), format!("http://{addr}"));
            assert_eq!(plain.get("/peer").answer().await.status, 426);
            for mode in ["accept", "off"] {
                world.move_to(&ca, mode).await;
            }
        })
        .await;
}

/// First the new authority is trusted beside the old one, then certificates are made anew, then the old one
/// goes. Nothing is restarted but for the lists of authorities.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_the_authority_are_replaced_under_load() {
    let ca = Ca::new(3);
    ca.init("new");
    let world = world(&ca, 3, "require", &["ca", "new"]).await;
    let restart = async |authorities: &[&str]| {
        for number in world.cluster.all() {
            let (status, _) = world.cluster.terminate(number).await;
            assert!(status.success(), "{status}");
            let tables = ca.tables(number, "require", authorities);
            let config = with_tables(&world.cluster.configuration(number), &tables);
            world.cluster.configure(number, &config);
            world.cluster.launch(number);
            world.is_in(number).await;
        }
    };
    let loaded = |number| world.cluster.log(number).matches("loaded a changed certificate").count();
    let renew = async |authority: &str, by_signal: bool| {
        let before: Vec<usize> = world.cluster.all().map(loaded).collect();
        let certs = ["certs/n1.pem", "certs/n2.pem", "certs/n3.pem"];
        ca.run(&[&["renew", "--dir", authority, "--new-key"], &certs[..]].concat());
        for (number, before) in world.cluster.all().zip(before) {
            if by_signal {
                world.cluster.signal(number, "HUP");
            }
            eventually("both ports load it", async || (loaded(number) >= before + 2).then_some(()))
                .await;
        }
    };
    world
        .under_load(async || {
            renew("ca", false).await;
            restart(&["ca", "new"]).await;
            renew("new", true).await;
            // What does not load leaves the old in place.
            let (cert, good) =
                (ca.path("certs/n2.pem"), std::fs::read(ca.path("certs/n2.pem")).unwrap());
            std::fs::write(
                &cert,
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            )
            .unwrap();
            let metric = async |value: &str| {
                let line = format!("quorate_tls_reload_failed{{use=\"peer\"}} {value}\n");
                eventually(&line, async || {
                    world.look(2, "/metrics").await?.text().contains(&line).then_some(())
                })
                .await;
            };
            metric("1").await;
            std::fs::write(&cert, good).unwrap();
            metric("0").await;
            restart(&["new"]).await;
        })
        .await;
    let shown = world.look(1, "/metrics").await.unwrap().text();
    let expiry = shown
        .lines()
        .find(|it| it.starts_with("quorate_certificate_expiry_seconds{use=\"client\"}"));
    let seconds: f64 = expiry.unwrap().split(' ').next_back().unwrap().parse().unwrap();
    assert!((7_600_000.0..7_776_001.0).contains(&seconds), "90 days: {seconds}");
    // The authority that went is not believed any more.
    ca.issue("ca", "n9", "stale");
    let outcome = attack(&ca, &world.cluster, 1, Some(("stale/n9", "n2"))).await;
    assert!(outcome.is_err(), "{outcome:?}");
}

/// Connects to the peer port of a node with the certificate in these files, opens a stream under a name, and
/// returns what comes back.
async fn attack(
    ca: &Ca,
    cluster: &Cluster,
    number: usize,
    identity: Option<(&str, &str)>,
) -> Result<String, String> {
    let files = identity
        .map(|(file, _)| (ca.path(&format!("{file}.pem")), ca.path(&format!("{file}.key"))));
    let shown = files.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let config =
        ca.trust(&["ca", "new"].map(|dir| if ca.path(dir).exists() { dir } else { "ca" }), shown);
    let stream = TcpStream::connect(cluster.peer_addr(number)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = connector.connect(name, stream).await.map_err(failed)?;
    let upgrade =
        "GET /peer HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: quorate-peer\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let from = identity.map_or("n2", |(_, from)| from);
    stream.write_all(&opening(cluster, from, number)).await.map_err(failed)?;
    let mut more = Vec::new();
    // What is refused is closed; an opening that is accepted is answered, and then nothing comes.
    let reading = stream.read_to_end(&mut more);
    drop(tokio::time::timeout(Duration::from_secs(2), reading).await);
    answer.append(&mut more);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The opening of a stream by whoever has the cluster's key, under a name.
fn opening(cluster: &Cluster, from: &str, to: usize) -> Vec<u8> {
    assert!(cluster.is_running(to));
    let who = Who {
        cluster_id: CLUSTER_ID.to_owned(),
        token: PeerKeys::new(&[KEY]).token(),
        from: NodeId::parse(from).unwrap(),
        to: name_of(to),
    };
    let nonce = Some(rand::random());
    Opening { versions: Versions::ALL, who, nonce }.to_bytes().to_vec()
}

impl Ca {
    /// Makes a certificate of n2 that is over, signed by the right authority.
    fn issue_expired(&self, file: &str) {
        let key =
            KeyPair::from_pem(&std::fs::read_to_string(self.path("ca/ca.key")).unwrap()).unwrap();
        let pem = std::fs::read_to_string(self.path("ca/ca.pem")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        params.subject_alt_names = vec![SanType::URI("quorate-node:n2".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&own, &issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), signed.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), own.serialize_pem()).unwrap();
    }
}

/// All of these have the cluster's key, and reach the ports.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_the_right_certificate_gets_nothing() {
    let ca = Ca::new(4);
    let world = world(&ca, 4, "require", &["ca"]).await;
    ca.quorate(&world.cluster, &["layout", "commit", "--remove", "n4", "--yes"]);
    ca.quorate(&world.cluster, &["layout", "wait", "--timeout", "30"]);
    let other = Ca::new(2);
    for file in ["n2.pem", "n2.key"] {
        std::fs::copy(other.path("certs").join(file), ca.path("other-").with_file_name(file))
            .unwrap();
    }
    ca.issue_expired("expired");
    ca.issue("ca", "n9", "more");
    ca.run(&["issue", "--dir", "ca", "--client", "n2", "--out", "clients"]);
    let attempt = async |identity| attack(&ca, &world.cluster, 1, identity).await;
    let good = attempt(Some(("certs/n2", "n2"))).await.unwrap();
    assert!(
        good.starts_with("HTTP/1.1 101") && good.contains("QRHS"),
        "the attack itself works: {good}"
    );
    for (what, identity) in [
        ("no certificate", None),
        ("an expired one", Some(("expired", "n2"))),
        ("one of another authority", Some(("n2", "n2"))),
        ("a client's of the same name", Some(("clients/n2", "n2"))),
    ] {
        let outcome = attempt(identity).await;
        assert!(outcome.as_ref().is_err_and(|why| why.contains("alert")), "{what}: {outcome:?}");
    }
    for (what, identity, why) in [
        ("another node's", ("certs/n2", "n3"), "the certificate is of node n2, not of n3"),
        ("one of no member", ("more/n9", "n9"), "n9 is not a member of this cluster"),
        (
            "one of a node that was removed",
            ("certs/n4", "n4"),
            "n4 is not a member of this cluster",
        ),
        ("one of no member", ("more/n9", "n2"), "the certificate is of node n9, not of n2"),
    ] {
        let outcome = attempt(Some(identity)).await.unwrap();
        assert!(outcome.contains(why) && !outcome.contains("QRHS"), "{what}: {outcome}");
    }
    // Nor is anybody believed who answers at a node's address with another node's certificate.
    let log = world.cluster.log(1);
    assert!(log.contains("a TLS handshake failed"), "{log}");
    let failed = world.look(1, "/metrics").await.unwrap().text();
    let line = "quorate_tls_handshakes_failed_total{use=\"peer\"} 4\n";
    assert!(failed.contains(line), "{failed}");
}
