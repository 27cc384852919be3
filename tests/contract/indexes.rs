//! Secondary indexes: entries that values have, and finding keys by them.

use serde_json::{Value, json};

use crate::common::http::{Answer, Request};
use crate::common::{Cluster, Node, until};

/// A write that gives its value entries.
fn put(path: &str, entries: &[(&str, &str)]) -> Request {
    let request = Request::put(path, path.as_bytes());
    entries.iter().fold(request, |request, (index, values)| {
        request.header(&format!("Quorate-Index-{index}"), values)
    })
}

fn written(answer: &Answer) {
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// All pages of an answer: value and key of each entry, and whether all pages were complete.
fn find(node: &Node, query: &str) -> (Vec<(String, String)>, bool) {
    let (mut found, mut complete, mut cursor) = (Vec::new(), true, String::new());
    let mark = if query.contains('?') { '&' } else { '?' };
    loop {
        let answer = node.get(&format!("/index/{query}{cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for entry in page["entries"].as_array().unwrap() {
            found.push((text(&entry["value"]), text(&entry["key"])));
        }
        complete &= page["complete"].as_bool().unwrap();
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("{mark}cursor={next}"),
            None => return (found, complete),
        }
    }
}

fn owned(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(value, key)| ((*value).to_owned(), (*key).to_owned())).collect()
}

#[test]
fn keys_are_found_by_what_their_values_say_from_any_node() {
    let cluster = Cluster::start(5);
    let [a, b, c, ..] = &cluster.nodes[..] else { panic!("five nodes") };
    for (key, city, age) in
        [("ada", "Paris", "36"), ("bob", "Oslo", "-7"), ("cy", "Paris", "7"), ("dee", "Rio", "100")]
    {
        written(&a.send(&put(&format!("/kv/u/{key}?w=all"), &[("city_s", city), ("age_i", age)])));
    }
    written(&a.send(&put("/kv/other/x?w=all", &[("city_s", "Paris")])));
    let paris = owned(&[("Paris", "ada"), ("Paris", "cy")]);
    assert_eq!(find(b, "u/city_s?eq=Paris"), (paris, true));
    let by_age = owned(&[("-7", "bob"), ("7", "cy"), ("36", "ada"), ("100", "dee")]);
    for limit in [1, 3, 1000] {
        assert_eq!(find(c, &format!("u/age_i?limit={limit}")), (by_age.clone(), true));
    }
    assert_eq!(find(b, "u/age_i?from=0&to=36"), (by_age[1..3].to_vec(), true));
    assert_eq!(find(b, "u/age_i?from=37").0, by_age[3..]);
    assert_eq!(find(b, "u/age_i?to=-7").0, by_age[..1]);
    assert_eq!(find(b, "u/city_s?from=P&to=Q").0.len(), 2);
    assert_eq!(find(b, "u/nothing_s"), (vec![], true));

    // A write takes the entries of the value before with it, a delete those of all.
    let seen = b.get("/kv/u/ada").context().to_owned();
    written(&c.send(&put("/kv/u/ada", &[("city_s", "Oslo, Paris")]).context(&seen)));
    assert_eq!(find(a, "u/age_i?eq=36"), (vec![], true));
    written(&c.send(&Request::delete("/kv/u/cy")));
    let all = [("Oslo", "ada"), ("Oslo", "bob"), ("Paris", "ada"), ("Rio", "dee")];
    assert_eq!(find(a, "u/city_s?limit=2"), (owned(&all), true));
}

