//! Siblings: shown, inspected, listed, resolved.

use serde_json::{Value, json};

use crate::common::Cluster;
use crate::common::http::{Answer, Request};

fn siblings(answer: &Answer) -> Vec<Value> {
    answer.json()["siblings"].as_array().unwrap().clone()
}

#[test]
fn a_conflict_is_shown_whole_as_json_as_multipart_and_one_by_one() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    a.send(&Request::put("/kv/b/k", "text").header("Content-Type", "text/plain"));
    b.send(&Request::put("/kv/b/k", vec![0, 255]).header("Quorate-Meta-From", "b"));
    let both = c.get("/kv/b/k");
    assert_eq!(both.status, 300);
    assert_eq!(both.header("content-type"), Some("application/json"));
    assert_eq!(both.header("vary"), Some("accept"));
    let etag = both.header("etag").unwrap();
    assert!(etag.ends_with("-json\""), "{etag}");
    let shown = siblings(&both);
    assert_eq!(shown.len(), 2);
    let text = shown.iter().find(|s| s["value"] == "text").unwrap();
    assert_eq!((&text["content_type"], &text["size"]), (&json!("text/plain"), &json!(4)));
    assert!(text["written_at"].as_str().unwrap().ends_with('Z'));
    let bytes = shown.iter().find(|s| s["encoding"] == "base64").unwrap();
    assert_eq!((&bytes["value"], &bytes["meta"]), (&json!("AP8="), &json!({"from": "b"})));

    let mixed = c.send(&Request::get("/kv/b/k").header("Accept", "multipart/mixed"));
    assert_eq!(mixed.status, 300);
    let boundary = mixed.header("content-type").unwrap().split("boundary=").nth(1).unwrap();
    let body = String::from_utf8_lossy(&mixed.body).into_owned();
    assert_eq!(body.matches(&format!("--{boundary}\r\n")).count(), 2, "{body}");
    assert!(body.ends_with(&format!("--{boundary}--\r\n")) && body.contains("\r\n\r\ntext\r\n"));
    assert!(body.contains("quorate-dot: ") && body.contains("quorate-meta-from: b"));

    let dot = bytes["dot"].as_str().unwrap();
    let one = c.get(&format!("/kv/b/k?sibling={dot}"));
    assert_eq!((one.status, one.body.as_slice()), (200, &[0, 255][..]));
    assert_eq!(one.header("quorate-context"), None, "the others were not shown");
    assert!(one.header("etag").unwrap().contains(dot));
    let no_such = c.get("/kv/b/k?sibling=00000000000000ff-1");
    no_such.assert_problem(404, "no_such_sibling");

    let head = c.send(&Request::new("HEAD", "/kv/b/k"));
    assert_eq!((head.status, head.header("quorate-context")), (300, None));
    let known = c.send(&Request::get("/kv/b/k").header("If-None-Match", etag));
    // The tag may come from that HEAD.
    assert_eq!((known.status, known.header("quorate-context")), (304, None));
}

#[test]
fn an_inspection_shows_every_replica_and_changes_nothing() {
    let cluster = Cluster::start(5);
    let node = &cluster.nodes[0];
    let nothing = node.get("/siblings/b/k").json();
    assert_eq!((&nothing["siblings"], &nothing["context"]), (&json!([]), &Value::Null));
    node.send(&Request::put("/kv/b/k?w=all", "1"));
    cluster.nodes[3].send(&Request::put("/kv/b/k?w=all", "2"));
    let seen = cluster.nodes[4].get("/siblings/b/k");
    assert_eq!(seen.status, 200);
    let report = seen.json();
    assert_eq!((&report["n"], &report["conflict"]), (&json!(3), &json!(true)));
    assert_eq!(report["context"], seen.context());
    let ring = node.get("/ring/b/k").json();
    assert_eq!(report["partition"], ring["partition"]);
    let homes: Vec<&Value> =
        report["replicas"].as_array().unwrap().iter().map(|r| &r["node"]).collect();
    let expected: Vec<&Value> = ring["preference_list"].as_array().unwrap().iter().collect();
    assert_eq!(homes, expected[..3]);
    for replica in report["replicas"].as_array().unwrap() {
        assert_eq!(replica["state"], "ok", "{report}");
        assert_eq!(replica["dots"].as_array().unwrap().len(), 2);
    }
    assert_eq!(report["fallbacks"].as_array().unwrap().len(), 2);
    for sibling in siblings(&seen) {
        assert_eq!(sibling["held_by"].as_array().unwrap().len(), 3, "{sibling}");
    }
    assert_eq!(cluster.nodes[2].get("/siblings/b/k").json(), report);
    // The context of what it showed may be used to write.
    let written = node.send(&Request::put("/kv/b/k", "3").context(seen.context()));
    assert_eq!(written.header("quorate-siblings"), Some("1"));
}

