//! `GET /siblings`: the keys in conflict. `POST /siblings/{bucket}/{key}`: resolving one.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use quorate_protocol::clock::Dot;
use quorate_protocol::lifetime::Lifetime;
use quorate_protocol::name::Key;
use quorate_protocol::object::Metadata;
use quorate_protocol::view::View;
use serde::Deserialize;
use serde_json::{Value, json};

use super::gate::{Gate, Pass};
use super::problem::{Kind, Problem};
use super::query::Params;
use super::route::Answer;
use super::write::{Change, WriteRequest};
use super::{body, headers, kv, represent, write};
use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, ConflictPage};

/// Default page size.
const LIMIT_DEFAULT: usize = 100;
/// The content type of a resolution that gives none: its value is text in JSON.
const TEXT: &str = "text/plain; charset=utf-8";

/// `GET /siblings`: every key in conflict in the cluster, page by page.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let after = params.cursor.as_deref().map(|cursor| key_of(cursor, &params)).transpose()?;
    let pass = gate.enter(&params)?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    let page = entry::conflicts(&gate.node, params.bucket, after, limit).await;
    drop(pass);
    let ConflictPage { keys, more, unreachable } = page;
    let cursor = keys.last().filter(|_| more).map(|(key, _)| cursor_of(key));
    let keys: Vec<Value> = keys
        .iter()
        .map(|(key, siblings)| {
            json!({"bucket": key.bucket(), "key": key.key(), "siblings": siblings})
        })
        .collect();
    Ok(represent::json(&json!({"keys": keys, "cursor": cursor, "unreachable": unreachable})))
}

/// The start of the next page, opaque to clients.
fn cursor_of(key: &Key) -> String {
    URL_SAFE_NO_PAD.encode(key.as_bytes())
}

fn key_of(cursor: &str, params: &Params) -> Result<Key, Problem> {
    let wrong = || {
        let detail = "is damaged or belongs to another listing; send it back unchanged";
        Problem::bad_parameter("cursor", detail)
    };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let key = Key::from_bytes(Bytes::from(bytes)).map_err(|_| wrong())?;
    match &params.bucket {
        Some(bucket) if bucket.as_str() != key.bucket() => Err(wrong()),
        Some(_) | None => Ok(key),
    }
}

/// How a client resolves a conflict.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolution {
    /// The dot of the sibling to keep.
    pub(super) keep: Option<String>,
    /// Or a new value.
    value: Option<String>,
    /// `base64` if `value` is encoded.
    encoding: Option<String>,
    /// The new value's media type.
    content_type: Option<String>,
}

