//! What the audit log is told of a request.

use axum::http::StatusCode;
use quorate_engine::node::Node;
use quorate_protocol::access::Action;
use serde_json::{Map, Value, json};

use super::access::{Access, uptime_us};
use super::path;
use super::route::Asked;
use super::who::Who;
use crate::audit::Audit;

impl Access {
    /// Tells the audit log of a request, if it is to be in it. `ended` is its status, and the name of its
    /// problem or `ok`.
    pub(super) fn tell(
        &self,
        audit: &Audit,
        node: &Node,
        asked: &Asked<'_>,
        (status, outcome): (StatusCode, &str),
    ) {
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let is_told = is_refused
            || match asked.route.needs.action().map(kind) {
                Some(Sort::Administration) => true,
                Some(Sort::Data) => audit.has_data(),
                Some(Sort::Look) | None => false,
            };
        if !is_told {
            return;
        }
        let dropped = match is_refused && self.refusals.take(uptime_us(node)).is_err() {
            true => 1,
            false => audit.add(line(audit, node, asked, (status, outcome))),
        };
        if dropped > 0 {
            node.metrics.auth.audit_dropped.add(dropped);
        }
    }
}

/// What an action is to the audit log.
enum Sort {
    Administration,
    Data,
    Look,
}

fn kind(action: Action) -> Sort {
    match action {
        Action::Read | Action::Write | Action::Delete | Action::List | Action::Watch => Sort::Data,
        Action::Look | Action::Metrics => Sort::Look,
        Action::AdminBuckets | Action::AdminLayout | Action::AdminAuth => Sort::Administration,
        Action::AdminBackup | Action::AdminRepair | Action::Admin => Sort::Administration,
    }
}

fn line(
    audit: &Audit,
    node: &Node,
    asked: &Asked<'_>,
    (status, outcome): (StatusCode, &str),
) -> String {
    let Asked { route, method, uri, who, arrival } = asked;
    let mut line = Map::new();
    let mut say = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
    say("time_ms", json!(node.now().0));
    say("node", json!(node.me));
    say("request_id", json!(arrival.id.to_string()));
    say("peer", json!(arrival.connection.peer));
    say("who", json!(who.as_ref().map_or("unknown", Who::name)));
    if let Some(Who::Token(found)) = who {
        say("token", json!(found.id.as_str()));
        say("token_name", json!(found.token.name));
    }
    if let Some(Who::Subject(subject)) = who {
        say("token", json!(subject.id.as_str()));
        say("subject", json!(subject.name));
    }
    say("method", json!(method.as_str()));
    say("route", json!(route.path));
    say("action", json!(route.needs.action().map(Action::name)));
    let rest = uri.path().strip_prefix(route.prefix).unwrap_or_default();
    if let Some((bucket, key)) = path::place(rest).filter(|_| route.path.contains("{bucket}")) {
        say("bucket", json!(bucket.chars().take(128).collect::<String>()));
        if route.path.contains("{key}") {
            match audit.has_keys() {
                true => say("key", json!(String::from_utf8_lossy(&key))),
                false => say("key_hash", json!(audit.hash(&bucket, &key))),
            }
        }
    } else if route.path.contains("{id}") {
        say("id", json!(rest.chars().take(64).collect::<String>()));
    }
    say("status", json!(status.as_u16()));
    say("outcome", json!(outcome));
    Value::Object(line).to_string()
}
