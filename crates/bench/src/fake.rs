//! A fake node for tests: it answers each request with the next of its scripted raw answers, piece
//! by piece, and records the requests.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http::Node;

#[derive(Default)]
struct Script {
    answers: VecDeque<Vec<String>>,
    requests: Vec<String>,
    connections: usize,
    silent: bool,
}

/// The fake node; it stops listening when dropped.
pub(crate) struct Server {
    node: Node,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers the first request with the pieces of `answers[0]`, and so on. At the end of the
    /// script, or when an answer says or implies it, the connection is closed.
    pub(crate) async fn start(answers: Vec<Vec<String>>) -> Self {
        Self::with(Script { answers: answers.into(), ..Script::default() }).await
    }

    /// Accepts connections and never answers.
    pub(crate) async fn silent() -> Self {
        Self::with(Script { silent: true, ..Script::default() }).await
    }

    async fn with(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let task = tokio::spawn(accept(listener, script.clone()));
        Server { node: Node { name: addr.to_string(), addr, secure: None }, script, task }
    }

    pub(crate) fn node(&self) -> Node {
        self.node.clone()
    }

    /// Every request so far, head and body as text.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.script.lock().unwrap().requests.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.script.lock().unwrap().connections
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        script.lock().unwrap().connections += 1;
        // One connection at a time: scripts have one client.
        serve(stream, &script).await;
    }
}

async fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    while let Some(request) = read_request(&mut stream).await {
        let (answer, silent) = {
            let mut script = script.lock().unwrap();
            script.requests.push(request);
            (script.answers.pop_front(), script.silent)
        };
        if silent {
            std::future::pending::<()>().await;
        }
        let Some(pieces) = answer else { return };
        for piece in &pieces {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
            // Lets the reader see this piece alone.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        let all = pieces.concat();
        let lower = all.to_ascii_lowercase();
        let whole = lower.contains("content-length: 0") || lower.starts_with("http/1.1 204");
        if lower.contains("connection: close") || !whole && !all.ends_with("\n\n") {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |it| it.parse().unwrap()) {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    }
}
