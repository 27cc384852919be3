//! `GET /jobs`: the background jobs of this node.

use axum::extract::Request;
use quorate_engine::background::jobs::JobView;
use quorate_engine::background::registry;
use quorate_protocol::time::WallTime;
use serde_json::{Value, json};

use super::gate::Gate;
use super::represent;
use super::route::Answer;

/// `GET /jobs`: every job that was started, and what it does.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node;
    let shown = |it: &JobView| job(it, registry::share_percent(&node, it.name));
    let jobs: Vec<Value> = registry::list(&node).iter().map(shown).collect();
    Ok(represent::json(&json!({"node": node.me, "jobs": jobs})))
}

/// A job, and the share of a core that it may take, in percent: as configured, and at the current load.
fn job(job: &JobView, share: Option<(u32, f64)>) -> Value {
    let date = |at: WallTime| represent::rfc3339(at);
    let (done, of) = job.progress.unzip();
    let (failed_at, error) = job.error.clone().unzip();
    let (share, share_now) = share.unzip();
    json!({
        "job": job.name,
        "about": job.about,
        "peer": job.peer,
        "state": job.phase.name(),
        "reason": job.phase.reason(),
        "runs": job.runs,
        "worked_at": job.last.map(|last| date(last.at)),
        "took_us": job.last.map(|last| last.took.as_micros() as u64),
        "busy_ms": job.busy.as_millis() as u64,
        "done": done,
        "of": of,
        "last_error": error,
        "failed_at": failed_at.map(date),
        "share_percent": share,
        "share_now_percent": share_now.map(|share| (share * 10.0).round() / 10.0),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_engine::background::jobs::{Last, Pause, Phase};

    use super::*;

    #[test]
    fn what_a_job_does_not_know_is_null() {
        let view = JobView {
            name: "scrub",
            about: "Recomputes trees",
            peer: None,
            phase: Phase::Waiting,
            runs: 0,
            busy: Duration::ZERO,
            last: None,
            progress: None,
            error: None,
        };
        let shown = job(&view, None);
        for unknown in ["peer", "reason", "worked_at", "took_us", "done", "of", "last_error"] {
            assert_eq!(shown[unknown], Value::Null, "{unknown}");
        }
        let at = WallTime(1_700_000_000_000);
        let paused = JobView {
            phase: Phase::Paused(Pause::StoreFailed),
            last: Some(Last { at, took: Duration::from_micros(1500) }),
            progress: Some((3, 64)),
            error: Some((at, "no luck".to_owned())),
            ..view
        };
        let shown = job(&paused, Some((20, 1.25)));
        assert_eq!(shown["state"], "paused");
        assert_eq!(shown["reason"], "store failed");
        assert_eq!((&shown["done"], &shown["of"]), (&json!(3), &json!(64)));
        assert_eq!(shown["worked_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!((&shown["took_us"], &shown["failed_at"]), (&json!(1500), &shown["worked_at"]));
        assert_eq!(
            (&shown["last_error"], &shown["share_now_percent"]),
            (&json!("no luck"), &json!(1.3))
        );
    }
}
