//! Renders an object for a client: 200, 300, 304 or 404, with context, entity tag and dates.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, LAST_MODIFIED, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::clock::Dot;
use quorate_protocol::context::{Context, ContextKeys};
use quorate_protocol::index::index_of;
use quorate_protocol::name::Key;
use quorate_protocol::object::{Object, Sibling, Version};
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::WallTime;
use quorate_protocol::view::{View, context_of};
use serde_json::{Map, Value, json};

use super::conditions::ReadConditions;
use super::headers::{
    CONTENT_TYPE_DEFAULT, CONTEXT, EXPIRED, EXPIRES_AT, META_PREFIX, SIBLINGS, kept_name,
};
use super::pieces::Later;
use super::problem::{Kind, Problem};
use super::{index_entries, multipart, types};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static(CONTENT_TYPE_DEFAULT);
/// The last second that HTTP and RFC 3339 dates can express: 9999-12-31T23:59:59Z.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Renders one key for one request.
pub(super) struct Representation<'a> {
    pub(super) contexts: &'a ContextKeys,
    pub(super) key: &'a Key,
    pub(super) conflicts: Conflicts,
    pub(super) accept: Option<&'a HeaderValue>,
    /// Only this sibling, without a context.
    pub(super) sibling: Option<Dot>,
    pub(super) conditions: ReadConditions<'a>,
    /// The wall clock.
    pub(super) now: WallTime,
    /// Whether the response carries values; without them it carries no context either.
    pub(super) shows_values: bool,
}

impl Representation<'_> {
    /// The response for the object.
    ///
    /// # Errors
    /// 404: never written, deleted (with a context, since there is nothing more to see), or no such
    /// sibling.
    pub(super) fn at(&self, object: &Object) -> Result<Response, Problem> {
        let view = View::of(object, self.conflicts, self.now);
        if matches!(view, View::Absent | View::Deleted) && self.conditions.fails(None) {
            return Err(condition_failed());
        }
        let siblings = match view {
            View::Absent => {
                return Err(Problem::new(Kind::KeyNotFound, "the key was never written"));
            }
            View::Deleted => {
                let has_expired = object.has_expired(self.now);
                let detail = match has_expired {
                    true => "the key's value has expired",
                    false => "the key was written and then deleted",
                };
                let problem = Problem::new(Kind::KeyDeleted, detail);
                let problem = problem.header(CONTEXT, self.context(object));
                return Err(match has_expired {
                    true => problem.header(EXPIRED, HeaderValue::from_static("true")),
                    false => problem,
                });
            }
            View::One(sibling) => vec![sibling],
            View::Many(siblings) => siblings,
            View::Typed => return Err(typed(self.key)),
        };
        if let Some(dot) = self.sibling {
            return self.one_of(object, &siblings, dot);
        }
        match siblings.as_slice() {
            [sibling] => {
                let tag = Tag::of(object, "");
                let written_s = written_s(sibling.stamp);
                if let Some(response) = self.not_modified(object, &tag, Some(written_s))? {
                    return Ok(response);
                }
                let mut response = value(sibling, self.now);
                self.add_context(response.headers_mut(), object);
                response.headers_mut().insert(ETAG, tag.header());
                Ok(response)
            }
            siblings => self.all(object, siblings),
        }
    }

    /// 300: every sibling, in the format the client prefers.
    fn all(&self, object: &Object, siblings: &[&Sibling]) -> Result<Response, Problem> {
        let mixed = multipart::is_preferred(self.accept);
        let tag = Tag::of(object, if mixed { "-mixed" } else { "-json" });
        if let Some(response) = self.not_modified(object, &tag, None)? {
            return Ok(response);
        }
        let mut response = if mixed {
            multipart::response(siblings)
        } else {
            let mut later = Later::new();
            let shown: Vec<Value> = siblings.iter().map(|s| sibling_json(s, &mut later)).collect();
            json_with(later, &json!({"siblings": shown}))
        };
        *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
        let headers = response.headers_mut();
        headers.insert(SIBLINGS, HeaderValue::from(siblings.len()));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        headers.insert(ETAG, tag.header());
        self.add_context(headers, object);
        Ok(response)
    }

    /// `?sibling=`: the raw value of one sibling. No context, since the others are not shown.
    fn one_of(
        &self,
        object: &Object,
        siblings: &[&Sibling],
        dot: Dot,
    ) -> Result<Response, Problem> {
        let gone = |detail: &str| Problem::new(Kind::NoSuchSibling, detail);
        let sibling = siblings.iter().find(|s| s.dot == dot);
        let sibling =
            sibling.ok_or_else(|| gone("the key has no sibling with this dot (any more)"))?;
        if sibling.is_tombstone() {
            return Err(gone("the sibling with this dot is a delete"));
        }
        let tag = Tag::of(object, &format!("-{dot}"));
        if self.conditions.fails(Some(tag.text())) {
            return Err(condition_failed());
        }
        if self.conditions.has(tag.text(), Some(written_s(sibling.stamp))) {
            return Ok(tag.not_modified());
        }
        let mut response = value(sibling, self.now);
        response.headers_mut().insert(ETAG, tag.header());
        Ok(response)
    }

    /// 304, if the client's conditions say that it has exactly this.
    ///
    /// # Errors
    /// 412, if `If-Match` names something else.
    fn not_modified(
        &self,
        object: &Object,
        tag: &Tag,
        written_s: Option<u64>,
    ) -> Result<Option<Response>, Problem> {
        if self.conditions.fails(Some(tag.text())) {
            return Err(condition_failed());
        }
        if !self.conditions.has(tag.text(), written_s) {
            return Ok(None);
        }
        let mut response = tag.not_modified();
        // A tag may come from a HEAD: a client that has the tag of several siblings may have seen
        // none of their values. If it did see them, it got the context with them.
        if self.conditions.names_tags() && object.siblings.len() == 1 {
            self.add_context(response.headers_mut(), object);
        }
        Ok(Some(response))
    }

    fn add_context(&self, headers: &mut HeaderMap, object: &Object) {
        if self.shows_values {
            headers.insert(CONTEXT, self.context(object));
        }
    }

    fn context(&self, object: &Object) -> HeaderValue {
        context(self.contexts, self.key, &context_of(object))
    }
}

