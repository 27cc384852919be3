//! `GET /anti-entropy`: the state of replica comparison. `POST /anti-entropy/run`: compare now.
//! `POST /anti-entropy/scrub`: recompute the trees now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::Request;
use futures_util::future::join_all;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::query::Params;
use super::represent;
use super::route::Answer;
use quorate_engine::node::Node;
use quorate_engine::repair::anti_entropy::{Report, Scope, run_round};
use quorate_engine::repair::reassign::{scrub_indexes, scrub_partition};

/// `GET /anti-entropy`.
pub(super) async fn show(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node;
    let rounds: Vec<Value> = node.anti_entropy.reports().iter().map(|r| round(&node, r)).collect();
    let totals = node.anti_entropy.totals();
    let load = |counter: &AtomicU64| counter.load(Relaxed);
    let swept = &node.swept;
    let last_ms_ago = match load(&swept.scrubbed_at_ms) {
        0 => Value::Null,
        at_ms => json!(node.uptime().0.saturating_sub(at_ms)),
    };
    Ok(represent::json(&json!({
        "interval_ms": node.config.anti_entropy.interval_ms,
        "rounds": rounds,
        "totals": {
            "rounds": totals.rounds,
            "keys_repaired": totals.keys_repaired,
            "bytes": totals.bytes_sent + totals.bytes_received,
        },
        "dirty_partitions": node.anti_entropy.dirty_partitions(),
        "partitions_not_ready": node.filled.missing_count(),
        "keys_in_doubt": node.filled.doubtful().len(),
        "scrub": {
            "interval_ms": node.config.anti_entropy.scrub_ms,
            "partitions": load(&swept.scrubbed),
            "wrong_leaves": load(&swept.wrong_leaves),
            "whole_ms_ago": last_ms_ago,
        },
        "sweep": {
            "trees_fit": node.trees_fit(),
            "rows_moved": load(&swept.moved),
            "rows_dropped": load(&swept.dropped),
            "rows_not_owned": load(&swept.unowned),
            "looks": load(&swept.looks),
        },
        "reaper": {"grace_ms": node.config.deletes.grace_ms, "rows_reaped": load(&node.reaped)},
    })))
}

/// `POST /anti-entropy/run?node=&partition=&timeout_ms=`: compares with one peer, or with all that
/// are up. Answers when done or at the timeout; rounds that are still running then continue.
pub(super) async fn run(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    gate.timeout_ms(&params)?; // named whatever the node's state, as all that is wrong here
    let partition = partition(&gate.node, &params)?;
    let pass = gate.enter(&params)?;
    let (node, deadline) = (gate.node, pass.deadline());
    // One run at a time: rounds that outlive their request keep its slot until they end.
    let turn = node.bounds.comparisons.clone().acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout_at(deadline, turn).await else {
        return Err(in_progress("a comparison"));
    };
    let turn = Arc::new(turn);
    let down = node.peers.down();
    let peers: Vec<NodeId> = match params.node {
        Some(peer) if !node.peers.contains(peer) => {
            return Err(Problem::bad_parameter("node", "must be another node of the layout"));
        }
        Some(peer) => vec![peer],
        None => node.peers.nodes().collect(),
    };
    let scope = match partition {
        Some(partition) => Scope::Partitions(BTreeSet::from([partition])),
        None => Scope::All,
    };
    let rounds = peers.iter().filter(|peer| !down.contains(peer)).map(|peer| {
        let (node, peer, scope) = (node.clone(), *peer, scope.clone());
        let (running, turn) = (node.clone(), turn.clone());
        let (tell, told) = oneshot::channel();
        node.background.spawn(async move {
            let _turn = turn;
            drop(tell.send(run_round(&running, peer, scope).await));
        });
        told
    });
    let rounds = join_all(rounds);
    drop(turn);
    let reports = match tokio::time::timeout_at(deadline, rounds).await {
        Ok(reports) => reports.into_iter().flatten().collect(),
        Err(_) => Vec::new(),
    };
    let is_complete = reports.len() == peers.len() && reports.iter().all(|r| r.is_complete);
    let unreachable: Vec<NodeId> = peers.into_iter().filter(|peer| down.contains(peer)).collect();
    let rounds: Vec<Value> = reports.iter().map(|report| round(&node, report)).collect();
    let answer = json!({
        "complete": is_complete && node.filled.is_complete() && node.buckets.raised().is_empty(),
        "rounds": rounds,
        "unreachable": unreachable,
    });
    Ok(represent::json(&answer))
}

/// `POST /anti-entropy/scrub?partition=&timeout_ms=`: recomputes the trees of one partition or of
/// all.
pub(super) async fn scrub(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    gate.timeout_ms(&params)?;
    let node = &gate.node;
    let partitions = match partition(node, &params)? {
        Some(partition) => vec![partition],
        None => node.view().partitions().collect(),
    };
    let pass = gate.enter(&params)?;
    let deadline = pass.deadline();
    let Ok(Ok(_turn)) = tokio::time::timeout_at(deadline, node.bounds.scrubs.acquire()).await
    else {
        return Err(in_progress("a scrub"));
    };
    let scrubbed = AtomicU64::new(0);
    let wrong = AtomicU64::new(0);
    let all = async {
        for partition in &partitions {
            wrong.fetch_add(scrub_partition(node, *partition).await, Relaxed);
            scrubbed.fetch_add(1, Relaxed);
        }
        if params.partition.is_none() {
            wrong.fetch_add(scrub_indexes(node).await, Relaxed);
        }
    };
    let in_time = tokio::time::timeout_at(deadline, all).await;
    Ok(represent::json(&json!({
        "complete": in_time.is_ok(),
        "partitions": scrubbed.load(Relaxed),
        "wrong_leaves": wrong.load(Relaxed),
    })))
}

fn in_progress(what: &str) -> Problem {
    Problem::new(Kind::Overloaded, format!("{what} is already in progress"))
}

fn partition(node: &Node, params: &Params) -> Result<Option<Partition>, Problem> {
    match params.partition {
        Some(p) if u32::from(p) >= node.view().placement().partitions() => {
            let most = node.view().placement().partitions() - 1;
            Err(Problem::bad_parameter("partition", format!("must be from 0 to {most}")))
        }
        p => Ok(p.map(Partition)),
    }
}

fn round(node: &Node, report: &Report) -> Value {
    json!({
        "peer": report.peer,
        "partitions": report.trees,
        "differing": report.differing,
        "differing_partitions": report.partitions.iter().map(|p| p.0).collect::<Vec<_>>(),
        "keys_compared": report.keys_compared,
        "keys_repaired": report.keys_repaired,
        "bytes_sent": report.bytes_sent,
        "bytes_received": report.bytes_received,
        "began_ms_ago": node.uptime().since(report.began),
        "took_ms": report.took_ms,
        "outcome": if report.is_complete { "complete" } else { "incomplete" },
    })
}
