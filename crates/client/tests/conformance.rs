//! The cases of `sdk/conformance`, which every client must pass.
//!
//! They run against `QUORATE_URL`, else against a cluster of their own. What a case says and this runner does
//! not know is a failure, never skipped.

#![allow(clippy::unwrap_used)]

#[path = "conformance/arguments.rs"]
mod arguments;
#[path = "conformance/batch.rs"]
mod batch;
#[path = "conformance/cases.rs"]
mod cases;
#[path = "api/common/mod.rs"]
mod common;
#[path = "conformance/expect.rs"]
mod expect;
#[path = "conformance/feeds.rs"]
mod feeds;
#[path = "conformance/indexes.rs"]
mod indexes;
#[path = "conformance/named.rs"]
mod named;
#[path = "conformance/run.rs"]
mod run;
#[path = "conformance/stub.rs"]
mod stub;
#[path = "conformance/typed.rs"]
mod typed;

use futures_util::StreamExt;
use futures_util::stream;
use quorate_client::Client;
use quorate_client::testing::DevCluster;

/// How many cases run at once.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_pass() {
    let cases = cases::all();
    assert!(cases.len() > 40, "only {} cases were found", cases.len());
    let given = std::env::var("QUORATE_URL").ok();
    let own = given.is_none().then(|| DevCluster::start().unwrap());
    let urls: Vec<String> = match (&given, &own) {
        (Some(given), _) => given.split(',').map(str::to_owned).collect(),
        (None, Some(own)) => own.urls().to_vec(),
        (None, None) => Vec::new(),
    };
    let features = features(&urls).await;
    let results: Vec<_> = stream::iter(&cases)
        .map(async |case| {
            let lacks = case.needs().into_iter().find(|need| !features.contains(need));
            let result = match &lacks {
                Some(_) => Ok(()),
                None => run::case(case, &urls).await,
            };
            (case.name(), lacks, result)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut failures = Vec::new();
    for (name, lacks, result) in results {
        if let Some(feature) = lacks {
            eprintln!("{name}: skipped, the cluster has no {feature}");
        }
        if let Err(why) = result {
            failures.push(format!("{name}: {why}"));
        }
    }
    failures.sort();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// What cases can need, and this cluster has.
async fn features(urls: &[String]) -> Vec<String> {
    let client = Client::connect(urls.to_vec()).unwrap();
    let mut features = Vec::new();
    if client.bucket("b").get("k").explain().await.is_ok() {
        features.push("explain".to_owned());
    }
    let nodes = client.admin().cluster().await.unwrap()["nodes"].clone();
    if nodes.as_array().unwrap().iter().any(|node| node["http_addr"].is_string()) {
        common::discovered(&client).await; // each has heard of each
        features.push("http_addr".to_owned());
    }
    features
}
