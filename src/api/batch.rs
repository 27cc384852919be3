//! `POST /batch`: many operations in one request.
//!
//! Each operation is a request of its own, which passes the same gate and the same handler as if it had
//! come alone: what it is allowed, its quorum, its place among the operations in flight, its pace, its line
//! in the audit log. They run side by side, in no order, and nothing holds them together: some may fail.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::access::Arrival;
use super::gate::Gate;
use super::headers::{
    ACKS, CONTEXT, EXPIRED, EXPIRES_AT, EXPIRES_IN, HINTS, IDEMPOTENCY_KEY, META_PREFIX, SIBLINGS,
};
use super::problem::{Kind, Problem};
use super::route::{Answer, Route, Shared};
use super::{body, counted, index_entries, permit_body, represent, routes, write};

/// The most operations of one batch.
const OPERATIONS_MAX: usize = 1000;
/// The longest batch, in bytes of JSON, and the most bytes that the answers to its reads may have.
const JSON_BYTES_MAX: usize = 8 << 20;
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// How many operations of one batch run at a time.
const AT_ONCE: usize = 32;

/// What is encoded in a path: all but the unreserved characters (RFC 3986, 2.3).
const IN_A_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request within this one needs to pass the gate.
#[derive(Clone)]
pub(super) struct Within {
    pub(super) shared: Shared,
    pub(super) arrival: Arrival,
}

/// `POST /batch`: up to 1,000 operations, each with its own result, in the order in which they were given.
pub(super) async fn run(gate: Gate, request: Request) -> Answer {
    let (mut parts, mut body) = request.into_parts();
    let within = parts.extensions.remove::<Within>();
    let read = gate.document(&parts, &mut body, JSON_BYTES_MAX).await;
    let answer = read.and_then(|(text, mut pass)| {
        pass.permit.add_bytes(text.len())?; // for its content, which is no longer than the text
        let Document { operations } = body::parse_json(&text)?;
        if operations.len() > OPERATIONS_MAX {
            let detail = format!("a batch may have at most {OPERATIONS_MAX} operations");
            return Err(Problem::new(Kind::TooLarge, detail).fact("max", OPERATIONS_MAX));
        }
        let within = within.ok_or_else(|| Problem::new(Kind::Internal, "the batch has no gate"))?;
        Ok((operations, within, pass))
    });
    let (operations, within, mut pass) = match answer {
        Ok(ready) => ready,
        Err(problem) => return write::end(Err(problem), &parts, &mut body).await,
    };
    let query = parts.uri.query().unwrap_or_default();
    let token = parts.headers.get(AUTHORIZATION);
    let one = |item| carry_out(&within, query, token, item);
    let mut answers = stream::iter(operations).map(one).buffered(AT_ONCE);
    let (mut results, mut bytes_left) = (Vec::new(), ANSWER_BYTES_MAX);
    while let Some(response) = answers.next().await {
        let has_room = |bytes: usize| bytes <= bytes_left && pass.permit.add_bytes(bytes).is_ok();
        let (result, bytes) = result_of(response, has_room).await;
        bytes_left -= bytes;
        results.push(result);
    }
    let response = represent::json(&json!({"results": results}));
    Ok(permit_body::until_sent(response, &gate.node.admission, pass.permit))
}

/// A batch as a client sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) operations: Vec<Item>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Get,
    Put,
    Delete,
    /// An operation on a typed value.
    Change,
}

/// One operation. What it says in addition is what the request alone says in headers and body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    op: Op,
    bucket: String,
    key: String,
    value: Option<String>,
    /// `base64` if `value` is encoded.
    encoding: Option<String>,
    content_type: Option<String>,
    /// Of `change`.
    operation: Option<Value>,
    context: Option<String>,
    idempotency_key: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    expires_in: Option<ExpiresIn>,
    /// Of `put`: one value or several for each index.
    index: Option<Map<String, Value>>,
}

/// How long a value lives.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ExpiresIn {
    Seconds(u64),
    /// `never`.
    Text(String),
}

