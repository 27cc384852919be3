//! How far a change of the layout is: what nodes say of their part in it, and what that comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_engine::membership::change;
use quorate_engine::membership::moves::progress_of;
use quorate_engine::node::Node;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::MoveProgress;
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Placement;
use quorate_protocol::plan::loads;
use quorate_protocol::record::{ClusterRecord, Op, RecordMember};
use serde_json::{Map, Value, json};

/// A change is not estimated before it has gone on for so long.
const ESTIMATE_AFTER_MS: u64 = 1_000;

/// What nodes said of their part in a change; `None` if one did not.
pub(super) type Said = BTreeMap<NodeId, Option<MoveProgress>>;

/// Asks the nodes that receive or hand over something how far they are.
pub(super) async fn ask(node: &Arc<Node>, record: &ClusterRecord) -> Said {
    let patience = Duration::from_millis(node.config.timeouts.replica_ms);
    let asked = record.next().unwrap_or_default().iter().chain(record.leaving());
    let asked: BTreeSet<NodeId> = asked.map(|member| member.node).collect();
    let answers = asked.into_iter().map(|at| async move {
        let said = tokio::time::timeout(patience, progress_of(node, at)).await;
        (at, said.ok().flatten())
    });
    join_all(answers).await.into_iter().collect()
}

/// The nodes that left: those that still hand over, and those that were released since the last change began.
pub(super) fn leaving(
    record: &ClusterRecord,
    history: &[Arc<ClusterRecord>],
    said: &Said,
) -> Vec<Value> {
    let hands_over = |member: &RecordMember| {
        let said = said.get(&member.node).copied().flatten();
        json!({
            "name": member.node,
            "disk": member.disk.to_string(),
            // It may not have counted yet.
            "rows": said.map(|it| it.unowned_rows).filter(|rows| *rows != u64::MAX),
            "hints": said.map(|it| it.hints),
            "released": false,
        })
    };
    let was_released = |member: RecordMember| {
        json!({
            "name": member.node,
            "disk": member.disk.to_string(),
            "rows": 0,
            "hints": 0,
            "released": true,
        })
    };
    let left = record.leaving().iter().map(hands_over);
    left.chain(released(record, history).into_iter().map(was_released)).collect()
}

/// The nodes that were leaving after the last change began, and are in no list any more.
fn released(record: &ClusterRecord, history: &[Arc<ClusterRecord>]) -> Vec<RecordMember> {
    let since = history.iter().rev().take_while(|it| it.cause().op != Op::Begin);
    let is_known = |member: &&RecordMember| {
        record.member(member.node).is_some_and(|known| known.disk == member.disk)
    };
    let were: BTreeMap<NodeId, &RecordMember> = since
        .flat_map(|it| it.leaving())
        .filter(|member| !is_known(member))
        .map(|member| (member.node, member))
        .collect();
    were.into_values().cloned().collect()
}

/// How far the change under way is, and about what is left of it.
pub(super) async fn of_change(
    node: &Arc<Node>,
    record: &ClusterRecord,
    (placement, n): (&Placement, u16),
    said: &Said,
) -> Value {
    let sources = missing_sources(placement, n, &node.peers.down());
    let replicas = loads(placement.layout(), n).get(&node.me).copied().unwrap_or_default();
    let bytes = change::holds(node).await.map(|held| held.bytes);
    let facts = Facts {
        bytes_per_replica: bytes.and_then(|bytes| bytes.checked_div(replicas)),
        // Who receives begins anew with each record of two layouts.
        elapsed_ms: node.now().0.saturating_sub(record.cause().reason.at.0),
    };
    moved(record, said, &sources, &facts)
}

/// What estimates are made of.
struct Facts {
    /// What a replica of a partition takes on this node, if it has any.
    bytes_per_replica: Option<u64>,
    /// For how long the change has gone on.
    elapsed_ms: u64,
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
    said: &Said,
    sources: &BTreeMap<NodeId, BTreeSet<NodeId>>,
    facts: &Facts,
) -> Value {
    let bytes_of = |missing: u64| Some(facts.bytes_per_replica?.saturating_mul(missing));
    let (mut total, mut missing, mut by_node) = (0, 0, Map::new());
    let (mut have_all_said, mut eta_s) = (true, Some(0));
    for member in record.next().unwrap_or_default() {
        let said = said.get(&member.node).copied().flatten();
        total += said.map_or(0, |it| u64::from(it.partitions));
        missing += said.map_or(0, |it| u64::from(it.missing));
        have_all_said &= said.is_some();
        let waits = said.is_none_or(|it| it.missing > 0);
        let waiting_for = sources.get(&member.node).filter(|_| waits).cloned().unwrap_or_default();
        let left_s = said.filter(|_| waiting_for.is_empty()).and_then(|it| left_s(&it, facts));
        // The slowest decides.
        eta_s = eta_s.zip(left_s).map(|(so_far, left)| left.max(so_far));
        let shown = json!({
            "partitions": said.map(|it| it.partitions),
            "missing": said.map(|it| it.missing),
            "busy": said.map(|it| it.is_busy),
            "bytes_left": said.and_then(|it| bytes_of(u64::from(it.missing))),
            "waiting_for": waiting_for,
        });
        by_node.insert(member.node.to_string(), shown);
    }
    json!({
        "partitions_total": total,
        "partitions_ready": total - missing,
        "bytes_left": bytes_of(missing).filter(|_| have_all_said),
        "eta_s": eta_s,
        "by_node": by_node,
    })
}

