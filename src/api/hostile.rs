//! Whatever comes in a path, a query or a header: an answer in the client's error class, or its meaning, and
//! never a panic. `PROPTEST_CASES` sets how many are tried (`scripts/fuzz.sh --help`).

use axum::http::header::{ACCEPT, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::conditions::{self, ReadConditions};
use super::problem::Problem;
use super::query::Params;
use super::{multipart, path};

/// All parameters that any route takes.
const PARAMETERS: [&str; 17] = [
    "n",
    "r",
    "w",
    "timeout_ms",
    "sloppy",
    "return_body",
    "explain",
    "slow",
    "sibling",
    "bucket",
    "limit",
    "cursor",
    "prefix",
    "node",
    "partition",
    "epoch",
    "phase",
];

/// Text of the characters that parsers look for, and of any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        r#"[%0-9a-fA-F/.+&=,;:*"W \-~]{0,40}"#,
        r"(%[0-9a-fA-F]{0,2}|[a-z/]|\PC){0,30}",
        any::<String>(),
    ]
}

fn is_the_clients(problem: &Problem) -> bool {
    problem.status().is_client_error()
}

/// A character as a path carries it.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn paths(rest in text()) {
        prop_assert!(path::key(&rest).is_ok() || path::key(&rest).as_ref().is_err_and(is_the_clients));
        prop_assert!(path::bucket(&rest).is_ok() || path::bucket(&rest).as_ref().is_err_and(is_the_clients));
        // What permission is looked at by is what is done.
        if let (Ok(key), Some((bucket, name))) = (path::key(&rest), path::place(&rest)) {
            prop_assert_eq!((key.bucket(), key.key().as_bytes()), (&*bucket, &*name));
        }
    }

    #[test]
    fn a_key_is_found_as_it_was_meant(bucket in "[a-z0-9_.-]{1,30}", name in r"\PC{1,60}") {
        let written = format!("{bucket}/{}", escaped(name.as_bytes()));
        if let Ok(key) = path::key(&written) {
            prop_assert_eq!((key.bucket(), key.key()), (bucket.as_str(), name.as_str()));
        }
    }

    #[test]
    fn queries(raw in text(), name in 0..PARAMETERS.len(), value in text()) {
        for query in [raw, format!("{}={value}", PARAMETERS[name])] {
            let parsed = Params::parse(Some(&query), &PARAMETERS);
            prop_assert!(parsed.as_ref().is_ok() || parsed.as_ref().is_err_and(is_the_clients));
        }
    }

    #[test]
    fn conditions_and_accept(bytes in prop::collection::vec(any::<u8>(), 0..60), text in text()) {
        for value in [HeaderValue::from_bytes(&bytes), HeaderValue::from_str(&text)].into_iter().flatten() {
            multipart::is_preferred(Some(&value));
            for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, ACCEPT] {
                let headers = HeaderMap::from_iter([(name, value.clone())]);
                let read = ReadConditions::parse(&headers);
                prop_assert!(read.is_ok() || read.as_ref().err().is_some_and(is_the_clients));
                let write = conditions::condition(&headers);
                prop_assert!(write.is_ok() || write.as_ref().is_err_and(is_the_clients));
            }
        }
    }
}
