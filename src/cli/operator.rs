//! `quorate distrusted`: sends a request to a running node's client port and prints the answer.

use std::time::Duration;

use serde_json::Value;

use super::node_file::operator_token;
use crate::config::Config;
use crate::tls::own_client;

/// The request about data that nodes have set aside or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// List it.
    List,
    /// Accept it as current.
    Accept,
    /// Discard it as obsolete.
    Discard,
}

/// Asks the configured node, which asks all others, and formats the answers as text.
///
/// # Errors
/// The reason, and what to do.
pub async fn distrusted(config: &Config, ask: Ask) -> Result<String, String> {
    let (client, scheme) = own_client::of_client_port(config)?;
    let base = format!("{scheme}://{}/distrusted", config.client_addr);
    let timeout = Duration::from_millis(config.timeouts.request_ms.saturating_mul(2));
    let client = client.timeout(timeout).build();
    let client = client.map_err(|error| format!("the HTTP client: {error}"))?;
    let request = match ask {
        Ask::List => client.get(&base),
        Ask::Accept => client.post(format!("{base}/accept")),
        Ask::Discard => client.post(format!("{base}/discard")),
    };
    let request = request.bearer_auth(operator_token(config)?);
    let failed = |error: reqwest::Error| {
        format!(
            "node {} at {} does not answer: {error}; is it running?",
            config.node, config.client_addr
        )
    };
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let body = response.bytes().await.map_err(failed)?;
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|_| format!("node {} answered {status} without JSON", config.node))?;
    if !status.is_success() {
        let detail = answer["detail"].as_str().unwrap_or("no reason given");
        return Err(format!("node {} refuses: {detail}", config.node));
    }
    Ok(in_words(&answer))
}

fn in_words(answer: &Value) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text += &line;
        text.push('\n');
    };
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    for node in nodes {
        let name = node["node"].as_str().unwrap_or("?");
        let count = |what: &str| node[what].as_u64().unwrap_or(0);
        let waits = node["waits"].as_str();
        if waits.is_none() && count("rows") == 0 {
            say(format!("{name}: nothing is distrusted"));
            continue;
        }
        say(format!(
            "{name}: {} rows set aside that the cluster does not hold, {} that it does, {} partitions lost",
            count("rows"),
            count("covered"),
            count("lost_partitions")
        ));
        waits.into_iter().for_each(|why| say(format!("  waits: {why}")));
        let keys = node["unknown_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        for key in keys.iter().filter_map(Value::as_str) {
            say(format!("  {}", key.escape_default()));
        }
    }
    for node in answer["unreachable"].as_array().map(Vec::as_slice).unwrap_or_default() {
        say(format!("{}: does not answer", node.as_str().unwrap_or("?")));
    }
    if !answer["decision"].is_null() {
        say("The decision reached all nodes that answered; `quorate distrusted list` shows progress."
            .to_owned());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_told_node_by_node_and_key_by_key() {
        let text = in_words(&json!({
            "nodes": [
                {"node": "n1", "waits": "old", "rows": 2, "covered": 1, "lost_partitions": 0,
                 "unknown_keys": ["b/k1", "b/k\n2"]},
                {"node": "n2", "waits": null, "rows": 0, "covered": 0, "lost_partitions": 0,
                 "unknown_keys": []},
            ],
            "unreachable": ["n3"],
            "decision": null,
        }));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("n1: 2 rows set aside"), "{text}");
        assert_eq!(lines[1..4], ["  waits: old", "  b/k1", "  b/k\\n2"]);
        assert_eq!(lines[4..], ["n2: nothing is distrusted", "n3: does not answer"]);
    }
}
