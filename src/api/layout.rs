//! `/layout`: the cluster record in force, and changes of it: planned, committed, given up, waited for.

mod progress;
mod refused;
mod show;
pub(super) mod wanted;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use quorate_engine::membership::change::{self, ChangeError};
use quorate_engine::membership::{HISTORY_MAX, lost};
use quorate_engine::node::{Node, Unavailable};
use quorate_protocol::record::ClusterRecord;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use self::wanted::{AbortBody, CommitBody, PlanBody, ReleaseBody};
use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::query::Params;
use super::route::Answer;
use super::{body, represent, write};

/// The longest document of changes, in bytes of JSON: as many changes as a plan may have, with long names.
const JSON_BYTES_MAX: usize = 128 << 10;
/// How often a waiting request looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A record has at least so long to be decided, however long planning took.
const DECIDE_AT_LEAST: Duration = Duration::from_secs(1);

/// `GET /layout`: who is a member, and how far a change is.
pub(super) async fn show(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let _pass = gate.enter(&params)?;
    Ok(represent::json(&show::layout(&gate.node).await))
}

/// `GET /layout/history?limit=`: the last records, newest first.
pub(super) async fn history(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let limit = params.limit.unwrap_or(HISTORY_MAX);
    let records = gate.node.record_history();
    let shown: Vec<Value> =
        records.iter().rev().take(limit).map(|it| show::history_entry(it)).collect();
    Ok(represent::json(&json!(shown)))
}

/// `GET /layout/wait?epoch=&phase=&timeout_ms=`: `GET /layout` once the epoch is at least this and the phase
/// is this; 204 when the time is over.
pub(super) async fn wait(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    gate.timeout_ms(&params)?; // named whatever the node's state
    let mut pass = gate.enter(&params)?;
    pass.begin();
    let is_so = waited(&gate.node, &params, pass.deadline()).await?;
    pass.end();
    match is_so {
        true => Ok(represent::json(&show::layout(&gate.node).await)),
        false => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn waited(node: &Node, params: &Params, deadline: Instant) -> Result<bool, Problem> {
    loop {
        let record = node.membership.record();
        let is_epoch = params.epoch.is_none_or(|epoch| record.epoch() >= epoch);
        if is_epoch && params.phase.is_none_or(|phase| record.phase() == phase) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if node.is_draining() {
            return Err(Unavailable::Stopping.into());
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// `POST /layout/plan`: what some changes would come to.
pub(super) async fn plan(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = planned(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn planned(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, mut pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let asked: PlanBody = body::parse_json(&text)?;
    let (base, wanted) = asked.resolve(&gate.node.membership.waiting.all(gate.node.uptime()))?;
    pass.begin();
    let node = gate.node.clone();
    let plan =
        in_turn(
            &gate.node,
            pass.deadline(),
            async move { change::plan(&node, base, wanted).await },
        );
    let plan = plan.await?;
    pass.end();
    Ok(represent::json(&show::plan(&plan)))
}

/// `POST /layout/commit`: begins a change that was planned.
pub(super) async fn commit(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = committed(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn committed(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, mut pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let asked: CommitBody = body::parse_json(&text)?;
    let waiting = gate.node.membership.waiting.all(gate.node.uptime());
    let (agreed, wanted) = asked.resolve(&waiting)?;
    pass.begin();
    let (node, accept, patience) = (gate.node.clone(), agreed.accept.clone(), pass.timeout());
    let record = in_turn(&gate.node, pass.deadline(), async move {
        change::commit(&node, &agreed, wanted, patience.max(DECIDE_AT_LEAST)).await
    });
    let record = record.await.map_err(|error| error.accepting(&accept))?;
    pass.end();
    Ok(accepted(&record))
}

/// `POST /layout/abort`: gives up the change that is under way.
pub(super) async fn abort(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = aborted(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn aborted(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, mut pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let asked: AbortBody = body::parse_json(&text)?;
    let (base, lost) = asked.resolve()?;
    pass.begin();
    let (node, patience) = (gate.node.clone(), pass.timeout().max(DECIDE_AT_LEAST));
    let record = in_turn(&gate.node, pass.deadline(), async move {
        change::abort(&node, base, &lost, patience).await
    });
    let record = record.await?;
    pass.end();
    Ok(accepted(&record))
}

/// `POST /layout/release`: lets a leaving node go that is dead for good.
pub(super) async fn release(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = released(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn released(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, mut pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let asked: ReleaseBody = body::parse_json(&text)?;
    let (base, dead) = asked.resolve()?;
    pass.begin();
    let (node, patience) = (gate.node.clone(), pass.timeout().max(DECIDE_AT_LEAST));
    let record = in_turn(&gate.node, pass.deadline(), async move {
        lost::release(&node, base, dead, patience).await
    });
    let record = record.await?;
    pass.end();
    Ok(accepted(&record))
}

/// Why work on a change came to nothing: it did not begin, or what it found.
enum Failed {
    Waiting(Problem),
    Change(ChangeError),
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Waiting(problem) => problem,
            Failed::Change(error) => error.into(),
        }
    }
}

impl Failed {
    /// As a problem that does not name the warnings that were accepted.
    fn accepting(self, accept: &BTreeSet<String>) -> Problem {
        match self {
            Self::Waiting(problem) => problem,
            Self::Change(ChangeError::Unsafe(plan)) => refused::unsafe_plan(&plan, accept),
            Self::Change(error) => error.into(),
        }
    }
}

/// Plans and commits one at a time, each as a task of its own: it goes on, and keeps its turn, if the client
/// is gone.
async fn in_turn<T: Send + 'static>(
    node: &Arc<Node>,
    deadline: Instant,
    work: impl Future<Output = Result<T, ChangeError>> + Send + 'static,
) -> Result<T, Failed> {
    let node = node.clone();
    let task = tokio::spawn(async move {
        let turn = timeout_at(deadline, node.membership.planning.acquire());
        let Ok(Ok(_turn)) = turn.await else {
            let detail = "another change is being planned or committed by this node; try again";
            return Err(Failed::Waiting(Problem::new(Kind::Overloaded, detail)));
        };
        work.await.map_err(Failed::Change)
    });
    match task.await {
        Ok(done) => done,
        Err(_) => {
            let detail = "the change was not completed; its outcome is unknown";
            let problem = Problem::new(Kind::Internal, detail).fact("outcome", "unknown");
            Err(Failed::Waiting(problem))
        }
    }
}

fn accepted(record: &ClusterRecord) -> Response {
    let mut response = represent::json(&json!({
        "epoch": record.epoch().to_string(),
        "hash": record.hash().to_string(),
    }));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
