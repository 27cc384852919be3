//! Turns what users name into what a request needs: node URLs into addresses.

use std::path::Path;

use crate::http::Node;
use crate::wire::{self, Secure};

/// The cluster that a command asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// The nodes to spread the connections over.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL,…")]
    pub(crate) nodes: Vec<String>,
    /// The nodes' processes, to measure what they use.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID,…")]
    pub(crate) pids: Vec<u32>,
}

/// Resolves the nodes that a user named as `http://host:port`, `https://host:port` or `host:port`. With TLS
/// the authorities in the file `ca` are believed.
///
/// # Errors
/// A sentence that names the node or the file, and the problem.
pub(crate) async fn nodes(urls: &[String], ca: Option<&Path>) -> Result<Vec<Node>, String> {
    let believing = ca.map(wire::believing).transpose()?;
    let mut nodes = Vec::new();
    for url in urls {
        let (is_secure, name) = authority(url)?;
        let secure = match (is_secure, &believing) {
            (false, _) => None,
            (true, Some(believing)) => Some(Secure::new(believing, host_of(name))?),
            (true, None) => return Err(format!("node {url}: whom to believe? Give --ca FILE")),
        };
        let addr = tokio::net::lookup_host(name)
            .await
            .map_err(|error| format!("node {url}: cannot find its address: {error}"))?
            .next()
            .ok_or_else(|| format!("node {url}: it has no address"))?;
        nodes.push(Node { name: name.to_string(), addr, secure });
    }
    if nodes.is_empty() {
        return Err("no node was named: --nodes http://127.0.0.1:7401,…".to_string());
    }
    Ok(nodes)
}

/// The host of `host:port`.
fn host_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

/// Whether a node's URL asks for TLS, and its `host:port`.
fn authority(url: &str) -> Result<(bool, &str), String> {
    let secure = url.strip_prefix("https://");
    let rest = secure.unwrap_or(url.strip_prefix("http://").unwrap_or(url));
    let name = rest.strip_suffix('/').unwrap_or(rest);
    if name.contains(['/', '?', '#', '@']) || name.contains(char::is_whitespace) {
        return Err(format!("node {url}: expected http://HOST:PORT and nothing after it"));
    }
    match name.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0) => {
            Ok((secure.is_some(), name))
        }
        _ => Err(format!("node {url}: expected http://HOST:PORT with a port of 1 to 65535")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_are_found_by_url_or_by_host_and_port() {
        let urls = ["http://127.0.0.1:7401/", "127.0.0.1:7402", "http://[::1]:7403"];
        let found = nodes(&urls.map(String::from), None).await.unwrap();
        assert_eq!(found[0].name, "127.0.0.1:7401");
        assert_eq!(found[1].addr, "127.0.0.1:7402".parse().unwrap());
        assert_eq!(found[2].addr, "[::1]:7403".parse().unwrap());
    }

    #[tokio::test]
    async fn a_bad_node_is_named() {
        for url in ["https://a:1", "http://a", "a:0", "a:65536", "http://a:1/kv", ":1", "a b:1"] {
            let error = nodes(&[url.to_string()], None).await.unwrap_err();
            assert!(error.starts_with(&format!("node {url}: ")), "{error}");
        }
        assert!(nodes(&[], None).await.is_err());
    }
}