impl ExpiresIn {
    fn text(&self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Carries out one operation as the request that it stands for.
async fn carry_out(
    within: &Within,
    query: &str,
    token: Option<&HeaderValue>,
    item: Item,
) -> Response {
    let Within { shared, arrival } = within;
    let route = item.route();
    let mut request = match item.into_request(route, query) {
        Ok(request) => request,
        Err(problem) => return problem.nothing_written().into_response(),
    };
    if let Some(token) = token {
        request.headers_mut().insert(AUTHORIZATION, token.clone());
    }
    let arrival = Arrival { at: Instant::now(), ..arrival.clone() };
    let response = route.answer(shared, &arrival, request, route.handler).await;
    let (operation, outcome) = (route.counted, counted::outcome(&response));
    shared.node.metrics.requests.answered(operation, outcome, arrival.at.elapsed());
    response
}

impl Item {
    /// The route of the request that it stands for.
    pub(super) fn route(&self) -> &'static Route {
        match self.op {
            Op::Get => &routes::GET_KEY,
            Op::Put => &routes::PUT_KEY,
            Op::Delete => &routes::DELETE_KEY,
            Op::Change => &routes::CHANGE_TYPED,
        }
    }

    /// The request that it stands for.
    ///
    /// # Errors
    /// 400 that names what does not fit the operation.
    pub(super) fn into_request(self, route: &Route, query: &str) -> Result<Request, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadBody, detail);
        let method = match self.op {
            Op::Get => Method::GET,
            Op::Put => Method::PUT,
            Op::Delete => Method::DELETE,
            Op::Change => Method::POST,
        };
        let known = |pair: &&str| {
            let name = pair.split('=').next().unwrap_or_default();
            route.parameters.contains(&name)
        };
        let query: Vec<&str> = query.split('&').filter(known).collect();
        let (mark, query) = (if query.is_empty() { "" } else { "?" }, query.join("&"));
        let place = format!("{}/{}", encoded(&self.bucket), encoded(&self.key));
        let target = format!("{}{place}{mark}{query}", route.prefix);
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|_| bad("the key is too long".to_owned()))?;
        let content_type = match self.op {
            Op::Change => Some("application/json".to_owned()),
            Op::Get | Op::Put | Op::Delete => self.content_type.clone(),
        };
        for (name, text) in [
            (CONTENT_TYPE, &content_type),
            (CONTEXT, &self.context),
            (IDEMPOTENCY_KEY, &self.idempotency_key),
            (IF_MATCH, &self.if_match),
            (IF_NONE_MATCH, &self.if_none_match),
            (EXPIRES_IN, &self.expires_in.as_ref().map(ExpiresIn::text)),
        ] {
            let Some(text) = text else { continue };
            let value = HeaderValue::try_from(text.as_str());
            let value = value.map_err(|_| bad(format!("{name}: is no value of a header")))?;
            request.headers_mut().insert(name, value);
        }
        if let Some(index) = &self.index {
            if self.op != Op::Put {
                return Err(bad("index: only a put has index entries".to_owned()));
            }
            request.headers_mut().extend(index_entries::to_headers(index).map_err(bad)?);
        }
        *request.body_mut() = self.body()?;
        Ok(request)
    }

    /// The body of the request; an error names what does not fit the operation.
    fn body(self) -> Result<Body, Problem> {
        let bad = |detail: &str| Err(Problem::new(Kind::BadBody, detail));
        match (self.op, self.value, self.operation, self.encoding.as_deref()) {
            (Op::Put, Some(text), None, None) => Ok(Body::from(text)),
            (Op::Put, Some(text), None, Some("base64")) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Body::from(bytes)),
                Err(_) => bad("value: is not valid base64"),
            },
            (Op::Put, Some(_), None, Some(_)) => bad("encoding: can only be base64"),
            (Op::Put, ..) => bad("put: needs a value, and no operation"),
            (Op::Change, None, Some(operation), None) => Ok(Body::from(operation.to_string())),
            (Op::Change, ..) => bad("change: needs an operation, and no value"),
            (Op::Get | Op::Delete, None, None, None) => Ok(Body::empty()),
            (Op::Get | Op::Delete, ..) => bad("get and delete take neither value nor operation"),
        }
    }
}

/// A name as part of a path.
fn encoded(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, IN_A_PATH)
}

