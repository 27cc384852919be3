//! Every error a client can get, as `application/problem+json` (RFC 9457).
//!
//! [`Problem`] is the only type in the node that knows HTTP status codes. Inner layers report
//! errors as their own types; `refusal.rs` maps each to a problem, without a wildcard.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The most client text echoed in an error, in characters.
const ECHO_CHARS_MAX: usize = 64;
/// The `Retry-After` of retryable errors, in seconds: the shortest wait the header can express.
const RETRY_AFTER_S: u32 = 1;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The kind of error: a stable name that programs can rely on (the end of the problem's `type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    BadPath,
    BadParameter,
    BadHeader,
    BadContext,
    BadBody,
    NoSuchRoute,
    KeyNotFound,
    KeyDeleted,
    NoSuchSibling,
    NoSuchSyncPoint,
    NoSuchExplanation,
    NoSuchBackup,
    SyncPointGone,
    MethodNotAllowed,
    HeadTooSlow,
    BodyTooSlow,
    SiblingGone,
    ConditionFailed,
    TooLarge,
    TargetTooLong,
    UnsupportedMediaType,
    HeadTooLarge,
    TooManySiblings,
    ObjectTooLarge,
    ClockFull,
    CounterFull,
    ContextNeeded,
    ContextAhead,
    WrongType,
    BucketNotEmpty,
    NoFeed,
    CursorExpired,
    IdempotencyKeyReused,
    Internal,
    Overloaded,
    NoQuorum,
    NoReadQuorum,
    NotFormed,
    NotReady,
    Removed,
    Stopping,
    HintsFull,
    Failed,
    DiskFull,
    BucketsFull,
    LayoutChanged,
    LayoutMoving,
    LayoutNotMoving,
    NameTaken,
    LayoutUnsafe,
    NoLayoutQuorum,
    BackupRefused,
    Unauthenticated,
    Forbidden,
    CrossSite,
    AuthStale,
    RateLimited,
    NoSuchToken,
    TokensFull,
    NoTokenQuorum,
    TlsRequired,
}

