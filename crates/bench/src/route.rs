//! Which nodes hold a key, as a client learns it from `GET /ring/partitions`: an operation sent to
//! one of them need not be forwarded.

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::describe::describe;
use crate::http::{Client, Error, Node, Request};
use crate::worker::{BODY_BYTES_MAX, OPERATION_TIMEOUT};

/// The home replicas of every partition of a bucket's keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Homes {
    bucket: String,
    /// By partition: indices into the given list of nodes, of those that are in it.
    by_partition: Vec<Vec<usize>>,
}

/// The part of a node's answer that matters here.
#[derive(Deserialize)]
struct Partitions {
    nodes: Vec<String>,
    homes: Vec<Vec<usize>>,
}

impl Homes {
    /// Asks the cluster.
    ///
    /// # Errors
    /// A sentence that names the node and what it answered.
    pub(crate) async fn ask(nodes: &[Node], bucket: &str) -> Result<Self, String> {
        let Some(first) = nodes.first() else { return Err("no node was given".to_owned()) };
        let n = get(first, &format!("/buckets/{bucket}")).await?.get("n").and_then(Value::as_u64);
        let n = n.ok_or_else(|| format!("{}: bucket {bucket}: no n", first.name))?;
        let partitions = get(first, "/ring/partitions").await?;
        let partitions: Partitions = serde_json::from_value(partitions)
            .map_err(|error| format!("{}: /ring/partitions: {error}", first.name))?;
        let mut names = Vec::with_capacity(nodes.len());
        for node in nodes {
            let cluster = get(node, "/cluster").await?;
            let name = cluster.get("node").and_then(Value::as_str);
            names.push(name.unwrap_or_default().to_owned());
        }
        Self::new(bucket, n as usize, &names, partitions)
    }

    fn new(
        bucket: &str,
        n: usize,
        names: &[String],
        partitions: Partitions,
    ) -> Result<Self, String> {
        if !partitions.homes.len().is_power_of_two() {
            return Err(format!("/ring/partitions: {} partitions", partitions.homes.len()));
        }
        let place_of = |home: &usize| {
            let name = partitions.nodes.get(*home)?;
            names.iter().position(|it| it == name)
        };
        let places = |homes: &Vec<usize>| homes.iter().take(n).filter_map(place_of).collect();
        let by_partition = partitions.homes.iter().map(places).collect();
        Ok(Self { bucket: bucket.to_owned(), by_partition })
    }

    /// Whether the node at this place is a home replica of a key.
    pub(crate) fn contain(&self, node: usize, key: &str) -> bool {
        let hash = xxh3_64([self.bucket.as_bytes(), b"\0", key.as_bytes()].concat().as_slice());
        let bits = self.by_partition.len().trailing_zeros();
        let partition = hash.checked_shr(u64::BITS - bits).unwrap_or(0) as usize;
        self.by_partition.get(partition).is_some_and(|homes| homes.contains(&node))
    }
}

async fn get(node: &Node, path: &str) -> Result<Value, String> {
    let mut client = Client::new(node.clone(), OPERATION_TIMEOUT, BODY_BYTES_MAX);
    let get = Request { method: "GET", path, headers: &[], body: b"" };
    let asked = |error: Error| format!("{}: GET {path}: {error}", node.name);
    let answer = client.send(&get).await.map_err(asked)?;
    if answer.status != 200 {
        return Err(format!("{}: GET {path}: {}", node.name, describe(&answer)));
    }
    serde_json::from_slice(answer.body)
        .map_err(|error| format!("{}: GET {path}: {error}", node.name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The home of every partition is `first`, then `second`.
    fn homes(partitions: usize, n: usize, names: &[&str]) -> Result<Homes, String> {
        let nodes = vec!["first".to_owned(), "second".to_owned()];
        let partitions = Partitions { nodes, homes: vec![vec![0, 1]; partitions] };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Homes::new("b", n, &names, partitions)
    }

    #[test]
    fn a_key_is_where_the_cluster_puts_it() {
        // The same numbers as in the protocol crate's test of the hash.
        for (key, partition) in [("a", 542), ("b", 253), ("user/7", 128)] {
            let mut homes = homes(1024, 1, &["first"]).unwrap();
            assert!(homes.contain(0, key));
            homes.by_partition[partition].clear();
            assert!(!homes.contain(0, key), "{key}");
        }
        assert!(homes(1, 1, &["first"]).unwrap().contain(0, "a"));
    }

    #[test]
    fn only_the_first_n_are_homes_and_only_named_nodes_are_asked() {
        let contain = |n, names: &[&str], node| homes(8, n, names).unwrap().contain(node, "k");
        assert!(contain(2, &["second", "first"], 0));
        assert!(!contain(1, &["second", "first"], 0));
        assert!(contain(1, &["second", "first"], 1));
        assert!(!contain(2, &["third"], 0));
        assert!(homes(0, 1, &[]).is_err());
    }
}
