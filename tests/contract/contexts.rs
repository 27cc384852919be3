//! Contexts that are damaged, forged, of another key or of another cluster are refused and change
//! nothing.

use crate::common::Cluster;
use crate::common::http::Request;

#[test]
fn only_the_keys_own_context_is_accepted() {
    let cluster = Cluster::start(1);
    let other_cluster = Cluster::start_with(1, "other", "");
    let node = &cluster.nodes[0];
    let own = node.send(&Request::put("/kv/b/k", "1")).context().to_owned();
    let of_other_key = node.send(&Request::put("/kv/b/other", "1")).context().to_owned();
    let foreign = other_cluster.nodes[0].send(&Request::put("/kv/b/k", "1")).context().to_owned();

    let flipped = |at: usize| {
        let mut text = own.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    let mut bad = vec![
        String::new(),
        "x".to_owned(),
        "!!!".to_owned(),
        own[1..].to_owned(),
        own[..own.len() - 1].to_owned(),
        format!("{own}{own}"),
        format!("{own}="),
        "A".repeat(20_000),
        of_other_key,
        foreign,
    ];
    bad.extend([0, 1, 5, 10, 20, 30, own.len() - 1].map(flipped));
    for context in &bad {
        for method in ["PUT", "DELETE"] {
            let request = Request::new(method, "/kv/b/k").context(context).body("2");
            let answer = node.send(&request);
            answer.assert_problem(400, "bad_context");
        }
        let resolve = Request::json("POST", "/siblings/b/k", r#"{"value": "2"}"#);
        node.send(&resolve.context(context)).assert_problem(400, "bad_context");
    }
    let read = node.get("/kv/b/k");
    assert_eq!((read.status, read.text().as_str()), (200, "1"));
    let written = node.send(&Request::put("/kv/b/k", "2").context(&own));
    assert_eq!(written.header("quorate-siblings"), Some("1"));
}
