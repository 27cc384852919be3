//! A small HTTP/1.1 client: one keep-alive connection to one node, one request at a time, reused
//! buffers, `TCP_NODELAY`.
//!
//! Why not reqwest: the generator shares its cores with the nodes it measures, so every microsecond
//! it spends is one that they do not get. It does not trust what it reads: head and body have
//! limits, and what does not parse is a named error. Source: RFC 9112.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::head::{Framing, Head, HeaderRanges, parse_head};
use crate::wire::{Secure, Stream};

/// The longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest chunk-size line or trailer section of a chunked answer, in bytes.
const CHUNK_HEAD_BYTES_MAX: usize = 16 * 1024;
/// A body up to this many bytes goes out in one write with its head.
const ONE_WRITE_BYTES_MAX: usize = 32 * 1024;
/// A buffer that grew past this for one large answer is freed before the next request.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;

/// One node: the name the user gave, its address, and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// `host:port`, for the `Host` header and for messages.
    pub(crate) name: String,
    /// The address that the name resolved to.
    pub(crate) addr: SocketAddr,
    /// For TLS; without it, plain HTTP is spoken.
    pub(crate) secure: Option<Secure>,
}

impl Node {
    /// Its URL, by address.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }
}

/// A request. The path must already be encoded (see [`crate::path`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    /// Names and values, without line breaks. `Host` and `Content-Length` are added.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// An answer, borrowed from the client's buffers until its next request.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    head: &'a [u8],
    headers: &'a [HeaderRanges],
}

impl<'a> Response<'a> {
    /// The first header of this name (in any case) whose value is UTF-8.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.headers.iter().find(|(field, _)| {
            self.head.get(field.clone()).is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()))
        })?;
        std::str::from_utf8(self.head.get(value.clone())?).ok()
    }
}

/// Why there is no answer. The request may or may not have been applied, except for `Connect`,
/// where it certainly was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing listens there, or it cannot be reached: ask another node.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection before the answer was complete.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is not HTTP/1.1.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// The answer is over a limit of this client.
    #[error("the answer's {what} is over the limit of {limit} bytes")]
    TooLarge { what: &'static str, limit: usize },
}

impl Error {
    /// A short name to count by.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Error::Connect(_) => "connect",
            Error::Io(_) => "broken",
            Error::Closed => "closed",
            Error::Timeout(_) => "timeout",
            Error::Malformed(_) => "malformed",
            Error::TooLarge { .. } => "too-large",
        }
    }
}

/// Where the body of the last answer is.
#[derive(Debug)]
enum Body {
    /// In the input buffer, as received.
    Input(Range<usize>),
    /// In the buffer for decoded chunks.
    Decoded,
}

/// A client of one node. It connects at the first request and again after each failure.
#[derive(Debug)]
pub(crate) struct Client {
    node: Node,
    timeout: Duration,
    body_bytes_max: usize,
    stream: Option<Stream>,
    output: Vec<u8>,
    input: Vec<u8>,
    decoded: Vec<u8>,
    headers: Vec<HeaderRanges>,
}

impl Client {
    /// A client that is not connected yet. `timeout` bounds a whole exchange, including connecting.
    pub(crate) fn new(node: Node, timeout: Duration, body_bytes_max: usize) -> Self {
        Client {
            node,
            timeout,
            body_bytes_max,
            stream: None,
            output: Vec::new(),
            input: Vec::new(),
            decoded: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Sends one request and reads its whole answer.
    ///
    /// # Errors
    /// Every [`Error`]; the connection is then closed, and the next request opens a new one. An
    /// answer of any status is not an error.
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Response<'_>, Error> {
        let timeout = self.timeout;
        let (head, body) = tokio::time::timeout(timeout, self.exchange(request))
            .await
            .map_err(|_| Error::Timeout(timeout))??;
        let body = match body {
            Body::Input(range) => self.input.get(range).unwrap_or_default(),
            Body::Decoded => &self.decoded,
        };
        Ok(Response { status: head.status, body, head: &self.input, headers: &self.headers })
    }

    /// The stream is taken out for the exchange and put back only after a clean end, so that an
    /// error, a timeout or a dropped future never leaves half an answer to the next request.
    async fn exchange(&mut self, request: &Request<'_>) -> Result<(Head, Body), Error> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::connect(&self.node).await.map_err(Error::Connect)?,
        };
        self.give_back_large_buffers();
        let wrote = self.write(&mut stream, request).await;
        // A server may refuse a large body before it has read all of it: then writing fails, but
        // there is an answer to read.
        let (head, body) = match (self.read(&mut stream, request.method).await, &wrote) {
            (Ok(answer), _) => answer,
            (Err(error), Ok(())) => return Err(error),
            (Err(_), Err(_)) => return wrote.and(Err(Error::Closed)),
        };
        if head.keep_alive && wrote.is_ok() {
            self.stream = Some(stream);
        }
        Ok((head, body))
    }