#[test]
fn entries_are_shown_with_their_value_wherever_it_is() {
    let cluster = Cluster::start(3);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let text = "x%2Cy , \u{fc}";
    written(&a.send(&put("/kv/b/k?w=3", &[("T_s", text), ("n_i", "10,9"), ("n_i", "9")])));
    let one = b.get("/kv/b/k");
    assert_eq!(one.header("quorate-index-t_s"), Some("x%2Cy, %C3%BC"));
    assert_eq!(one.header("quorate-index-n_i"), Some("9, 10"));
    assert_eq!(find(b, "b/t_s?eq=x,y").0.len(), 1);
    written(&b.send(&put("/kv/b/k?w=3", &[("n_i", "1")])));
    let both = c.get("/kv/b/k");
    let siblings = both.json()["siblings"].as_array().unwrap().clone();
    let index_of = |at: &str| {
        siblings.iter().find(|s| s["index"]["n_i"] == json!(at.parse::<Value>().unwrap()))
    };
    assert_eq!(index_of("[9, 10]").unwrap()["index"]["t_s"], json!(["x,y", "\u{fc}"]));
    let mixed = c.send(&Request::get("/kv/b/k").header("Accept", "multipart/mixed"));
    assert!(mixed.text().contains("quorate-index-n_i: 9, 10\r\n"), "{}", mixed.text());
    assert_eq!(find(a, "b/n_i").0, owned(&[("1", "k"), ("9", "k"), ("10", "k")]));
    // The one that is kept keeps its entries; a new value has those that it is given.
    let dot = index_of("[1]").unwrap()["dot"].as_str().unwrap().to_owned();
    let keep = Request::json("POST", "/siblings/b/k", &json!({"keep": dot}).to_string());
    written(&c.send(&keep.context(both.context())));
    assert_eq!(find(a, "b/n_i").0, owned(&[("1", "k")]));
    let seen = c.get("/kv/b/k").context().to_owned();
    let new = Request::json("POST", "/siblings/b/k", r#"{"value": "v"}"#).context(&seen);
    written(&c.send(&new.header("Quorate-Index-n_i", "2")));
    assert_eq!(find(a, "b/n_i").0, owned(&[("2", "k")]));

    let batch = json!({"operations": [
        {"op": "put", "bucket": "b", "key": "one", "value": "v", "index": {"t_s": "a, b", "n_i": [5, -5]}},
        {"op": "delete", "bucket": "b", "key": "k"},
        {"op": "put", "bucket": "b", "key": "bad", "value": "v", "index": {"n_i": "x"}},
        {"op": "delete", "bucket": "b", "key": "k", "index": {"n_i": 1}},
    ]});
    let results = a.send(&Request::json("POST", "/batch", &batch.to_string())).json();
    let status = |at: usize| results["results"][at]["status"].as_u64();
    assert_eq!([0, 1, 2, 3].map(status), [Some(204), Some(204), Some(400), Some(400)], "{results}");
    let get = json!({"operations": [{"op": "get", "bucket": "b", "key": "one"}]});
    let got = b.send(&Request::json("POST", "/batch", &get.to_string())).json();
    assert_eq!(got["results"][0]["index"], json!({"n_i": [-5, 5], "t_s": ["a, b"]}));
    assert_eq!(find(c, "b/n_i").0, owned(&[("-5", "one"), ("5", "one")]));
}

#[test]
fn an_index_is_right_while_nodes_are_down_and_says_when_it_may_not_be() {
    let mut cluster = Cluster::start(5);
    let write = |cluster: &Cluster, number: usize, value: &str| {
        let path = format!("/kv/b/k{number}");
        let seen = cluster.nodes[0].get(&path);
        let request = put(&path, &[("v_s", value)]);
        let request = match seen.status {
            200 => request.context(seen.context()),
            _ => request,
        };
        written(&cluster.nodes[0].send(&request));
    };
    (0..60).for_each(|number| write(&cluster, number, "old"));
    cluster.nodes[1].kill();
    (0..30).for_each(|number| write(&cluster, number, "new"));
    let all = |cluster: &Cluster, at: usize| {
        let count = |value: &str| {
            let (found, complete) = find(&cluster.nodes[at], &format!("b/v_s?eq={value}&limit=7"));
            (found.len(), complete)
        };
        (count("old"), count("new"))
    };
    let right = ((30, true), (30, true));
    assert_eq!(all(&cluster, 2), right);
    // Whatever n2 has received so far, it does not bring back what it missed.
    cluster.nodes[1].start();
    cluster.nodes[1].wait_until_ready();
    assert_eq!((all(&cluster, 1), all(&cluster, 2)), (right, right));
    cluster.nodes[3].kill();
    cluster.nodes[4].kill();
    let ((old, is_complete), _) = all(&cluster, 0);
    assert!(!is_complete && old <= 30, "{old}");
    cluster.nodes[3].start();
    cluster.nodes[4].start();
    until("the index to be complete again", || all(&cluster, 0) == right);
    // From the disks alone.
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.wait_until_ready();
    until("the index to be what it was", || all(&cluster, 3) == right);
    let scrubbed =
        cluster.nodes[0].send(&Request::new("POST", "/anti-entropy/scrub?timeout_ms=20000"));
    let scrubbed = scrubbed.json();
    assert_eq!((&scrubbed["complete"], &scrubbed["wrong_leaves"]), (&json!(true), &json!(0)));
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for (index, values, why) in [
        ("age", "1", "quorate-index-age"),
        ("age_i", "old", "must be a whole number"),
        ("a_s", &"x".repeat(257), "1 to 256 bytes"),
        ("a_i", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "at most 16"),
    ] {
        let answer = node.send(&put("/kv/b/k", &[(index, values)]));
        let detail = answer.assert_problem(400, "bad_header");
        assert!(detail.contains(why), "{detail}");
    }
    let entry = |request: Request| node.send(&request.header("Quorate-Index-a_s", "x"));
    entry(Request::delete("/kv/b/k")).assert_problem(400, "bad_header");
    entry(Request::json("POST", "/types/b/k", r#"{"increment": 1}"#))
        .assert_problem(400, "bad_header");
    assert_eq!(node.get("/kv/b/k").status, 404, "nothing was written");
    for (path, problem, why) in [
        ("/index/b/age", "bad_path", "the name of an index"),
        ("/index/b", "bad_path", "the name of an index"),
        ("/index/b/", "bad_path", "the name of an index"),
        ("/index//a_s", "bad_path", "bucket"),
        ("/index/b/a_i?eq=x", "bad_parameter", "eq"),
        ("/index/b/a_i?eq=1&from=1", "bad_parameter", "eq"),
        ("/index/b/a_i?from=2&to=1", "bad_parameter", "from"),
        ("/index/b/a_s?prefix=x", "bad_parameter", "prefix"),
        ("/index/b/a_s?limit=0", "bad_parameter", "limit"),
        ("/index/b/a_s?cursor=AAAA", "bad_parameter", "cursor"),
    ] {
        let detail = node.get(path).assert_problem(400, problem);
        assert!(detail.contains(why), "{path}: {detail}");
    }
    for key in ["a", "b"] {
        written(&node.send(&put(&format!("/kv/b/{key}"), &[("a_s", "x"), ("b_s", "x")])));
    }
    let cursor = node.get("/index/b/a_s?limit=1").json()["cursor"].as_str().unwrap().to_owned();
    let next = node.get(&format!("/index/b/a_s?limit=1&cursor={cursor}")).json();
    assert_eq!(next["entries"], json!([{"value": "x", "key": "b"}]));
    for other in ["b/b_s?", "c/a_s?", "b/a_s?eq=x&", "b/a_s?from=a&"] {
        node.get(&format!("/index/{other}cursor={cursor}")).assert_problem(400, "bad_parameter");
    }
}
