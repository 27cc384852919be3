//! Which nodes hold a key, as a client learns it from `GET /ring/partitions`: an operation sent to
//! one of them need not be forwarded.

use std::path::Path;

use quorate_client::{Client, Error, Partitions, partition_of};

use crate::http::Node;

/// The home replicas of every partition of a bucket's keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Homes {
    bucket: String,
    /// By partition: indices into the given list of nodes, of those that are in it.
    by_partition: Vec<Vec<usize>>,
}

impl Homes {
    /// Asks the cluster, before the measurement: requests that are measured go out through
    /// [`crate::http`].
    ///
    /// # Errors
    /// A sentence that names the node and what it answered.
    pub(crate) async fn ask(
        nodes: &[Node],
        bucket: &str,
        ca: Option<&Path>,
    ) -> Result<Self, String> {
        let said = |error: Error| error.to_string();
        let urls: Vec<String> = nodes.iter().map(Node::url).collect();
        let mut client = Client::builder().nodes(urls.clone()).discover(false).route(false);
        if let Some(ca) = ca.filter(|_| nodes.iter().any(|node| node.secure.is_some())) {
            let pem =
                std::fs::read(ca).map_err(|error| format!("--ca {}: {error}", ca.display()))?;
            client = client.authority(pem);
        }
        let client = client.build().map_err(said)?;
        let n = client.admin().bucket(bucket).await.map_err(said)?.n;
        let n = n.ok_or_else(|| format!("bucket {bucket}: no n"))?;
        let partitions = client.admin().partitions().await.map_err(said)?;
        let mut names = Vec::with_capacity(nodes.len());
        for url in &urls {
            let cluster = client.admin_of(url).map_err(said)?.cluster().await.map_err(said)?;
            names.push(cluster["node"].as_str().unwrap_or_default().to_owned());
        }
        Self::new(bucket, usize::from(n), &names, partitions)
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
        let partition = partition_of(&self.bucket, key, self.by_partition.len());
        self.by_partition.get(partition).is_some_and(|homes| homes.contains(&node))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_client::LayoutId;

    use super::*;

    /// The home of every partition is `first`, then `second`.
    fn homes(partitions: usize, n: usize, names: &[&str]) -> Result<Homes, String> {
        let nodes = vec!["first".to_owned(), "second".to_owned()];
        let layout = LayoutId { version: 1, hash: String::new() };
        let partitions = Partitions { layout, n: 2, nodes, homes: vec![vec![0, 1]; partitions] };
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