impl Kind {
    /// The HTTP status.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::BadPath
            | Self::BadParameter
            | Self::BadHeader
            | Self::BadContext
            | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::TlsRequired => StatusCode::UPGRADE_REQUIRED,
            Self::NoSuchRoute
            | Self::NoSuchToken
            | Self::KeyNotFound
            | Self::KeyDeleted
            | Self::NoSuchSibling
            | Self::NoSuchSyncPoint
            | Self::NoSuchExplanation
            | Self::NoSuchBackup => StatusCode::NOT_FOUND,
            Self::SyncPointGone | Self::CursorExpired => StatusCode::GONE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTooSlow | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::SiblingGone
            | Self::LayoutChanged
            | Self::LayoutMoving
            | Self::LayoutNotMoving
            | Self::NameTaken
            | Self::WrongType
            | Self::BucketNotEmpty
            | Self::NoFeed
            | Self::ContextAhead
            | Self::BackupRefused => StatusCode::CONFLICT,
            Self::ConditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooManySiblings
            | Self::ObjectTooLarge
            | Self::ClockFull
            | Self::CounterFull
            | Self::ContextNeeded
            | Self::LayoutUnsafe
            | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overloaded
            | Self::NoQuorum
            | Self::NoReadQuorum
            | Self::NoLayoutQuorum
            | Self::NoTokenQuorum
            | Self::AuthStale
            | Self::NotFormed
            | Self::NotReady
            | Self::Removed
            | Self::Stopping
            | Self::HintsFull
            | Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
            Self::DiskFull | Self::BucketsFull | Self::TokensFull => {
                StatusCode::INSUFFICIENT_STORAGE
            }
        }
    }

    /// The stable name and the title, both the same for every problem of the kind.
    fn name_and_title(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", "Malformed HTTP request"),
            Self::BadPath => ("bad_path", "Invalid bucket or key in the path"),
            Self::BadParameter => ("bad_parameter", "Invalid query parameter"),
            Self::BadHeader => ("bad_header", "Invalid request header"),
            Self::BadContext => ("bad_context", "Invalid context"),
            Self::BadBody => ("bad_body", "Invalid request body"),
            Self::NoSuchRoute => ("no_such_route", "No such route"),
            Self::KeyNotFound => ("key_not_found", "The key was never written"),
            Self::KeyDeleted => ("key_deleted", "The key was deleted"),
            Self::NoSuchSibling => ("no_such_sibling", "No such sibling"),
            Self::NoSuchSyncPoint => ("no_such_sync_point", "No such sync point"),
            Self::NoSuchExplanation => ("no_such_explanation", "No such trace is kept"),
            Self::NoSuchBackup => ("no_such_backup", "No such backup or file is kept"),
            Self::SyncPointGone => ("sync_point_gone", "Sync point expired"),
            Self::MethodNotAllowed => ("method_not_allowed", "Method not allowed"),
            Self::HeadTooSlow => ("head_too_slow", "Request head timed out"),
            Self::BodyTooSlow => ("body_too_slow", "Request body timed out"),
            Self::SiblingGone => ("sibling_gone", "The sibling is no longer there"),
            Self::ConditionFailed => ("condition_failed", "Precondition failed"),
            Self::TooLarge => ("too_large", "Request body too large"),
            Self::TargetTooLong => ("target_too_long", "Request target too long"),
            Self::HeadTooLarge => ("head_too_large", "Request headers too large"),
            Self::UnsupportedMediaType => ("unsupported_media_type", "The body must be JSON"),
            Self::TooManySiblings => ("too_many_siblings", "The key has too many siblings"),
            Self::ObjectTooLarge => ("object_too_large", "The key's siblings are too large"),
            Self::ClockFull => ("clock_full", "The key's clock is full"),
            Self::CounterFull => ("counter_full", "The counter has counted too far"),
            Self::ContextNeeded => ("context_needed", "A remove needs a context"),
            Self::ContextAhead => ("context_ahead", "What the context covers was not found"),
            Self::WrongType => ("wrong_type", "The bucket has another type"),
            Self::BucketNotEmpty => ("bucket_not_empty", "The bucket has keys"),
            Self::NoFeed => ("no_feed", "The bucket has no feed"),
            Self::CursorExpired => ("cursor_expired", "Changes after the cursor are not kept"),
            Self::IdempotencyKeyReused => {
                ("idempotency_key_reused", "The Idempotency-Key was used for another request")
            }
            Self::Internal => ("internal", "Internal error"),
            Self::Overloaded => ("overloaded", "Node overloaded"),
            Self::NoQuorum => ("no_quorum", "Too few replicas acknowledged the write"),
            Self::NoReadQuorum => ("no_read_quorum", "Too few replicas answered the read"),
            Self::NotFormed => ("not_formed", "The cluster has not been formed"),
            Self::NotReady => ("not_ready", "Node not ready"),
            Self::Removed => ("removed", "The node was removed from the cluster"),
            Self::Stopping => ("stopping", "The node is stopping"),
            Self::HintsFull => ("hints_full", "A fallback's hint store is full"),
            Self::Failed => ("failed", "A replica could not carry out the request"),
            Self::DiskFull => ("disk_full", "Disk full"),
            Self::BucketsFull => ("buckets_full", "Too many buckets with properties of their own"),
            Self::LayoutChanged => ("layout_changed", "The layout has changed"),
            Self::LayoutMoving => ("layout_moving", "A change of the layout is under way"),
            Self::LayoutNotMoving => ("layout_not_moving", "No change of the layout is under way"),
            Self::NameTaken => ("name_taken", "The name of the node is taken"),
            Self::LayoutUnsafe => ("layout_unsafe", "The change of the layout is not safe"),
            Self::NoLayoutQuorum => ("no_layout_quorum", "Too few nodes voted on the change"),
            Self::BackupRefused => ("backup_refused", "No backup is made now"),
            Self::Unauthenticated => ("unauthenticated", "No valid token"),
            Self::Forbidden => ("forbidden", "The token does not allow this"),
            Self::CrossSite => ("cross_site", "A page of another site sent the request"),
            Self::AuthStale => ("auth_stale", "The node cannot tell whether tokens are valid"),
            Self::RateLimited => ("rate_limited", "The token is used too often"),
            Self::NoSuchToken => ("no_such_token", "No such token"),
            Self::TokensFull => ("tokens_full", "Too many tokens"),
            Self::NoTokenQuorum => {
                ("no_token_quorum", "Too few nodes have the change of the token")
            }
            Self::TlsRequired => ("tls_required", "TLS required"),
        }
    }
}

/// One error response. Built where the error is detected, rendered once.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    facts: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of some kind; `detail` tells the client what is wrong with this request.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), facts: Map::new(), headers: Vec::new() }
    }

    /// 400: an invalid path.
    pub(crate) fn bad_path(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadPath, detail)
    }

    /// 400: an invalid query parameter, named.
    pub(crate) fn bad_parameter(name: &str, detail: impl AsRef<str>) -> Self {
        let name = echo(name);
        Self::new(Kind::BadParameter, format!("{name}: {}", detail.as_ref()))
            .fact("parameter", name)
    }

    /// 400: an invalid header, named.
    pub(crate) fn bad_header(name: &str, detail: impl AsRef<str>) -> Self {
        let name = echo(name);
        Self::new(Kind::BadHeader, format!("{name}: {}", detail.as_ref())).fact("header", name)
    }

    /// Adds a machine-readable fact.
    pub(crate) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a response header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// States that the failed write left nothing behind, unless the problem already says more.
    pub(crate) fn nothing_written(mut self) -> Self {
        if self.status().is_server_error() && !self.facts.contains_key("outcome") {
            self.facts.insert("outcome".to_owned(), json!("not_applied"));
        }
        self
    }

    /// The same for a request that was refused before anything was done: unless it only asks.
    pub(crate) fn before_it_began(self, method: &Method) -> Self {
        if method.is_safe() { self } else { self.nothing_written() }
    }

    /// The whole response in wire format, for a connection that closes after it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let status = self.status();
        let (headers, body) = (self.headers.clone(), self.body());
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        let length = (CONTENT_LENGTH, HeaderValue::from(body.len()));
        let close = (CONNECTION, HeaderValue::from_static("close"));
        let fixed = [(CONTENT_TYPE, PROBLEM_JSON), length, close];
        for (name, value) in fixed.into_iter().chain(headers) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(body.as_bytes());
        head
    }

    /// The body, with a trailing newline for terminals.
    pub(super) fn body(self) -> String {
        let (name, title) = self.kind.name_and_title();
        let mut body = json!({
            "type": format!("urn:quorate:problem:{name}"),
            "title": title,
            "status": self.kind.status().as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.facts);
        }
        format!("{body}\n")
    }

    /// The stable name of its kind.
    pub(crate) fn name(&self) -> &'static str {
        self.kind.name_and_title().0
    }

    /// A fact that is a text.
    pub(crate) fn text_fact(&self, name: &str) -> Option<String> {
        self.facts.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The kind.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What is wrong with this request.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, headers) = (self.status(), self.headers.clone());
        let kind = self.kind;
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = status;
        response.extensions_mut().insert(kind); // to count it by
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response.headers_mut().extend(headers);
        response
    }
}