/// About how long a node needs for the rest if it goes on as it did; `None` if that is not known.
fn left_s(said: &MoveProgress, facts: &Facts) -> Option<u64> {
    let missing = u64::from(said.missing);
    if missing == 0 {
        return (!said.is_busy).then_some(0);
    }
    if facts.elapsed_ms < ESTIMATE_AFTER_MS {
        return None;
    }
    let received = u64::from(said.partitions.saturating_sub(said.missing));
    let left_ms = facts.elapsed_ms.saturating_mul(missing).checked_div(received)?;
    Some(left_ms.div_ceil(1_000))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::record::Reason;
    use quorate_protocol::time::WallTime;

    use super::super::show::tests::{joint, name};
    use super::*;

    const SAID: MoveProgress = MoveProgress {
        partitions: 48,
        missing: 8,
        is_busy: false,
        unowned_rows: u64::MAX,
        hints: 0,
    };
    const FACTS: Facts = Facts { bytes_per_replica: Some(100), elapsed_ms: 10_000 };

    fn all(others: MoveProgress, n4: MoveProgress) -> Said {
        let others = ["n1", "n2", "n3"].map(|it| (name(it), Some(others)));
        others.into_iter().chain([(name("n4"), Some(n4))]).collect()
    }

    #[test]
    fn progress_counts_what_is_known_and_names_who_is_waited_for() {
        let record = joint();
        let said: Said = [(name("n4"), Some(SAID)), (name("n2"), None)].into();
        let placement = quorate_engine::membership::placement_of(&record);
        let sources = missing_sources(&placement, 3, &[name("n3")].into());
        let shown = moved(&record, &said, &sources, &FACTS);
        assert_eq!(
            (&shown["partitions_total"], &shown["partitions_ready"]),
            (&json!(48), &json!(40))
        );
        assert_eq!(shown["by_node"]["n4"]["waiting_for"], json!(["n3"]));
        assert_eq!(shown["by_node"]["n4"]["bytes_left"], json!(800));
        assert_eq!(shown["by_node"]["n2"]["missing"], Value::Null, "it has not said");
        assert_eq!((&shown["bytes_left"], &shown["eta_s"]), (&Value::Null, &Value::Null));
        let whole = MoveProgress { missing: 0, ..SAID };
        let shown = moved(&record, &[(name("n4"), Some(whole))].into(), &sources, &FACTS);
        assert_eq!(shown["by_node"]["n4"]["waiting_for"], json!([]), "it has everything");
    }

    #[test]
    fn what_is_left_is_estimated_once_it_can_be() {
        let record = joint();
        let done = MoveProgress { partitions: 0, missing: 0, ..SAID };
        let shown = |n4, facts: &Facts| moved(&record, &all(done, n4), &BTreeMap::new(), facts);
        let left = |n4, facts: &Facts| shown(n4, facts)["eta_s"].as_u64();
        assert_eq!(left(SAID, &FACTS), Some(2), "40 took 10 s, 8 are left");
        assert_eq!(shown(SAID, &FACTS)["bytes_left"], json!(800));
        assert_eq!(left(done, &FACTS), Some(0));
        assert_eq!(left(MoveProgress { missing: 48, ..SAID }, &FACTS), None, "nothing came yet");
        assert_eq!(left(MoveProgress { is_busy: true, ..done }, &FACTS), None, "other work");
        assert_eq!(left(SAID, &Facts { elapsed_ms: 500, ..FACTS }), None);
        let unknown = Facts { bytes_per_replica: None, ..FACTS };
        assert_eq!(shown(SAID, &unknown)["bytes_left"], Value::Null);
        let sources = [(name("n4"), [name("n3")].into())].into();
        let waits = moved(&record, &all(done, SAID), &sources, &FACTS);
        assert_eq!(waits["eta_s"], Value::Null, "it does not go on by itself");
        let slow = MoveProgress { partitions: 8, missing: 4, ..SAID };
        let shown = moved(&record, &all(slow, SAID), &BTreeMap::new(), &FACTS);
        assert_eq!(shown["eta_s"], json!(10), "the slowest decides");
    }

    #[test]
    fn who_left_is_listed_until_the_next_change_begins() {
        let reason = || Reason { by: name("n1"), at: WallTime(1), note: String::new() };
        let begun = joint();
        let aborted = begun.abort(&BTreeSet::new(), reason()).unwrap();
        let said: Said = [(name("n4"), Some(SAID))].into();
        let history = [&begun, &aborted].map(|record| Arc::new(record.clone()));
        let listed = leaving(&aborted, &history, &said);
        assert_eq!(
            (listed.len(), &listed[0]["rows"], &listed[0]["hints"], &listed[0]["released"]),
            (1, &Value::Null, &json!(0), &json!(false)),
            "not counted yet"
        );
        let released = aborted.release(name("n4"), reason()).unwrap();
        let history = [&begun, &aborted, &released].map(|record| Arc::new(record.clone()));
        let listed = leaving(&released, &history, &Said::new());
        assert_eq!((&listed[0]["name"], &listed[0]["released"]), (&json!("n4"), &json!(true)));
        let again = released.begin(begun.next().unwrap().to_vec(), &[], reason()).unwrap();
        let history = [&begun, &aborted, &released, &again].map(|it| Arc::new(it.clone()));
        assert_eq!(leaving(&again, &history, &Said::new()), Vec::<Value>::new());
    }
}