/// The result of one operation, and how many bytes of it count. What finds no room is not shown.
pub(super) async fn result_of(
    response: Response,
    has_room: impl FnOnce(usize) -> bool,
) -> (Value, usize) {
    let (parts, body) = response.into_parts();
    let mut result = Map::new();
    let bytes = match to_bytes(body, ANSWER_BYTES_MAX).await {
        Ok(bytes) if bytes.is_empty() || has_room(bytes.len()) => bytes,
        Ok(_) | Err(_) => return (no_room(), 0),
    };
    let (status, headers) = (parts.status.as_u16(), &parts.headers);
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    result.insert("status".to_owned(), json!(status));
    for (name, text) in
        [("context", header(CONTEXT)), ("etag", header(ETAG)), ("expires_at", header(EXPIRES_AT))]
    {
        result.extend(text.map(|text| (name.to_owned(), json!(text))));
    }
    for (name, text) in
        [("siblings_count", header(SIBLINGS)), ("acks", header(ACKS)), ("hints", header(HINTS))]
    {
        let number = text.and_then(|text| text.parse::<u64>().ok());
        result.extend(number.map(|number| (name.to_owned(), json!(number))));
    }
    result.extend(headers.contains_key(EXPIRED).then(|| ("expired".to_owned(), json!(true))));
    let meta = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(META_PREFIX)?;
        Some((name.to_owned(), json!(String::from_utf8_lossy(value.as_bytes()))))
    });
    let meta: Map<String, Value> = meta.collect();
    result.extend((!meta.is_empty()).then(|| ("meta".to_owned(), Value::Object(meta))));
    result.extend(index_entries::shown_in(headers).map(|index| ("index".to_owned(), index)));
    let content_type = header(CONTENT_TYPE);
    if content_type == Some("application/problem+json") {
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        result.insert("problem".to_owned(), problem);
    } else if status == 300 {
        let all: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
        result.extend(all);
    } else if status == 200 {
        let text = std::str::from_utf8(&bytes);
        let is_base64 = text.is_err();
        let value = text.map_or_else(|_| json!(STANDARD.encode(&bytes)), |text| json!(text));
        result.insert("value".to_owned(), value);
        result.extend(is_base64.then(|| ("encoding".to_owned(), json!("base64"))));
        result.extend(content_type.map(|text| ("content_type".to_owned(), json!(text))));
    }
    (Value::Object(result), bytes.len())
}

/// The result of a read whose answer has no room in this batch.
fn no_room() -> Value {
    let detail = "the answers of the batch are too large together: ask for this key in another one";
    let problem = Problem::new(Kind::Overloaded, detail);
    let status = problem.status().as_u16();
    let shown: Value = serde_json::from_str(&problem.body()).unwrap_or_default();
    json!({"status": status, "problem": shown})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(item: Value, query: &str) -> Result<Request, String> {
        let item: Item = serde_json::from_value(item).map_err(|error| error.to_string())?;
        let route = item.route();
        item.into_request(route, query).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn an_operation_is_the_request_that_it_stands_for() {
        let put = json!({"op": "put", "bucket": "b", "key": "user/7 ü?", "value": "v",
            "content_type": "text/plain", "context": "abc", "if_match": "*",
            "expires_in": 60});
        let put = request(put, "w=2&r=1&timeout_ms=50").unwrap();
        assert_eq!(put.method(), Method::PUT);
        assert_eq!(put.uri(), "/kv/b/user%2F7%20%C3%BC%3F?w=2&timeout_ms=50");
        assert_eq!(put.headers()["quorate-context"], "abc");
        assert_eq!(put.headers()["if-match"], "*");
        assert_eq!(put.headers()["quorate-expires-in"], "60");
        let change =
            json!({"op": "change", "bucket": "c", "key": "k", "operation": {"increment": 1}});
        let change = request(change, "").unwrap();
        assert_eq!((change.method(), change.uri().path()), (&Method::POST, "/types/c/k"));
        assert_eq!(change.headers()[CONTENT_TYPE], "application/json");
        let escape = json!({"op": "get", "bucket": "b/../x?y#", "key": "k"});
        assert_eq!(request(escape, "").unwrap().uri().path(), "/kv/b%2F..%2Fx%3Fy%23/k");
    }

    #[test]
    fn what_does_not_fit_an_operation_is_named() {
        for (item, why) in [
            (json!({"op": "put", "bucket": "b", "key": "k"}), "put: needs a value"),
            (json!({"op": "get", "bucket": "b", "key": "k", "value": "v"}), "get and delete take"),
            (json!({"op": "change", "bucket": "b", "key": "k", "value": "v"}), "change: needs"),
            (
                json!({"op": "put", "bucket": "b", "key": "k", "value": "!", "encoding": "base64"}),
                "value: is not valid base64",
            ),
            (
                json!({"op": "put", "bucket": "b", "key": "k", "value": "v", "encoding": "hex"}),
                "encoding: can only be base64",
            ),
            (
                json!({"op": "get", "bucket": "b", "key": "k", "context": "a\nb"}),
                "quorate-context: is no value of a header",
            ),
            (json!({"op": "post", "bucket": "b", "key": "k"}), "unknown variant `post`"),
            (json!({"op": "get", "key": "k"}), "missing field `bucket`"),
            (json!({"op": "get", "bucket": "b", "key": "k", "n": 1}), "unknown field `n`"),
        ] {
            let error = request(item, "").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
