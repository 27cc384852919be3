//! The cluster record, its history and plans as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_engine::membership::moves::progress_of;
use quorate_engine::node::Node;
use quorate_protocol::layout::{Layout, Partition};
use quorate_protocol::message::MoveProgress;
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Placement;
use quorate_protocol::plan::{Plan, Refusal, Warning, fair_loads, loads};
use quorate_protocol::record::{ClusterRecord, Phase, RecordMember};
use quorate_protocol::stamp::Stamp;
use serde_json::{Map, Value, json};

use crate::api::represent;

/// What nodes said of their part in a change; `None` if one did not.
type Progress = BTreeMap<NodeId, Option<MoveProgress>>;

/// `GET /layout`.
pub(super) async fn layout(node: &Arc<Node>) -> Value {
    let (record, view) = (node.membership.record(), node.view());
    let placement = view.placement();
    let n = view.n_max();
    let states = states(node);
    let progress = progress(node, &record).await;
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
        "leaving": record.leaving().iter().map(|it| leaving(it, &progress)).collect::<Vec<_>>(),
        "progress": Value::Null,
        "waiting": waiting,
    });
    if record.next().is_some() {
        let sources = missing_sources(placement, n, &node.peers.down());
        shown["progress"] = moved(&record, &progress, &sources);
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
    members.filter(|it| record.gone().contains(&it.disk)).map(|it| it.node).collect()
}

fn leaving(member: &RecordMember, progress: &Progress) -> Value {
    let said = progress.get(&member.node).copied().flatten();
    json!({
        "name": member.node,
        "disk": member.disk.to_string(),
        // It may not have counted yet.
        "rows": said.map(|it| it.unowned_rows).filter(|rows| *rows != u64::MAX),
        "hints": said.map(|it| it.hints),
        "released": false,
    })
}

/// Asks the nodes that receive or hand over something how far they are.
async fn progress(node: &Arc<Node>, record: &ClusterRecord) -> Progress {
    let patience = Duration::from_millis(node.config.timeouts.replica_ms);
    let asked = record.next().unwrap_or_default().iter().chain(record.leaving());
    let asked: BTreeSet<NodeId> = asked.map(|member| member.node).collect();
    let answers = asked.into_iter().map(|at| async move {
        let said = tokio::time::timeout(patience, progress_of(node, at)).await;
        (at, said.ok().flatten())
    });
    join_all(answers).await.into_iter().collect()
}

/// Of each node, the home replicas that it has to receive from and that are down.
fn missing_sources(
    placement: &Placement,
    n: u16,
    down: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let mut sources: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    let Some(next) = placement.next() else { return sources };
    for partition in (0..placement.partitions()).map(|number| Partition(number as u16)) {
        let old = placement.layout().homes(partition, n);
        let missing = || old.iter().filter(|it| down.contains(it) && !placement.is_gone(**it));
        for home in next.homes(partition, n).iter().filter(|home| !old.contains(home)) {
            sources.entry(*home).or_default().extend(missing());
        }
    }
    sources
}

fn moved(
    record: &ClusterRecord,
    progress: &Progress,
    sources: &BTreeMap<NodeId, BTreeSet<NodeId>>,
) -> Value {
    let (mut total, mut missing, mut by_node) = (0, 0, Map::new());
    for member in record.next().unwrap_or_default() {
        let said = progress.get(&member.node).copied().flatten();
        total += said.map_or(0, |it| u64::from(it.partitions));
        missing += said.map_or(0, |it| u64::from(it.missing));
        let waits = said.is_none_or(|it| it.missing > 0);
        let waiting_for = sources.get(&member.node).filter(|_| waits).cloned().unwrap_or_default();
        let shown = json!({
            "partitions": said.map(|it| it.partitions),
            "missing": said.map(|it| it.missing),
            "busy": said.map(|it| it.is_busy),
            "waiting_for": waiting_for,
        });
        by_node.insert(member.node.to_string(), shown);
    }
    json!({
        "partitions_total": total,
        "partitions_ready": total - missing,
        "by_node": by_node,
    })
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
            "at": represent::rfc3339(Stamp::at(cause.reason.at)),
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
mod tests {
    use quorate_protocol::record::{DiskId, Reason};
    use quorate_protocol::time::WallTime;

    use super::*;

    fn name(text: &str) -> NodeId {
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

    fn joint() -> ClusterRecord {
        let members = [("n1", 1), ("n2", 2), ("n3", 3)].map(|(name, disk)| member(name, disk));
        let first = ClusterRecord::first("c", 1, 64, members.to_vec()).unwrap();
        let next = [members.as_slice(), &[member("n4", 4)]].concat();
        let reason = Reason { by: name("n1"), at: WallTime(1), note: String::new() };
        first.begin(next, &[], reason).unwrap()
    }

    #[test]
    fn progress_counts_what_is_known_and_names_who_is_waited_for() {
        let record = joint();
        let said = MoveProgress {
            partitions: 48,
            missing: 8,
            is_busy: false,
            unowned_rows: u64::MAX,
            hints: 0,
        };
        let progress: Progress = [(name("n4"), Some(said)), (name("n2"), None)].into();
        let placement = quorate_engine::membership::placement_of(&record);
        let sources = missing_sources(&placement, 3, &[name("n3")].into());
        let shown = moved(&record, &progress, &sources);
        assert_eq!(
            (&shown["partitions_total"], &shown["partitions_ready"]),
            (&json!(48), &json!(40))
        );
        assert_eq!(shown["by_node"]["n4"]["waiting_for"], json!(["n3"]));
        assert_eq!(shown["by_node"]["n2"]["missing"], Value::Null, "it has not said");
        let whole = MoveProgress { missing: 0, ..said };
        let shown = moved(&record, &[(name("n4"), Some(whole))].into(), &sources);
        assert_eq!(shown["by_node"]["n4"]["waiting_for"], json!([]), "it has everything");
        let leaves = leaving(&member("n4", 4), &progress);
        assert_eq!(
            (&leaves["rows"], &leaves["hints"]),
            (&Value::Null, &json!(0)),
            "not counted yet"
        );
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
