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

/// What the server was asked, as expectations see it.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The requests since the last step.
    pub(crate) sent: Vec<Asked>,
    /// How often `GET /cluster` was asked since the case began.
    pub(crate) looks: usize,
}

#[derive(Default)]
struct State {
    next: usize,
    looks: usize,
    asked: Vec<Asked>,
}

/// The server.
pub(crate) struct Stub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Stub {
    /// Answers from the script, and `GET /cluster` from `looks`, if there are any.
    pub(crate) async fn start(answers: Vec<Json>, looks: Vec<Json>) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let url = format!("http://{host}");
        let scripts = Scripts::of(&answers, &looks, &host)?;
        let (state, answers) = (Arc::<Mutex<State>>::default(), Arc::new(scripts));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, answers) = (shared.clone(), answers.clone());
                tokio::spawn(async move { drop(serve(client, &state, &answers).await) });
            }
        });
        Ok(Self { url, state })
    }

    /// How often `GET /cluster` was asked.
    pub(crate) fn looks(&self) -> usize {
        self.state.lock().unwrap().looks
    }

    /// The requests since this was last called.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

/// What the server answers: the last of each list is repeated.
struct Scripts {
    answers: Vec<Answer>,
    looks: Vec<Answer>,
    none: Answer,
}

impl Scripts {
    fn of(answers: &[Json], looks: &[Json], host: &str) -> Result<Self, String> {
        let all = |list: &[Json]| {
            list.iter().map(|it| Answer::of(it, host)).collect::<Result<Vec<_>, _>>()
        };
        let none = json!({"status": 404, "problem": {"type": "no_such_route", "status": 404}});
        Ok(Self { answers: all(answers)?, looks: all(looks)?, none: Answer::of(&none, host)? })
    }

    /// The answer to a request. What clients ask to find nodes and ring is answered apart.
    fn next(&self, state: &mut State, asked: Asked) -> &Answer {
        let looks = !self.looks.is_empty();
        match asked.path.as_str() {
            "/cluster" if looks => {
                state.looks += 1;
                &self.looks[state.looks.min(self.looks.len()) - 1]
            }
            "/ring/partitions" | "/buckets" if looks => &self.none,
            _ => {
                state.asked.push(asked);
                state.next += 1;
                &self.answers[state.next.min(self.answers.len()) - 1]
            }
        }
    }
}

/// What is sent.
struct Answer {
    /// None: the connection is closed.
    bytes: Option<Vec<u8>>,
    delay: Duration,
}

impl Answer {
    /// An answer, in whose JSON `STUB` is this host.
    fn of(answer: &Json, host: &str) -> Result<Self, String> {
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
        let body = body(answer, &mut headers, host)?;
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

fn body(
    answer: &Map<String, Json>,
    headers: &mut Map<String, Json>,
    host: &str,
) -> Result<Vec<u8>, String> {
    if let Some(problem) = answer.get("problem") {
        let mut problem = problem.clone();
        let name = problem["type"].as_str().ok_or("a problem has a type")?.to_owned();
        problem["type"] = json!(format!("urn:quorate:problem:{name}"));
        headers.insert("Content-Type".to_owned(), json!("application/problem+json"));
        return Ok(problem.to_string().into_bytes());
    }
    match (answer.get("json"), answer.get("body")) {
        (Some(json), _) => {
            Ok(json.to_string().replace("\"STUB\"", &json!(host).to_string()).into_bytes())
        }
        (None, Some(body)) => bytes(body),
        (None, None) => Ok(Vec::new()),
    }
}

async fn serve(
    mut client: TcpStream,
    state: &Mutex<State>,
    scripts: &Scripts,
) -> std::io::Result<()> {
    let Some(asked) = request(&mut client).await? else { return Ok(()) };
    let answer = scripts.next(&mut state.lock().unwrap(), asked);
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