#[test]
fn conflicts_are_listed_page_by_page() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    for i in 0..5 {
        a.send(&Request::put(&format!("/kv/one/k{i}"), "1"));
        b.send(&Request::put(&format!("/kv/one/k{i}"), "2"));
        a.send(&Request::put(&format!("/kv/two/k{i}"), "1"));
    }
    a.send(&Request::put("/kv/two/a%2Fb", "1"));
    a.send(&Request::put("/kv/two/a%2Fb", "2"));
    let all = c.get("/siblings").json();
    assert_eq!(all["keys"].as_array().unwrap().len(), 6, "{all}");
    assert_eq!((&all["cursor"], &all["unreachable"]), (&Value::Null, &json!([])));
    assert_eq!(all["keys"][5], json!({"bucket": "two", "key": "a/b", "siblings": 2}));
    let mut found = Vec::new();
    let mut path = "/siblings?bucket=one&limit=2".to_owned();
    loop {
        let page = c.get(&path).json();
        found.extend(page["keys"].as_array().unwrap().iter().map(|k| k["key"].clone()));
        let Some(cursor) = page["cursor"].as_str() else { break };
        path = format!("/siblings?bucket=one&limit=2&cursor={cursor}");
        assert!(found.len() < 10, "{found:?}");
    }
    assert_eq!(found, ["k0", "k1", "k2", "k3", "k4"]);
    let context = a.get("/kv/two/a/b").context().to_owned();
    a.send(&Request::put("/kv/two/a/b?w=all", "3").context(&context));
    assert_eq!(c.get("/siblings?bucket=two").json()["keys"], json!([]));
}

#[test]
fn a_resolution_supersedes_exactly_what_its_context_saw() {
    let cluster = Cluster::start(3);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    a.send(&Request::put("/kv/b/k", "1").header("Quorate-Meta-By", "a"));
    a.send(&Request::put("/kv/b/k", "2"));
    let both = a.get("/kv/b/k");
    let first = siblings(&both).into_iter().find(|s| s["value"] == "1").unwrap();
    let keep = json!({"keep": first["dot"]}).to_string();
    let post = |body: &str| Request::json("POST", "/siblings/b/k", body);

    a.send(&post(&keep)).assert_problem(400, "bad_header"); // needs the context
    let conditional = post(&keep).context(both.context()).header("If-Match", "*");
    a.send(&conditional).assert_problem(400, "bad_header");
    for bad in [
        "",
        "{",
        "{}",
        "[]",
        r#"{"keep": "x"}"#,
        r#"{"keep": 1}"#,
        r#"{"val": "x"}"#,
        r#"{"value": "x", "keep": "00000000000000ff-1"}"#,
        r#"{"value": 7}"#,
    ] {
        a.send(&post(bad).context(both.context())).assert_problem(400, "bad_body");
    }
    let form = Request::new("POST", "/siblings/b/k").context(both.context()).body(keep.clone());
    a.send(&form.header("Content-Type", "text/plain"))
        .assert_problem(415, "unsupported_media_type");
    let unseen = post(r#"{"keep": "00000000000000ff-1"}"#).context(both.context());
    a.send(&unseen).assert_problem(409, "sibling_gone");
    assert_eq!(siblings(&a.get("/kv/b/k")).len(), 2, "nothing changed so far");

    // A third write that the resolution has not seen remains.
    a.send(&Request::put("/kv/b/k", "3"));
    let kept = b.send(&post(&keep).context(both.context()));
    assert_eq!((kept.status, kept.header("quorate-siblings")), (204, Some("2")), "{}", kept.text());
    let now = a.get("/kv/b/k");
    let values: Vec<String> =
        siblings(&now).iter().map(|s| s["value"].as_str().unwrap().to_owned()).collect();
    assert!(values.contains(&"1".to_owned()) && values.contains(&"3".to_owned()), "{values:?}");
    a.send(&post(&keep).context(now.context())).assert_problem(409, "sibling_gone");

    let new = r#"{"value": "1 and 3", "content_type": "text/plain"}"#;
    let done = b.send(&post(new).context(now.context()));
    assert_eq!((done.status, done.header("quorate-siblings")), (204, Some("1")));
    let read = a.get("/kv/b/k");
    assert_eq!((read.status, read.text().as_str()), (200, "1 and 3"));
    assert_eq!(read.header("content-type"), Some("text/plain"));
}

#[test]
fn a_last_write_wins_bucket_shows_one_value_and_keeps_no_siblings() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    a.send(&Request::json("PUT", "/buckets/flags", r#"{"conflicts": "lww"}"#));
    for i in 0..10 {
        let node = [a, b, c][i % 3];
        let written = node.send(&Request::put("/kv/flags/k?w=all", i.to_string()));
        assert_eq!(written.status, 204, "{}", written.text());
    }
    let read = b.get("/kv/flags/k?r=all");
    assert_eq!((read.status, read.text().as_str()), (200, "9"));
    assert_eq!(c.send(&Request::delete("/kv/flags/k")).status, 204);
    a.get("/kv/flags/k?r=all").assert_problem(404, "key_deleted");
}
