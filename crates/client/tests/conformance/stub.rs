//! A server that answers what a case says, in order, and keeps what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cases::{bytes, only};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Decoded.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct State {
    next: usize,
    asked: Vec<Asked>,
}

/// The server.
pub(crate) struct Stub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Stub {
    pub(crate) async fn start(answers: Vec<Json>) -> Result<Self, String> {
        let answers = answers.iter().map(Answer::of).collect::<Result<Vec<_>, String>>()?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (state, answers) = (Arc::<Mutex<State>>::default(), Arc::new(answers));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, answers) = (shared.clone(), answers.clone());
                tokio::spawn(async move { drop(serve(client, &state, &answers).await) });
            }
        });
        Ok(Self { url, state })
    }

    /// The requests since this was last called.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

/// What is sent.
struct Answer {
    /// None: the connection is closed.
    bytes: Option<Vec<u8>>,
    delay: Duration,
}

impl Answer {
    fn of(answer: &Json) -> Result<Self, String> {
        let answer = answer.as_object().ok_or("an answer is a map")?;
        only(
            answer,
            &["status", "headers", "body", "json", "problem", "missing_bytes", "delay_ms"],
        )?;
        let number = |name: &str| answer.get(name).and_then(Json::as_u64).unwrap_or(0);
        let delay = Duration::from_millis(number("delay_ms"));
        let Some(status) = answer.get("status").and_then(Json::as_u64) else {
            return Ok(Self { bytes: None, delay });
        };
        let mut headers =
            answer.get("headers").and_then(Json::as_object).cloned().unwrap_or_default();
        let body = body(answer, &mut headers)?;
        let length = body.len() as u64 + number("missing_bytes");
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in &headers {
            head += &format!("{name}: {}\r\n", value.as_str().ok_or("a header is text")?);
        }
        if status != 204 {
            head += &format!("Content-Length: {length}\r\n");
        }
        head += "Connection: close\r\n\r\n";
        Ok(Self { bytes: Some([head.into_bytes(), body].concat()), delay })
    }
}

fn body(answer: &Map<String, Json>, headers: &mut Map<String, Json>) -> Result<Vec<u8>, String> {
    if let Some(problem) = answer.get("problem") {
        let mut problem = problem.clone();
        let name = problem["type"].as_str().ok_or("a problem has a type")?.to_owned();
        problem["type"] = json!(format!("urn:quorate:problem:{name}"));
        headers.insert("Content-Type".to_owned(), json!("application/problem+json"));
        return Ok(problem.to_string().into_bytes());
    }
    match (answer.get("json"), answer.get("body")) {
        (Some(json), _) => Ok(json.to_string().into_bytes()),
        (None, Some(body)) => bytes(body),
        (None, None) => Ok(Vec::new()),
    }
}

async fn serve(
    mut client: TcpStream,
    state: &Mutex<State>,
    answers: &[Answer],
) -> std::io::Result<()> {
    let Some(asked) = request(&mut client).await? else { return Ok(()) };
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked);
        let at = state.next.min(answers.len() - 1);
        state.next += 1;
        &answers[at]
    };
    tokio::time::sleep(answer.delay).await;
    if let Some(bytes) = &answer.bytes {
        client.write_all(bytes).await?;
    }
    client.shutdown().await
}

async fn request(client: &mut TcpStream) -> std::io::Result<Option<Asked>> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if client.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = read.split_off(end + 4);
    // As text, each byte that is no UTF-8 would be lost; headers here are UTF-8.
    let head = String::from_utf8_lossy(&read).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: BTreeMap<String, String> = lines.filter_map(pair).collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    let query = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
    Ok(Some(Asked { method: method.to_owned(), path: decoded(path), query, headers, body }))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