/// `POST /siblings/{bucket}/{key}`: one write that supersedes exactly what its context covers.
pub(super) async fn resolve(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = resolve_key(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn resolve_key(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let key = gate.key(&parts.uri)?;
    let params = gate.params(&parts.uri)?;
    body::check_json_type(parts)?;
    let mut ask = WriteRequest::parse(gate, parts, key, &params)?;
    let (_, mut pass) = gate.enter_if(&params, |node| fits(&ask, node))?;
    let node = &gate.node;
    let value_bytes_max = node.config.limits.value_bytes_max;
    // Base64 and escapes make the JSON longer than its content.
    let json_bytes_max = 2 * value_bytes_max + 4096;
    let body_ms = node.config.timeouts.body_ms;
    let text = body::read(body, json_bytes_max, body_ms, &mut pass.permit).await?;
    pass.permit.add_bytes(text.len())?; // for its content, which is no longer than the text
    let resolution: Resolution = body::parse_json(&text)?;
    let (metadata, value, lifetime) = match resolution.keep {
        Some(ref dot) => {
            let dot = kept_dot(dot, &resolution)?;
            kept(node, &ask, &params, dot, &pass).await?
        }
        None => {
            let (metadata, value) = new_value(parts, resolution)?;
            (metadata, value, Lifetime::OfBucket)
        }
    };
    if value.as_ref().is_some_and(|value| value.len() > value_bytes_max) {
        let detail = format!("a value may have at most {value_bytes_max} bytes");
        return Err(Problem::new(Kind::TooLarge, detail).fact("max", value_bytes_max));
    }
    let id = ask.write_id(&metadata, &text);
    if ask.lifetime == Lifetime::OfBucket {
        ask.lifetime = lifetime;
    }
    ask.carry_out(node, id, Change::Value(metadata, value), pass).await
}

/// Checks what a resolution, unlike other writes, must say.
fn fits(ask: &WriteRequest<'_>, node: &Node) -> Result<(), Problem> {
    ask.check(node)?;
    if ask.seen().is_none() {
        let detail = "is required: a resolution supersedes exactly what its context covers";
        return Err(Problem::bad_header("Quorate-Context", detail));
    }
    if ask.is_conditional() {
        let detail = "a resolution is guarded by its context, not by If-Match or If-None-Match";
        return Err(Problem::bad_header("If-Match", detail));
    }
    Ok(())
}

pub(super) fn kept_dot(dot: &str, resolution: &Resolution) -> Result<Dot, Problem> {
    let Resolution { keep: _, value, encoding, content_type } = resolution;
    if value.is_some() || encoding.is_some() || content_type.is_some() {
        return Err(Problem::new(Kind::BadBody, "\"keep\" cannot be combined with other members"));
    }
    dot.parse().map_err(|error| Problem::new(Kind::BadBody, format!("keep: {error}")))
}

/// The sibling with this dot, if a read of R still returns it, and how long it still has to live.
async fn kept(
    node: &Arc<Node>,
    ask: &WriteRequest<'_>,
    params: &Params,
    dot: Dot,
    pass: &Pass,
) -> Result<(Metadata, Option<Bytes>, Lifetime), Problem> {
    let gone = |detail: &str| Problem::new(Kind::SiblingGone, detail).fact("keep", dot.to_string());
    if !ask.seen().is_some_and(|seen| seen.clock.covers(dot)) {
        return Err(gone("the context has not seen this sibling; read the key again"));
    }
    let mut of_read = Params::default();
    of_read.sloppy = params.sloppy;
    let (view, terms) = kv::read_terms(node, &ask.key, &of_read)?;
    let conflicts = terms.conflicts;
    let (object, _pass) = kv::read(node, &ask.key, (view, terms), pass.another(node)?).await?;
    let shown = match View::of(&object, conflicts, node.now()) {
        View::Absent | View::Deleted | View::Typed => Vec::new(),
        View::One(sibling) => vec![sibling],
        View::Many(siblings) => siblings,
    };
    let sibling = shown.into_iter().find(|sibling| sibling.dot == dot);
    let sibling =
        sibling.ok_or_else(|| gone("another write has superseded it; read the key again"))?;
    let lifetime = Lifetime::until(sibling.expires, node.now());
    Ok((sibling.metadata.clone(), sibling.value.clone(), lifetime))
}

pub(super) fn new_value(
    parts: &Parts,
    resolution: Resolution,
) -> Result<(Metadata, Option<Bytes>), Problem> {
    let wrong = |detail: &str| Problem::new(Kind::BadBody, detail);
    let text =
        resolution.value.ok_or_else(|| wrong("needs \"keep\": a dot, or \"value\": text"))?;
    let value = match resolution.encoding.as_deref() {
        None => Bytes::from(text),
        Some("base64") => {
            let decoded = STANDARD.decode(text);
            Bytes::from(decoded.map_err(|_| wrong("value: is not valid base64"))?)
        }
        Some(_) => return Err(wrong("encoding: can only be base64")),
    };
    let content_type = resolution.content_type.unwrap_or_else(|| TEXT.to_owned());
    headers::check_content_type(&content_type)?;
    let user = headers::user_metadata(&parts.headers)?;
    Ok((Metadata { content_type, user }, Some(value)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_listing_only() {
        let key = Key::new("carts", b"user/7").unwrap();
        let params = |query| Params::parse(Some(query), &["bucket"]).unwrap();
        let cursor = cursor_of(&key);
        assert_eq!(key_of(&cursor, &Params::default()).unwrap(), key);
        assert_eq!(key_of(&cursor, &params("bucket=carts")).unwrap(), key);
        assert!(key_of(&cursor, &params("bucket=other")).is_err());
        for bad in ["", "!", "AAAA", &cursor[1..]] {
            assert!(key_of(bad, &Params::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_resolution_says_one_thing() {
        let parse = |json: &str| -> Result<(Metadata, Option<Bytes>), Problem> {
            let resolution: Resolution = body::parse_json(json.as_bytes())?;
            if let Some(dot) = &resolution.keep {
                kept_dot(dot, &resolution)?;
                return Ok((Metadata::default(), None));
            }
            let parts = axum::http::Request::new(()).into_parts().0;
            new_value(&parts, resolution)
        };
        let (metadata, value) = parse(r#"{"value": "ü"}"#).unwrap();
        assert_eq!((metadata.content_type.as_str(), value), (TEXT, Some(Bytes::from("ü"))));
        let (_, value) = parse(r#"{"value": "AP8=", "encoding": "base64"}"#).unwrap();
        assert_eq!(value, Some(Bytes::from_static(&[0, 255])));
        assert!(parse(r#"{"keep": "00000000000000ff-1"}"#).is_ok());
        for bad in [
            "",
            "{",
            "[]",
            "7",
            "{}",
            r#"{"keep": 7}"#,
            r#"{"keep": "7"}"#,
            r#"{"value": null}"#,
            r#"{"value": "x", "encoding": "rot13"}"#,
            r#"{"value": "!", "encoding": "base64"}"#,
            r#"{"keep": "00000000000000ff-1", "value": "x"}"#,
            r#"{"kep": "x"}"#,
            r#"{"value": "a", "value": "b"}"#,
            r#"{"value": "x", "content_type": ""}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
