//! `quorate layout wait`: until a change has ended, with its progress.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::show;
use crate::app::App;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::out::{millis, safe};
use crate::progress::Progress;

/// How long one request waits, in milliseconds: then the progress is shown again.
const LOOK_MS: u64 = 500;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate layout wait                          # until no change is under way, and nobody is leaving
  quorate layout wait --epoch 18 --phase releasing --timeout 60

Exits with 0 once it is so, and with 7 if time was up. A cluster that does not answer is waited for too.
JSON: done, waited_ms, layout (as GET /layout), missing (what was not so at the end).")]
pub(super) struct Wait {
    /// The phase to wait for
    #[arg(long, default_value = "stable", value_parser = ["stable", "moving", "releasing"])]
    phase: String,
    /// The epoch to wait for, or a later one
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    epoch: Option<u64>,
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(0..=604_800))]
    timeout: u64,
}

/// Runs the command.
pub(super) async fn run(app: &App, args: &Wait) -> Done<Exit> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.timeout);
    let mut bar: Option<(u64, Progress)> = None;
    let ended = loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        let missing = match look(app, args, left.clamp(1, LOOK_MS)).await {
            Ok(Looked::Done(layout)) => break Ok(layout),
            Ok(Looked::NotYet(layout)) => {
                show_progress(&mut bar, &layout);
                missing(&layout)
            }
            Err(Stop::Failed(failure)) if failure.exit != Exit::Usage => {
                tokio::time::sleep(Duration::from_millis(left.min(LOOK_MS))).await;
                failure.message
            }
            Err(stop) => return Err(stop),
        };
        if Instant::now() >= deadline {
            break Err(missing);
        }
    };
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    tell(app, args, ended, started.elapsed().as_millis() as u64)
}

enum Looked {
    Done(Value),
    NotYet(Value),
}

async fn look(app: &App, args: &Wait, within_ms: u64) -> Done<Looked> {
    let admin = app.nodes.admin();
    let (epoch, phase) = (args.epoch, Some(args.phase.as_str()));
    if let Some(layout) = admin.wait_layout(epoch, phase, Some(within_ms)).await? {
        return Ok(Looked::Done(super::check(layout)?));
    }
    Ok(Looked::NotYet(super::check(admin.layout().await?)?))
}

fn show_progress(bar: &mut Option<(u64, Progress)>, layout: &Value) {
    let number = |name: &str| layout["progress"][name].as_u64().unwrap_or_default();
    let total = number("partitions_total");
    if bar.as_ref().is_none_or(|(known, _)| *known != total) {
        if let Some((_, old)) = bar.take() {
            old.finish();
        }
        *bar = Some((total, Progress::start("moving", (total > 0).then_some(total))));
    }
    if let Some((_, bar)) = bar {
        let waits = show::waits_for(layout).map(|sources| format!("waiting for {sources}, down"));
        let message = if total > 0 { waits.unwrap_or_default() } else { missing(layout) };
        bar.show(number("partitions_ready"), &message);
    }
}

/// What is not so yet.
fn missing(layout: &Value) -> String {
    let epoch = safe(layout["epoch"].as_str().unwrap_or("?"));
    match layout["phase"].as_str() {
        Some("moving") => format!("epoch {epoch}: {}", show::progress(layout)),
        Some("releasing") => {
            let leaving = leaving(layout, false);
            format!("epoch {epoch}: still to hand over: {}", crate::cluster::names(&leaving))
        }
        phase => format!("epoch {epoch} is {}", safe(phase.unwrap_or("?"))),
    }
}

/// The nodes that left, and were released or not.
fn leaving(layout: &Value, released: bool) -> Vec<Value> {
    let left = super::plan::list(&layout["leaving"]).iter();
    left.filter(|it| (it["released"] == true) == released).map(|it| it["name"].clone()).collect()
}

fn tell(app: &App, args: &Wait, ended: Result<Value, String>, waited_ms: u64) -> Done<Exit> {
    if app.out.json {
        let (layout, missing) = (ended.as_ref().ok(), ended.as_ref().err());
        app.out.json(&json!({
            "done": layout.is_some(),
            "waited_ms": waited_ms,
            "layout": layout,
            "missing": missing,
        }))?;
        return Ok(if ended.is_ok() { Exit::Ok } else { Exit::TimedOut });
    }
    match ended {
        Ok(layout) => {
            let epoch = safe(layout["epoch"].as_str().unwrap_or("?"));
            app.out.line(&format!(
                "epoch {epoch} is {} after {}",
                args.phase,
                millis(waited_ms)
            ))?;
            let released = leaving(&layout, true);
            if !released.is_empty() {
                let names = crate::cluster::names(&released);
                app.out
                    .line(&format!("released, stop and delete the data directory of: {names}"))?;
            }
            Ok(Exit::Ok)
        }
        Err(why) => {
            let message = format!("not {} after {} s: {why}", args.phase, args.timeout);
            let advice = "`quorate layout show` says who is waited for; start that node, or see \
                          \"Changing the cluster\" in docs/operations.md";
            Err(Failure::new(Exit::TimedOut, message).advise(advice).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_by_phase() {
        let moving = json!({"epoch": "2", "phase": "moving", "progress": {
            "partitions_total": 8, "partitions_ready": 3, "by_node": {}}});
        assert_eq!(missing(&moving), "epoch 2: 3 of 8 partitions received");
        let leaving = json!({"epoch": "3", "phase": "releasing", "leaving": [
            {"name": "n2", "released": false}, {"name": "n5", "released": true}]});
        assert_eq!(missing(&leaving), "epoch 3: still to hand over: n2");
        assert_eq!(missing(&json!({"epoch": "3", "phase": "stable"})), "epoch 3 is stable");
    }
}
