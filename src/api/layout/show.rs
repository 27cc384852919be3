//! The cluster record, its history and plans as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_engine::node::Node;
use quorate_protocol::layout::Layout;
use quorate_protocol::name::NodeId;
use quorate_protocol::plan::{Plan, Refusal, Warning, fair_loads, loads};
use quorate_protocol::record::{ClusterRecord, Phase, RecordMember};
use serde_json::{Value, json};

use super::progress;
use crate::api::represent;

/// `GET /layout`.
pub(super) async fn layout(node: &Arc<Node>) -> Value {
    let (record, view) = (node.membership.record(), node.view());
    let placement = view.placement();
    let n = view.n_max();
    let states = states(node);
    let said = progress::ask(node, &record).await;
    let next = record.next().zip(placement.next());
    let now = node.uptime();
    let waiting: Vec<Value> = node
        .membership
        .waiting
        .all(now)
        .into_iter()
        // Not those that were added since they last asked.
        .filter(|it| record.member(it.node).is_none_or(|member| member.disk != it.disk))
        .map(|it| {
            json!({
                "name": it.node,
                "disk": it.disk.to_string(),
                "peer_addr": it.peer_addr,
                "client_addr": it.client_addr,
                "zone": it.zone,
                "weight": it.weight,
                "since_ms": now.since(it.since),
            })
        })
        .collect();
    let mut shown = json!({
        "epoch": record.epoch().to_string(),
        "hash": record.hash().to_string(),
        "phase": phase(record.phase()),
        "partitions": record.partitions(),
        "n": n,
        "members": members(record.stable(), placement.layout(), n, &states),
        "next": next.map(|(list, layout)| members(list, layout, n, &states)),
        "gone": gone(&record),
        "leaving": progress::leaving(&record, &node.record_history(), &said),
        "progress": Value::Null,
        "waiting": waiting,
    });
    if record.next().is_some() {
        shown["progress"] = progress::of_change(node, &record, (placement, n), &said).await;
    }
    shown
}

/// The name of a phase.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Stable => "stable",
        Phase::Moving => "moving",
        Phase::Releasing => "releasing",
    }
}

/// The state of every node as this one sees it.
fn states(node: &Node) -> BTreeMap<NodeId, &'static str> {
    let seen = node.peers.view().into_iter().map(|peer| (peer.node, peer.state));
    seen.chain([(node.me, "self")]).collect()
}

fn members(
    list: &[RecordMember],
    layout: &Layout,
    n: u16,
    states: &BTreeMap<NodeId, &'static str>,
) -> Vec<Value> {
    let (loads, fair) = (loads(layout, n), fair_loads(layout, n));
    let shown = |member: &RecordMember| {
        json!({
            "name": member.node,
            "zone": member.zone,
            "weight": member.weight,
            "seat": member.seat,
            "disk": member.disk.to_string(),
            "peer_addr": member.peer_addr,
            "client_addr": member.client_addr,
            "state": states.get(&member.node).unwrap_or(&"unknown"),
            "load": loads.get(&member.node),
            "fair": fair.get(&member.node),
        })
    };
    list.iter().map(shown).collect()
}

/// The names of the members that are sworn gone.
fn gone(record: &ClusterRecord) -> Vec<NodeId> {
    let members = record.stable().iter();
    members.filter(|it| record.is_gone(it.disk)).map(|it| it.node).collect()
}

/// One record of `GET /layout/history`.
pub(super) fn history_entry(record: &ClusterRecord) -> Value {
    let cause = record.cause();
    json!({
        "epoch": record.epoch().to_string(),
        "hash": record.hash().to_string(),
        "phase": phase(record.phase()),
        "members": record.stable().iter().map(|member| member.node).collect::<Vec<_>>(),
        "next": record.next().map(|next| next.iter().map(|it| it.node).collect::<Vec<_>>()),
        "cause": {
            "op": cause.op.name(),
            "by": cause.reason.by,
            "at": represent::rfc3339(cause.reason.at),
            "note": cause.reason.note,
        },
    })
}

/// `POST /layout/plan`.
pub(super) fn plan(plan: &Plan) -> Value {
    let load = plan.load.iter().map(
        |it| json!({"name": it.node, "before": it.before, "after": it.after, "fair": it.fair}),
    );
    json!({
        "base": plan.base.to_string(),
        "result": plan.result.to_string(),
        "joint": plan.is_joint,
        "moves": {
            "replicas": plan.moves.replicas,
            "least": plan.moves.least,
            "bytes_estimate": plan.moves.bytes,
            "rows_estimate": plan.moves.rows,
        },
        "load": load.collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(warning).collect::<Vec<_>>(),
        "refusals": plan.refusals.iter().map(refusal).collect::<Vec<_>>(),
    })
}

/// A warning: its name, its numbers and a sentence.
pub(super) fn warning(warning: &Warning) -> Value {
    let mut shown = json!(warning);
    shown["text"] = json!(warning.to_string());
    shown
}

/// A refusal: its name, the node that it is about, and a sentence.
pub(super) fn refusal(refusal: &Refusal) -> Value {
    json!({"name": refusal.name(), "node": refusal.node(), "text": refusal.to_string()})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use quorate_protocol::record::{DiskId, Reason};
    use quorate_protocol::time::WallTime;

    use super::*;

    pub(in crate::api::layout) fn name(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn member(text: &str, disk: u128) -> RecordMember {
        RecordMember {
            node: name(text),
            disk: DiskId(disk),
            seat: name(text),
            zone: text.to_owned(),
            weight: 1,
            peer_addr: format!("{text}:1"),
            client_addr: None,
        }
    }

    pub(in crate::api::layout) fn joint() -> ClusterRecord {
        let members = [("n1", 1), ("n2", 2), ("n3", 3)].map(|(name, disk)| member(name, disk));
        let first = ClusterRecord::first("c", 1, 64, members.to_vec()).unwrap();
        let next = [members.as_slice(), &[member("n4", 4)]].concat();
        let reason = Reason { by: name("n1"), at: WallTime(1), note: String::new() };
        first.begin(next, &[], reason).unwrap()
    }

    #[test]
    fn a_record_of_the_history_says_its_cause() {
        let shown = history_entry(&joint());
        assert_eq!((&shown["epoch"], &shown["phase"]), (&json!("2"), &json!("moving")));
        assert_eq!(shown["cause"]["op"], "begin");
        assert_eq!(shown["next"], json!(["n1", "n2", "n3", "n4"]));
    }

    #[test]
    fn warnings_and_refusals_are_told_by_name_and_in_words() {
        let told = warning(&Warning::ZoneShared { partitions: 12, before: 0, of: 64 });
        assert_eq!((&told["name"], &told["partitions"]), (&json!("zone_shared"), &json!(12)));
        assert!(told["text"].as_str().unwrap().starts_with("12 of 64 partitions"));
        let told = refusal(&Refusal::NodeUp { node: name("n3") });
        assert_eq!((&told["name"], &told["node"]), (&json!("node_up"), &json!("n3")));
    }
}
