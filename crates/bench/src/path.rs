//! Turns what users name into what a request needs: node URLs into addresses.

use crate::http::Node;

/// Resolves the nodes that a user named as `http://host:port` or `host:port`.
///
/// # Errors
/// A sentence that names the node and the problem.
pub(crate) async fn nodes(urls: &[String]) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    for url in urls {
        let name = authority(url)?;
        let addr = tokio::net::lookup_host(name)
            .await
            .map_err(|error| format!("node {url}: cannot find its address: {error}"))?
            .next()
            .ok_or_else(|| format!("node {url}: it has no address"))?;
        nodes.push(Node { name: name.to_string(), addr });
    }
    if nodes.is_empty() {
        return Err("no node was named: --nodes http://127.0.0.1:7401,…".to_string());
    }
    Ok(nodes)
}

/// The `host:port` of a node's URL.
fn authority(url: &str) -> Result<&str, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let name = rest.strip_suffix('/').unwrap_or(rest);
    if url.starts_with("https://") {
        return Err(format!("node {url}: nodes speak http, not https"));
    }
    if name.contains(['/', '?', '#', '@']) || name.contains(char::is_whitespace) {
        return Err(format!("node {url}: expected http://HOST:PORT and nothing after it"));
    }
    match name.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0) => {
            Ok(name)
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
        let found = nodes(&urls.map(String::from)).await.unwrap();
        assert_eq!(found[0].name, "127.0.0.1:7401");
        assert_eq!(found[1].addr, "127.0.0.1:7402".parse().unwrap());
        assert_eq!(found[2].addr, "[::1]:7403".parse().unwrap());
    }

    #[tokio::test]
    async fn a_bad_node_is_named() {
        for url in ["https://a:1", "http://a", "a:0", "a:65536", "http://a:1/kv", ":1", "a b:1"] {
            let error = nodes(&[url.to_string()]).await.unwrap_err();
            assert!(error.starts_with(&format!("node {url}: ")), "{error}");
        }
        assert!(nodes(&[]).await.is_err());
    }
}