/// Client text, cut to a length fit for a response.
pub(super) fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
impl Kind {
    pub(super) const ALL: [Self; 62] = [
        Self::BadRequest,
        Self::BadPath,
        Self::BadParameter,
        Self::BadHeader,
        Self::BadContext,
        Self::BadBody,
        Self::NoSuchRoute,
        Self::KeyNotFound,
        Self::KeyDeleted,
        Self::NoSuchSibling,
        Self::NoSuchSyncPoint,
        Self::NoSuchExplanation,
        Self::NoSuchBackup,
        Self::SyncPointGone,
        Self::MethodNotAllowed,
        Self::HeadTooSlow,
        Self::BodyTooSlow,
        Self::SiblingGone,
        Self::ConditionFailed,
        Self::TooLarge,
        Self::TargetTooLong,
        Self::UnsupportedMediaType,
        Self::HeadTooLarge,
        Self::TooManySiblings,
        Self::ObjectTooLarge,
        Self::ClockFull,
        Self::CounterFull,
        Self::ContextNeeded,
        Self::ContextAhead,
        Self::WrongType,
        Self::BucketNotEmpty,
        Self::NoFeed,
        Self::CursorExpired,
        Self::IdempotencyKeyReused,
        Self::Internal,
        Self::Overloaded,
        Self::NoQuorum,
        Self::NoReadQuorum,
        Self::NotFormed,
        Self::NotReady,
        Self::Removed,
        Self::Stopping,
        Self::HintsFull,
        Self::Failed,
        Self::DiskFull,
        Self::BucketsFull,
        Self::LayoutChanged,
        Self::LayoutMoving,
        Self::LayoutNotMoving,
        Self::NameTaken,
        Self::LayoutUnsafe,
        Self::NoLayoutQuorum,
        Self::BackupRefused,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::CrossSite,
        Self::AuthStale,
        Self::RateLimited,
        Self::NoSuchToken,
        Self::TokensFull,
        Self::NoTokenQuorum,
        Self::TlsRequired,
    ];

    pub(super) fn name(self) -> &'static str {
        self.name_and_title().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_for_the_tests() {
        let source = include_str!("problem.rs");
        let (_, rest) = source.split_once("pub(crate) enum Kind {").unwrap_or_default();
        let (variants, _) = rest.split_once("\n}").unwrap_or_default();
        let count = variants.lines().filter(|line| line.trim_end().ends_with(',')).count();
        assert_eq!(Kind::ALL.len(), count);
    }

    #[test]
    fn a_problem_names_its_type_and_status() {
        let response = Problem::new(Kind::Overloaded, "too many operations").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let bad = Problem::bad_parameter("w", "must be true").into_response();
        assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
        assert!(!bad.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn a_clients_text_comes_back_cut_short() {
        let problem = Problem::bad_parameter(&"ü".repeat(10_000), "no");
        assert!(problem.detail().chars().count() < 80);
        assert_eq!(problem.kind(), Kind::BadParameter);
    }

    #[test]
    fn only_failures_of_the_service_speak_of_an_outcome() {
        let busy = || Problem::new(Kind::Overloaded, "busy");
        assert!(busy().before_it_began(&Method::GET).facts.get("outcome").is_none());
        assert_eq!(busy().before_it_began(&Method::PUT).facts["outcome"], "not_applied");
        let told = busy().nothing_written();
        assert_eq!(told.facts["outcome"], "not_applied");
        let partial = Problem::new(Kind::NoQuorum, "").fact("outcome", "partial");
        assert_eq!(partial.nothing_written().facts["outcome"], "partial");
        let bad = Problem::bad_path("no").nothing_written();
        assert!(!bad.facts.contains_key("outcome"));
    }
}
