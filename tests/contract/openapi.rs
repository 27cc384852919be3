//! `docs/openapi.json` says what the node does: the same routes, methods and parameters, no more
//! and no fewer. The problems are compared in `src/api/description.rs`, the answers by
//! `scripts/check-api.sh`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::http::Request;
use crate::common::{Cluster, operator};

const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

type Names = BTreeSet<String>;

fn operations(description: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let paths = description["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, operations)| {
        operations.as_object().unwrap().iter().map(move |(method, of)| (path, method, of))
    })
}

/// A path without placeholders.
fn example(path: &str) -> String {
    let path = path.replace("{version}", "0000000000000000").replace("{file}", "app.js");
    let path = path.replace("{name}", "b");
    path.replace("{bucket}", "b")
        .replace("{index}", "a_s")
        .replace("{key}", "k")
        .replace("{id}", "0000000000000000")
}

#[test]
fn the_node_serves_its_description() {
    let cluster = Cluster::start(1);
    let served = cluster.nodes[0].get("/openapi.json");
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    assert_eq!(served.text(), DESCRIPTION);
}

#[test]
fn every_route_and_method_is_described_and_no_other_is() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    for (path, operations) in description["paths"].as_object().unwrap() {
        let told = node.send(&Request::new("OPTIONS", &example(path)));
        told.assert_problem(405, "method_not_allowed");
        // Whatever takes GET takes HEAD; it is described where it means something of its own.
        let methods = told.header("allow").unwrap().split(',').map(|it| it.trim().to_lowercase());
        let real: Names = methods.filter(|method| method != "head").collect();
        let described = operations.as_object().unwrap().keys().filter(|method| *method != "head");
        assert_eq!(real, described.cloned().collect(), "{path}");
    }
    let text = node.get("/no-such-route").assert_problem(404, "no_such_route");
    let listed = text.strip_prefix("the routes are ").unwrap();
    let (listed, _) = listed.split_once(';').unwrap();
    let listed: Names = listed.split(", ").map(str::to_owned).collect();
    let described: Names = description["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(listed, described);
}

#[test]
fn every_query_parameter_is_described_and_no_other_is() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    for (path, method, operation) in operations(&description) {
        let described: Names = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| description.pointer(&it["$ref"].as_str().unwrap()[1..]).unwrap())
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        let asked = format!("{}?zz=1", example(path));
        let request = Request::new(&method.to_uppercase(), &asked);
        let told = node.send(&request.header("Authorization", &operator()));
        if method == "head" || matches!(path.as_str(), "/livez" | "/readyz" | "/" | "/console") {
            continue; // no body to read; probes and the console ignore what balancers append
        }
        let text = told.assert_problem(400, "bad_parameter");
        let (_, allowed) = text.split_once("allowed: ").unwrap();
        let real: Names =
            allowed.split(", ").filter(|name| *name != "none").map(str::to_owned).collect();
        assert_eq!(real, described, "{method} {path}");
    }
}
