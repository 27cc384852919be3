//! `quorate backup` of nodes that check tokens: with a token, and with a fresh signature for every request,
//! however long it takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tempfile::TempDir;

use super::{ON, made};
use crate::common::http::Request;
use crate::common::{CLUSTER_ID, Cluster, operator};

/// How long a signature is good for, in milliseconds: five minutes less one for clocks that differ.
const SIGNED_FOR_MS: u64 = 240_000;

fn back_up(url: &str, to: &TempDir, name: &str, token: Option<&str>, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["backup", "--url", url, "--name", name, "--to"]).arg(to.path()).args(more);
    command.env_remove("QUORATE_TOKEN").envs(token.map(|token| ("QUORATE_TOKEN", token)));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A cluster with some data that checks tokens.
fn cluster(nodes: usize) -> Cluster {
    let cluster = Cluster::start_with(nodes, CLUSTER_ID, ON);
    for at in 0..20 {
        let put = Request::put(&format!("/kv/b/k{at}"), vec![7; 10_000]);
        let put = cluster.nodes[0].send(&put.header("Authorization", &operator()));
        assert_eq!(put.status, 204, "{}", put.text());
    }
    cluster
}

#[test]
fn a_token_for_backups_makes_one_and_no_other_does() {
    let (cluster, to) = (cluster(2), TempDir::new().unwrap());
    let url = format!("http://{}", cluster.nodes[0].client_addr);
    let token = |name: &str, actions: &[&str]| {
        let made = made(&cluster.nodes[0], name, &json!([{"actions": actions}]), &json!({}));
        made["token"].as_str().unwrap().to_owned()
    };
    let with = |name: &str, token: Option<&str>| back_up(&url, &to, name, token, &[]);
    for (name, token) in [("none", None), ("weak", Some(token("weak", &["look", "admin:repair"])))]
    {
        let told = with(name, token.as_deref());
        assert!(!told.status.success(), "{}", text(&told));
    }
    let told = with("good", Some(&token("backups", &["look", "admin:backup"])));
    assert!(told.status.success(), "{}", text(&told));
    let left: Vec<_> = std::fs::read_dir(to.path().join("backups")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(!to.path().join("lock.json").exists());
}

#[test]
fn an_operator_signs_every_request_of_a_backup() {
    let (cluster, to) = (cluster(1), TempDir::new().unwrap());
    let signed = Arc::new(Mutex::new(Vec::new()));
    let between = listen_in(cluster.nodes[0].client_addr, signed.clone());
    let config = cluster.nodes[0].config().display().to_string();
    let told = back_up(&format!("http://{between}"), &to, "b1", None, &["--operator", &config]);
    assert!(told.status.success(), "{}", text(&told));
    let signed = signed.lock().unwrap();
    assert!(signed.len() > 5, "{signed:?}");
    for (sent_at, good_until) in signed.iter() {
        // Not signed with the first of them, and not good for longer than the first would be.
        let left = good_until - sent_at;
        assert!((SIGNED_FOR_MS - 1_000..=SIGNED_FOR_MS).contains(&left), "{left}");
    }
    let times: std::collections::BTreeSet<u64> = signed.iter().map(|(_, until)| *until).collect();
    assert!(times.len() > 3, "{times:?}");
}

/// What stands between the command and a node, and notes of each request when it passed, and until when its
/// signature is good.
fn listen_in(to: SocketAddr, signed: Arc<Mutex<Vec<(u64, u64)>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let signed = signed.clone();
            std::thread::spawn(move || {
                let mut node = TcpStream::connect(to).unwrap();
                let (mut back, mut from_node) =
                    (client.try_clone().unwrap(), node.try_clone().unwrap());
                std::thread::spawn(move || drop(std::io::copy(&mut from_node, &mut back)));
                let mut piece = [0; 16 << 10];
                // Requests of this command fit in one piece, and are sent as one.
                while let Ok(length @ 1..) = client.read(&mut piece) {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
                    let text = String::from_utf8_lossy(&piece[..length]);
                    let until = |rest: &str| rest.split_once('.')?.0.parse::<u64>().ok();
                    let until = text.split("Bearer qo_").skip(1).filter_map(until).next();
                    signed.lock().unwrap().extend(until.map(|until| (now as u64, until)));
                    if node.write_all(&piece[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    addr
}