    fn give_back_large_buffers(&mut self) {
        for buffer in [&mut self.output, &mut self.input, &mut self.decoded] {
            buffer.clear();
            buffer.shrink_to(BUFFER_KEPT_BYTES);
        }
    }

    async fn write(&mut self, stream: &mut Stream, request: &Request<'_>) -> Result<(), Error> {
        use std::io::Write;
        let out = &mut self.output;
        write!(
            out,
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            request.method, request.path, self.node.name
        )?;
        for (name, value) in request.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if !request.body.is_empty() || matches!(request.method, "PUT" | "POST") {
            write!(out, "Content-Length: {}\r\n", request.body.len())?;
        }
        out.extend_from_slice(b"\r\n");
        if request.body.len() <= ONE_WRITE_BYTES_MAX {
            out.extend_from_slice(request.body);
            stream.write_all(out).await?;
        } else {
            stream.write_all(out).await?;
            stream.write_all(request.body).await?;
        }
        Ok(())
    }

    async fn read(&mut self, stream: &mut Stream, method: &str) -> Result<(Head, Body), Error> {
        let mut head = loop {
            match parse_head(&self.input, &mut self.headers, method)? {
                Some(head) if head.status < 200 => {
                    self.input.drain(..head.bytes);
                }
                Some(head) => break head,
                None if self.input.len() > HEAD_BYTES_MAX => {
                    return Err(Error::TooLarge { what: "head", limit: HEAD_BYTES_MAX });
                }
                None => self.fill(stream, 1).await?,
            }
        };
        let start = head.bytes;
        let (body, end) = match head.framing {
            Framing::Length(length) => {
                self.check_body_length(length)?;
                let end = start + length;
                while self.input.len() < end {
                    self.fill(stream, end - self.input.len()).await?;
                }
                (Body::Input(start..end), end)
            }
            Framing::Chunked => (Body::Decoded, self.read_chunks(stream, start).await?),
            Framing::UntilClose => {
                self.read_until_close(stream, start).await?;
                (Body::Input(start..self.input.len()), self.input.len())
            }
        };
        // Bytes after this answer belong to no request: the connection is out of step.
        head.keep_alive &= end == self.input.len();
        Ok((head, body))
    }

    /// Decodes a chunked body from `at` in the input, and returns where it ended.
    async fn read_chunks(&mut self, stream: &mut Stream, start: usize) -> Result<usize, Error> {
        let mut at = start;
        loop {
            let (skip, size) = loop {
                let line = self.input.get(at..).unwrap_or_default();
                match httparse::parse_chunk_size(line) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if line.len() > CHUNK_HEAD_BYTES_MAX => {
                        let limit = CHUNK_HEAD_BYTES_MAX;
                        return Err(Error::TooLarge { what: "chunk head", limit });
                    }
                    Ok(httparse::Status::Partial) => self.fill(stream, 1).await?,
                    Err(_) => return Err(Error::Malformed("chunk size")),
                }
            };
            at += skip;
            if size == 0 {
                return self.skip_trailers(stream, at).await;
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            self.check_body_length(self.decoded.len().saturating_add(size))?;
            let end = at + size;
            while self.input.len() < end + 2 {
                self.fill(stream, end + 2 - self.input.len()).await?;
            }
            if self.input.get(end..end + 2) != Some(b"\r\n") {
                return Err(Error::Malformed("chunk end"));
            }
            self.decoded.extend_from_slice(self.input.get(at..end).unwrap_or_default());
            at = end + 2;
        }
    }

