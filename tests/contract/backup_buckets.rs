//! Buckets as places for backups, as far as it takes no real store: one that ignores the conditions of puts
//! would let two commands work there at once, and is refused.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const NOTHING_LISTED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>b</Name>\
    <KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";
const DELETED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeleteResult>\
    <Deleted><Key>p/lock.json</Key></Deleted></DeleteResult>";

/// What is stored, by path.
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let objects = Objects::default();
    let store = ignorant_store(objects.clone());
    let told = prune(store, &[]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    assert!(text(&told).contains("ignores the condition"), "{}", text(&told));
    assert!(text(&told).contains("AWS_CONDITIONAL_PUT"), "{}", text(&told));
    assert!(objects.lock().unwrap().is_empty(), "the lock is not left there");

    // Unless the operator says so; then a lock that is there counts all the same.
    let disabled = [("AWS_CONDITIONAL_PUT", "disabled")];
    let told = prune(store, &disabled);
    assert!(told.status.success(), "{}", text(&told));
    assert!(text(&told).contains("without conditional puts"), "{}", text(&told));
    assert!(objects.lock().unwrap().is_empty());
    let held = br#"{"what":"backup x","since":"noon","host":"other","process":7}"#;
    objects.lock().unwrap().insert("/bucket/p/lock.json".to_owned(), held.to_vec());
    let told = prune(store, &disabled);
    assert!(text(&told).contains("backup x (process 7 on other"), "{}", text(&told));
    assert_eq!(objects.lock().unwrap().len(), 1);
}

#[test]
fn plain_http_must_be_allowed() {
    let told = prune(SocketAddr::from(([127, 0, 0, 1], 1)), &[("AWS_ALLOW_HTTP", "false")]);
    assert_eq!(told.status.code(), Some(2), "{}", text(&told));
    assert!(text(&told).contains("AWS_ALLOW_HTTP=true"), "{}", text(&told));
}

fn prune(store: SocketAddr, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("AWS_") || name.starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(["backup", "prune", "--keep", "1", "--to", "s3://bucket/p"]);
    command.env("AWS_ENDPOINT_URL", format!("http://{store}")).env("AWS_ALLOW_HTTP", "true");
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    command.envs(more.iter().copied()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A store of objects that takes every put, whatever its condition, and lists nothing.
fn ignorant_store(objects: Objects) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = objects.clone();
            std::thread::spawn(move || drop(serve(&stream, &objects)));
        }
    });
    addr
}

fn serve(stream: &TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, answer) = answer(objects, &method, &target, body);
        let head = format!(
            "HTTP/1.1 {status} X\r\nETag: \"e\"\r\nLast-Modified: Sun, 29 Nov 2026 10:00:00 GMT\r\n\
             Content-Length: {}\r\n\r\n",
            answer.len()
        );
        let mut stream = stream;
        stream.write_all(&[head.as_bytes(), &answer].concat())?;
    }
}

fn answer(objects: &Objects, method: &str, target: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let mut objects = objects.lock().unwrap();
    match (method, target.contains('?')) {
        ("PUT", _) => {
            objects.insert(target.to_owned(), body);
            (200, Vec::new())
        }
        ("POST", _) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            objects.retain(|path, _| !body.contains(path.trim_start_matches("/bucket/")));
            (200, DELETED.into())
        }
        (_, true) => (200, NOTHING_LISTED.into()),
        (_, false) => match objects.get(target) {
            Some(object) => (200, object.clone()),
            None => (404, Vec::new()),
        },
    }
}
