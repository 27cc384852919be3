//! Heads of any bytes, and bodies in any pieces.

use proptest::prelude::*;

use super::*;
use crate::fuzzed::taken;

/// Something like a request: parts that matter for where it ends, in any order.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("GET /kv/b/k HTTP/1.1\r\n".to_owned()),
        Just("PUT /kv/b/k HTTP/1.0\n".to_owned()),
        r"[A-Z]{0,5} [ -~]{0,12} HTTP/1\.[01]\r?\n",
    ];
    let field = prop_oneof![
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        (0..300u32).prop_map(|bytes| format!("Content-Length: {bytes}\r\n")),
        r"(Transfer-Encoding|Content-Length|X)[ ]?:[ -~]{0,12}\r?\n",
    ];
    let body = prop_oneof![
        (r"[0-9a-f]{1,3}(;[a-z=]{0,5})?\r?\n", 0..300usize).prop_map(|(size, bytes)| [
            size.as_bytes(),
            &vec![b'x'; bytes],
            b"\r\n"
        ]
        .concat()),
        Just(b"0\r\n\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let fields = prop::collection::vec(field, 0..4);
    let bodies = prop::collection::vec(body, 0..4);
    (line, fields, bodies).prop_map(|(line, fields, bodies)| {
        [line.into_bytes(), fields.concat().into_bytes(), b"\r\n".to_vec(), bodies.concat()]
            .concat()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(inspect(&bytes));
        may_end_head(&bytes);
    }

    /// Where a request ends does not depend on how it arrives: else another one could be hidden in it.
    #[test]
    fn a_request_ends_at_one_place(
        bytes in request(),
        sizes in prop::collection::vec(1..50usize, 1..8),
    ) {
        if let Ok(Some(message)) = inspect(&bytes) {
            prop_assert_eq!(taken(&message, &bytes, &sizes), taken(&message, &bytes, &[usize::MAX]));
        }
    }

    /// Nor does what is said of its head, once all of that is there.
    #[test]
    fn a_head_is_judged_alike_with_whatever_follows(
        bytes in request(),
        more in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        if let Ok(Some(message)) = inspect(&bytes) {
            prop_assert_eq!(inspect(&[bytes, more].concat()), Ok(Some(message)));
        }
    }
}
