//! Whatever comes in a path, a query or a header: an answer in the client's error class, or its meaning, and
//! never a panic. `PROPTEST_CASES` sets how many are tried.

use axum::http::header::{ACCEPT, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::{fuzzed, path};

/// Text of the characters that parsers look for, and of any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        r#"[%0-9a-fA-F/.+&=,;:*"W \-~]{0,40}"#,
        r"(%[0-9a-fA-F]{0,2}|[a-z/]|\PC){0,30}",
        any::<String>(),
    ]
}

/// A character as a path carries it.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn paths(rest in text()) {
        fuzzed::place(&rest);
    }

    #[test]
    fn a_key_is_found_as_it_was_meant(bucket in "[a-z0-9_.-]{1,30}", name in r"\PC{1,60}") {
        let written = format!("{bucket}/{}", escaped(name.as_bytes()));
        if let Ok(key) = path::key(&written) {
            prop_assert_eq!((key.bucket(), key.key()), (bucket.as_str(), name.as_str()));
        }
    }

    #[test]
    fn queries(raw in text(), name in any::<prop::sample::Index>(), value in text()) {
        let known = fuzzed::parameters();
        for query in [raw, format!("{}={value}", name.get(&known))] {
            fuzzed::query(&query, &known);
        }
    }

    #[test]
    fn conditions_and_accept(bytes in prop::collection::vec(any::<u8>(), 0..60), text in text()) {
        for value in [HeaderValue::from_bytes(&bytes), HeaderValue::from_str(&text)].into_iter().flatten() {
            for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, ACCEPT] {
                fuzzed::fields(&HeaderMap::from_iter([(name, value.clone())]));
            }
        }
    }
}