/// An entity tag with its quotes.
struct Tag(String);

impl Tag {
    fn of(object: &Object, suffix: &str) -> Self {
        Self(quoted(object.version(), suffix))
    }

    fn text(&self) -> &str {
        self.0.trim_matches('"')
    }

    fn header(self) -> HeaderValue {
        header_of(self.0)
    }

    fn not_modified(&self) -> Response {
        not_modified(header_of(self.0.clone()))
    }
}

fn quoted(version: Version, suffix: &str) -> String {
    ["\"", &version.to_hex(), suffix, "\""].concat()
}

/// The entity tag of a version in some representation (`suffix`; empty for a single value).
pub(super) fn etag(version: Version, suffix: &str) -> HeaderValue {
    header_of(quoted(version, suffix))
}

/// A context as a header value.
pub(super) fn context(contexts: &ContextKeys, key: &Key, seen: &Context) -> HeaderValue {
    header_of(contexts.sign(key, seen))
}

/// Text generated here, which is always valid in a header.
fn header_of(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// 304, with the tag that the client has.
pub(super) fn not_modified(tag: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(ETAG, tag);
    response
}

/// 409: the key has a typed value.
pub(super) fn typed(key: &Key) -> Problem {
    let detail = format!("bucket {0} has typed values: use /types/{0}", key.bucket());
    Problem::new(Kind::WrongType, detail)
}

pub(super) fn condition_failed() -> Problem {
    Problem::new(Kind::ConditionFailed, "what is stored does not match If-Match")
}

/// 200: the raw value with all its metadata.
fn value(sibling: &Sibling, now: WallTime) -> Response {
    let mut response = Response::new(match &sibling.value {
        Some(value) => Body::from(value.clone()),
        None => Body::empty(),
    });
    describe(response.headers_mut(), sibling, last_modified_s(sibling.stamp, now));
    response
}

/// The `Last-Modified` of a value. While another write may still follow within the same second, it
/// is the second before: no client can then hold the date of a value that was written later.
fn last_modified_s(stamp: Stamp, now: WallTime) -> u64 {
    let (at, now) = (stamp.wall_time().0 / 1000, now.0 / 1000);
    if at < now { at } else { now.saturating_sub(1) }
}

/// The second in which a value was written.
pub(super) fn written_s(stamp: Stamp) -> u64 {
    stamp.wall_time().0 / 1000
}

/// Adds `Content-Type`, `Last-Modified`, the other stored headers, and `Quorate-Meta-*`.
pub(super) fn describe(headers: &mut HeaderMap, sibling: &Sibling, modified_s: u64) {
    let content_type = HeaderValue::from_str(&sibling.metadata.content_type);
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(OCTETS));
    let modified = Duration::from_secs(modified_s.min(SECONDS_MAX));
    let modified = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + modified);
    headers.insert(LAST_MODIFIED, header_of(modified));
    if let Some(at) = sibling.expires {
        headers.insert(EXPIRES_AT, header_of(rfc3339(at)));
    }
    index_entries::add_headers(headers, &sibling.metadata);
    let user = sibling.metadata.user.iter();
    for (name, value) in user.filter(|(name, _)| index_of(name).is_none()) {
        let name = match kept_name(name) {
            Some(kept) => HeaderName::try_from(kept),
            None => HeaderName::try_from([META_PREFIX, name].concat()),
        };
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
}

