//! What must hold of any request, as far as one is parsed: it is understood, or answered in the client's
//! error class. `crate::fuzzed` says who calls these.

use std::collections::BTreeSet;

use axum::http::header::{ACCEPT, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Request, Uri};
use quorate_protocol::data_type::DataType;

use super::layout::wanted::{AbortBody, CommitBody, PlanBody, ReleaseBody};
use super::problem::Problem;
use super::query::Params;
use super::{
    auth, backups, batch, body, buckets, conditions, headers, index, index_entries, multipart,
    path, routes, siblings, types,
};
use crate::peer_port::join::JoinRequest;

/// All parameters that any route takes.
pub(super) fn parameters() -> Vec<&'static str> {
    let mut names: Vec<&str> =
        routes::TABLE.iter().flat_map(|route| route.parameters.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn check<T>(parsed: Result<T, Problem>) -> Option<T> {
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(problem) => {
            assert!(
                problem.status().is_client_error(),
                "{}: {}",
                problem.status(),
                problem.detail()
            );
            None
        }
    }
}

/// A path, as it follows the fixed part of its route.
pub(super) fn place(rest: &str) {
    let key = check(path::key(rest));
    check(path::bucket(rest));
    check(index::place(rest));
    // What permission is looked at by is what is done.
    if let (Some(key), Some((bucket, name))) = (key, path::place(rest)) {
        assert_eq!((key.bucket(), key.key().as_bytes()), (&*bucket, &*name));
    }
}

/// A query.
pub(super) fn query(text: &str, known: &[&str]) {
    let Some(params) = check(Params::parse(Some(text), known)) else { return };
    check(params.timeout_ms(1_000, 60_000));
    for name in ["email_s", "age_i"] {
        if let Ok((_, index)) = index::place(&format!("b/{name}")) {
            check(index::range(index, &params));
        }
    }
}

/// Headers.
pub(super) fn fields(map: &HeaderMap) {
    multipart::is_preferred(map.get(ACCEPT));
    check(conditions::ReadConditions::parse(map));
    check(conditions::condition(map));
    check(headers::context(map));
    check(headers::idempotency_key(map));
    check(headers::lifetime(map));
    if let Some(metadata) = check(headers::metadata(map)) {
        // What a write keeps is what a read shows.
        let mut shown = HeaderMap::new();
        index_entries::add_headers(&mut shown, &metadata);
        let sorted = |map| index_entries::from_headers(map).ok().map(BTreeSet::from_iter);
        assert_eq!(sorted(&shown), sorted(map));
    }
}

/// A target and the fields of a head that was found to be well-formed.
pub(crate) fn head(target: &str, named: &[(&str, &[u8])]) {
    let Ok(uri) = target.parse::<Uri>() else { return };
    let rest = uri.path().splitn(3, '/').last().unwrap_or_default();
    place(rest);
    query(uri.query().unwrap_or_default(), &parameters());
    let pair = |(name, value): &(&str, &[u8])| {
        Some((HeaderName::try_from(*name).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    let mut map = HeaderMap::new();
    named.iter().filter_map(pair).for_each(|(name, value)| {
        map.append(name, value);
    });
    fields(&map);
}

/// The JSON of a request. The first byte says of which.
pub(crate) fn bodies(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else { return };
    match kind % 14 {
        0 => check(body::parse_json::<auth::Asked>(text)).map_or((), drop),
        1 => check(body::parse_json::<backups::MakeBody>(text)).map_or((), drop),
        2 => check(body::parse_json::<backups::HoldBody>(text)).map_or((), drop),
        3 => check(body::parse_json::<buckets::Wanted>(text)).map_or((), drop),
        4 => operations(text),
        5 => resolution(text),
        6 => layout_changes(text),
        7 => drop(serde_json::from_slice::<JoinRequest>(text)),
        of_type => {
            let types = DataType::ALL;
            check(types::parse(types[usize::from(of_type) % types.len()], text));
        }
    }
}

/// A batch: each of its operations is a request of its own.
fn operations(text: &[u8]) {
    let Some(batch) = check(body::parse_json::<batch::Document>(text)) else { return };
    for item in batch.operations {
        let route = item.route();
        let Some(request) = check(item.into_request(route, "w=2&sloppy=false")) else { continue };
        let (parts, _) = request.into_parts();
        let rest = parts.uri.path().strip_prefix(route.prefix);
        place(rest.unwrap_or_else(|| panic!("{}: another route", parts.uri)));
        check(Params::parse(parts.uri.query(), route.parameters));
        fields(&parts.headers);
    }
}

fn resolution(text: &[u8]) {
    let Some(read) = check(body::parse_json::<siblings::Resolution>(text)) else { return };
    match read.keep.clone() {
        Some(dot) => check(siblings::kept_dot(&dot, &read)).map_or((), drop),
        None => {
            let (parts, ()) = Request::new(()).into_parts();
            check(siblings::new_value(&parts, read));
        }
    }
}

/// One text is read as each of them: they have much in common.
fn layout_changes(text: &[u8]) {
    if let Some(plan) = check(body::parse_json::<PlanBody>(text)) {
        check(plan.resolve(&[]));
    }
    if let Some(commit) = check(body::parse_json::<CommitBody>(text)) {
        check(commit.resolve(&[]));
    }
    if let Some(abort) = check(body::parse_json::<AbortBody>(text)) {
        check(abort.resolve());
    }
    if let Some(release) = check(body::parse_json::<ReleaseBody>(text)) {
        check(release.resolve());
    }
}