    /// Skips the lines after the last chunk, including the empty one, and returns where they ended.
    async fn skip_trailers(&mut self, stream: &mut Stream, start: usize) -> Result<usize, Error> {
        let mut at = start;
        loop {
            let rest = self.input.get(at..).unwrap_or_default();
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(length) => {
                    let empty = matches!(rest.get(..length), Some(b"" | b"\r"));
                    at += length + 1;
                    if empty {
                        return Ok(at);
                    }
                }
                None if self.input.len() - start > CHUNK_HEAD_BYTES_MAX => {
                    let limit = CHUNK_HEAD_BYTES_MAX;
                    return Err(Error::TooLarge { what: "trailers", limit });
                }
                None => self.fill(stream, 1).await?,
            }
        }
    }

    async fn read_until_close(&mut self, stream: &mut Stream, start: usize) -> Result<(), Error> {
        loop {
            match self.fill(stream, 1).await {
                Ok(()) => self.check_body_length(self.input.len() - start)?,
                Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn check_body_length(&self, length: usize) -> Result<(), Error> {
        if length > self.body_bytes_max {
            return Err(Error::TooLarge { what: "body", limit: self.body_bytes_max });
        }
        Ok(())
    }

    /// Reads what is available into the input; `wanted` only sizes the buffer.
    async fn fill(&mut self, stream: &mut Stream, wanted: usize) -> Result<(), Error> {
        self.input.reserve(wanted.max(4096));
        match stream.read_buf(&mut self.input).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fake::Server;

    const GET: Request<'static> = Request { method: "GET", path: "/", headers: &[], body: b"" };

    fn client(server: &Server) -> Client {
        Client::new(server.node(), Duration::from_secs(5), 1 << 20)
    }

    /// The status, body and `X` header parsed from a raw answer that arrives in pieces.
    async fn read(pieces: &[&str]) -> Result<(u16, String, Option<String>), Error> {
        let server = Server::start(vec![pieces.iter().map(|it| it.to_string()).collect()]).await;
        let mut client = client(&server);
        let answer = client.send(&GET).await?;
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        Ok((answer.status, body, answer.header("x").map(str::to_string)))
    }

    #[tokio::test]
    async fn reads_a_body_of_known_length_in_any_pieces() {
        let pieces = ["HTTP/1.1 200 OK\r\nX: a", "b\r\ncontent-le", "ngth: 5\r\n\r", "\nhe", "llo"];
        assert_eq!(read(&pieces).await.unwrap(), (200, "hello".into(), Some("ab".into())));
    }

    #[tokio::test]
    async fn reads_a_chunked_body_with_extensions_and_trailers() {
        let pieces = [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "4;a=b\r\nWi",
            "ki\r\n5\r\npedia\r\n0\r\nT: 1\r\n\r",
            "\n",
        ];
        assert_eq!(read(&pieces).await.unwrap(), (200, "Wikipedia".into(), None));
    }

    #[tokio::test]
    async fn reads_until_close_and_skips_interim_answers() {
        let raw = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\ngone";
        assert_eq!(read(&[raw]).await.unwrap(), (404, "gone".into(), None));
    }

    #[tokio::test]
    async fn an_answer_cut_off_is_an_error() {
        let cut = [
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n",
            "HTTP/1.1 200",
            "",
        ];
        for raw in cut {
            assert!(matches!(read(&[raw]).await, Err(Error::Closed)), "{raw:?}");
        }
    }

    #[tokio::test]
    async fn garbage_is_named() {
        let garbage = [
            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ];
        for raw in garbage {
            assert!(matches!(read(&[raw]).await, Err(Error::Malformed(_))), "{raw:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_over_a_limit_is_refused() {
        let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n";
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_BYTES_MAX + 1));
        for raw in [chunk, length, &head] {
            assert!(matches!(read(&[raw]).await, Err(Error::TooLarge { .. })), "{raw:.60}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_made_again_after_a_close() {
        let ok = "HTTP/1.1 204 No Content\r\n\r\n".to_string();
        let close = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_string();
        let server = Server::start(vec![vec![ok.clone()], vec![close], vec![ok]]).await;
        let mut client = client(&server);
        for _ in 0..3 {
            assert_eq!(client.send(&GET).await.unwrap().status, 204);
        }
        assert_eq!(server.connections(), 2);
        assert_eq!(server.requests().len(), 3);
    }

    #[tokio::test]
    async fn a_request_is_written_with_its_length_and_headers() {
        let answers = vec![vec!["HTTP/1.1 204 No Content\r\n\r\n".to_string()]];
        let server = Server::start(answers).await;
        let headers = [("Content-Type", "text/plain")];
        let put = Request { method: "PUT", path: "/kv/a/b", headers: &headers, body: b"" };
        client(&server).send(&put).await.unwrap();
        let seen = server.requests().remove(0);
        assert!(seen.starts_with("PUT /kv/a/b HTTP/1.1\r\nHost: 127.0.0.1:"), "{seen}");
        assert!(seen.contains("Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn silence_is_a_timeout_and_a_closed_port_is_named() {
        let server = Server::silent().await;
        let mut client = Client::new(server.node(), Duration::from_millis(20), 1024);
        assert!(matches!(client.send(&GET).await, Err(Error::Timeout(_))));
        let node = server.node();
        drop(server);
        let mut client = Client::new(node, Duration::from_secs(5), 1024);
        assert_eq!(client.send(&GET).await.unwrap_err().kind(), "connect");
    }
}