/// One sibling as JSON: the value as text, or as base64 with `encoding`. Large values are deferred
/// to `later`.
pub(super) fn sibling_json(sibling: &Sibling, later: &mut Later) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("dot", json!(sibling.dot.to_string()));
    set("writer", json!(sibling.writer));
    set("written_at", json!(rfc3339(sibling.stamp.wall_time())));
    if let Some(at) = sibling.expires {
        set("expires_at", json!(rfc3339(at)));
    }
    if sibling.is_part() {
        set("part", json!(sibling.part.name()));
        set("content", types::part_json(sibling));
        return Value::Object(fields);
    }
    let Some(value) = &sibling.value else {
        set("deleted", json!(true));
        return Value::Object(fields);
    };
    set("content_type", json!(sibling.metadata.content_type));
    set("size", json!(value.len()));
    let mut meta = Map::new();
    let user = sibling.metadata.user.iter();
    for (name, value) in user.filter(|(name, _)| index_of(name).is_none()) {
        match kept_name(name) {
            Some(kept) => set(&kept.replace('-', "_"), json!(value)),
            None => meta.insert(name.clone(), json!(value)),
        };
    }
    set("meta", Value::Object(meta));
    if let Some(index) = index_entries::shown(&sibling.metadata) {
        set("index", index);
    }
    let (value, is_base64) = later.value(value);
    if is_base64 {
        set("encoding", json!("base64"));
    }
    set("value", value);
    Value::Object(fields)
}

/// A JSON response, with a trailing newline for terminals.
pub(super) fn json(value: &Value) -> Response {
    json_with(Later::new(), value)
}

/// Likewise, with the large values of `later`.
pub(super) fn json_with(later: Later, value: &Value) -> Response {
    let mut response = Response::new(later.body(value));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A time in RFC 3339, to the millisecond.
pub(super) fn rfc3339(at: WallTime) -> String {
    let since = Duration::from_millis(at.0.min(SECONDS_MAX * 1000));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_said_to_be_of_a_second_that_may_bring_another() {
        let at = |ms| Stamp::at(WallTime(ms));
        assert_eq!(last_modified_s(at(5_400), WallTime(5_900)), 4);
        assert_eq!(last_modified_s(at(5_400), WallTime(6_000)), 5);
        assert_eq!(last_modified_s(at(9_000), WallTime(6_000)), 5, "by a clock that is ahead");
        assert_eq!(last_modified_s(at(0), WallTime(0)), 0);
        assert_eq!(written_s(at(5_400)), 5);
    }
}
