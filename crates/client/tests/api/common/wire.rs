//! What stands between a client and a node: a proxy that cuts connections, and a stub that answers what
//! no node does.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy before a node. It can drop answers: the node does what was asked, and the client does not hear
/// of it.
pub(crate) struct Proxy {
    pub(crate) url: String,
    /// How many answers are still to be dropped.
    pub(crate) drops: Arc<AtomicUsize>,
}

impl Proxy {
    /// Before the node at this URL; the first `drops` answers are lost.
    pub(crate) async fn start(url: &str, drops: usize) -> Self {
        let to = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let drops = Arc::new(AtomicUsize::new(drops));
        let left = drops.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, left) = (to.clone(), left.clone());
                tokio::spawn(async move { drop(pass(client, &to, &left).await) });
            }
        });
        Self { url, drops }
    }
}

async fn pass(mut client: TcpStream, to: &str, left: &AtomicUsize) -> std::io::Result<()> {
    let mut node = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_node, mut to_node) = node.split();
    let forth = tokio::io::copy(&mut from_client, &mut to_node);
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from_node.read(&mut buffer).await?;
            let one_less = |left: usize| left.checked_sub(1);
            if length == 0 || left.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
                return Ok::<(), std::io::Error>(());
            }
            to_client.write_all(&buffer[..length]).await?;
        }
    };
    // Both connections close with whichever of them ends.
    tokio::select! {
        ended = forth => drop(ended?),
        ended = back => ended?,
    }
    Ok(())
}

/// A server that answers every request with the same bytes, whatever they are, and closes.
pub(crate) struct Stub {
    pub(crate) url: String,
    /// How many requests it got.
    pub(crate) asked: Arc<AtomicUsize>,
    /// The head of the last of them, in lower case.
    pub(crate) head: Arc<Mutex<String>>,
}

impl Stub {
    /// Answers with this head (without the last empty line) and body.
    pub(crate) async fn start(head: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").into_bytes();
        answer.extend(body.into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let stub = Self { url, asked, head: Arc::default() };
        let heard = (stub.asked.clone(), stub.head.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (counted, head, answer) = heard.clone();
                tokio::spawn(async move {
                    drop(answer_one(client, &counted, &head, &answer).await);
                });
            }
        });
        stub
    }

    /// Answers with a problem of this name and these further members.
    pub(crate) async fn problem(status: u16, name: &str, members: &str) -> Self {
        let body = format!(
            "{{\"type\":\"urn:quorate:problem:{name}\",\"title\":\"t\",\"status\":{status},\
             \"detail\":\"d\"{members}}}"
        );
        let length = body.len();
        let head = format!(
            "{status} X\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
             retry-after: 1\r\nx-request-id: 0123456789abcdef"
        );
        Self::start(&head, body).await
    }
}

async fn answer_one(
    mut client: TcpStream,
    counted: &AtomicUsize,
    last: &Mutex<String>,
    answer: &[u8],
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    // What a client looks at by itself is not counted.
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_asked = |of: &[u8]| line.starts_with(of);
    if line.windows(4).any(|part| part == b"/kv/")
        || is_asked(b"POST /batch")
        || is_asked(b"GET /feed/")
    {
        *last.lock().unwrap() = String::from_utf8_lossy(&head).to_ascii_lowercase();
        counted.fetch_add(1, Relaxed);
    }
    client.write_all(answer).await?;
    client.shutdown().await
}
