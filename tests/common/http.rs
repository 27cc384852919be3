//! A tiny HTTP client over a raw socket: it can also send malformed requests.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long one read or write of the socket may take.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// A well-formed request, built step by step.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn put(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", path).body(body)
    }

    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// A POST or PUT of JSON.
    pub fn json(method: &str, path: &str, body: &str) -> Self {
        Self::new(method, path).header("Content-Type", "application/json").body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn context(self, context: &str) -> Self {
        self.header("Quorate-Context", context)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn send(&self, to: SocketAddr) -> Answer {
        self.try_send(to).unwrap_or_else(|| panic!("no answer to {} {}", self.method, self.path))
    }

    /// The answer, if there is one.
    pub fn try_send(&self, to: SocketAddr) -> Option<Answer> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nHost: {to}\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.body.is_some() {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"Connection: close\r\n\r\n");
        bytes.extend_from_slice(body);
        let mut raw = Raw::try_connect(to)?;
        raw.send(&bytes);
        raw.answer_to(&self.method)
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `Quorate-Context`.
    ///
    /// # Panics
    /// If there is none.
    pub fn context(&self) -> &str {
        self.header("quorate-context").unwrap_or_else(|| panic!("no context in {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Asserts that this is a problem with this status and name, and returns its detail.
    pub fn assert_problem(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:quorate:problem:{name}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// A connection on which arbitrary bytes can be sent.
pub struct Raw(TcpStream);

impl Raw {
    pub fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to).unwrap()
    }

    fn try_connect(to: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&to, SOCKET_TIMEOUT).ok()?;
        stream.set_read_timeout(Some(SOCKET_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(SOCKET_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Self(stream))
    }

    /// Sends bytes. A node that has already closed its end is not an error: it answered before.
    pub fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes));
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        drop(self.0.shutdown(Shutdown::Write));
    }

    /// The next answer; `None` if the connection ends before one is complete.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more(&mut bytes) {
                return None;
            }
        };
        let (status, headers) = parse_head(&bytes[..head_end])?;
        let mut answer = Answer { status, headers, body: bytes.split_off(head_end) };
        let without_body = method == "HEAD" || status == 204 || status == 304;
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        let length = if without_body { 0 } else { length.unwrap_or(0) };
        while answer.body.len() < length {
            if !self.read_more(&mut answer.body) {
                return None;
            }
        }
        Some(answer)
    }

    /// Whether the other end closes the connection without (another) answer.
    pub fn is_closed(&mut self) -> bool {
        let mut bytes = Vec::new();
        !self.read_more(&mut bytes)
    }

    /// The next bytes, so many; `None` if the connection ends before.
    pub fn read_exact(&mut self, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// What comes next up to and with this text. Panics if the connection ends before.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(text.as_bytes()) {
            let next = self.read_exact(1);
            bytes.extend(next.expect("the text comes before the connection ends"));
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Whether what comes next is the end of a chunked body, or of the connection.
    pub fn ends(&mut self) -> bool {
        let mut bytes = Vec::new();
        !self.read_more(&mut bytes) || bytes.ends_with(b"0\r\n\r\n")
    }

    fn read_more(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut chunk = [0; 64 << 10];
        loop {
            match self.0.read(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => {
                    bytes.extend_from_slice(&chunk[..read]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("the node said nothing for {SOCKET_TIMEOUT:?}")
                }
                Err(_) => return false,
            }
        }
    }
}

fn parse_head(head: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some((status, lines.filter_map(header).collect()))
}
