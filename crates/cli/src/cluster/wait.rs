//! `quorate wait`: until the cluster is as asked, or time is up.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{anti_entropy, hints};
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit, Failure, Stop};
use crate::out::count;
use crate::progress::Waiting;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long one comparison of all replicas may take, in milliseconds.
const COMPARE_MS: u64 = 10_000;

/// Wait until the cluster is ready, converged, or without hints.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate wait ready                       # after a start: every node takes requests
  quorate wait no-hints --timeout 300      # before the next node is restarted
  quorate wait converged                   # every replica of every key is equal

Exits with 0 once it is so, and with 7 if time was up. A cluster that does not answer is waited for
too.

JSON: done, condition, waited_ms, missing (what was not so at the end).")]
pub struct Args {
    /// What to wait for
    #[arg(value_enum)]
    condition: Condition,
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    timeout: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Condition {
    /// Every node takes requests and has all its partitions
    Ready,
    /// No node keeps a hint, and a comparison of all replicas finds no difference
    Converged,
    /// No node keeps a hint for another
    NoHints,
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Converged => "converged",
            Self::NoHints => "no-hints",
        }
    }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.timeout);
    let mut shown = Waiting::start(args.condition.name());
    let missing = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let missing = match missing(app, args.condition, left).await {
            Ok(missing) => missing,
            Err(Stop::Failed(failure)) if failure.exit != Exit::Usage => Some(failure.message),
            Err(stop) => return Err(stop),
        };
        let Some(why) = missing else { break None };
        shown.show(&why);
        if Instant::now() + LOOK_EVERY >= deadline {
            break Some(why);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    shown.finish();
    let waited_ms = started.elapsed().as_millis() as u64;
    let condition = args.condition.name();
    if app.out.json {
        app.out.json(&json!({
            "done": missing.is_none(),
            "condition": condition,
            "waited_ms": waited_ms,
            "missing": missing,
        }))?;
        return Ok(if missing.is_none() { Exit::Ok } else { Exit::TimedOut });
    }
    match missing {
        None => {
            app.out.line(&format!("{condition} after {}", crate::out::millis(waited_ms)))?;
            Ok(Exit::Ok)
        }
        Some(why) => {
            let message = format!("not {condition} after {} s: {why}", args.timeout);
            let advice = "`quorate status` and `quorate doctor` show more; --timeout waits longer";
            Err(Failure::new(Exit::TimedOut, message).advise(advice).into())
        }
    }
}

/// What is not so yet.
async fn missing(app: &App, condition: Condition, left: Duration) -> Done<Option<String>> {
    match condition {
        Condition::Ready => not_ready(app).await,
        Condition::NoHints => hinted(app).await,
        Condition::Converged => match (not_ready(app).await?, hinted(app).await?) {
            (Some(why), _) | (None, Some(why)) => Ok(Some(why)),
            (None, None) => different(app, left).await,
        },
    }
}

async fn not_ready(app: &App) -> Done<Option<String>> {
    let members = app.nodes.cluster().await?.members;
    let views = app.nodes.everywhere(&members, async |admin| admin.cluster().await).await;
    let tell = |(member, view): (&crate::nodes::Member, Result<serde_json::Value, String>)| {
        let name = &member.name;
        let view = match view {
            Ok(view) => view,
            Err(why) => return Some(format!("{name}: {why}")),
        };
        if view["ready"].as_bool() != Some(true) {
            let why = view["not_ready"].as_str().unwrap_or("not ready");
            return Some(format!("{name}: {}", crate::out::safe(why)));
        }
        (view["filled"].as_bool() != Some(true)).then(|| format!("{name} still fills"))
    };
    let found: Vec<String> = members.iter().zip(views).filter_map(tell).collect();
    Ok((!found.is_empty()).then(|| found.join("; ")))
}

async fn hinted(app: &App) -> Done<Option<String>> {
    let kept = hints::everywhere(app).await?;
    Ok(match (kept.keys(), kept.unreachable.is_empty()) {
        (0, true) => None,
        (0, false) => Some(format!("{} did not answer", kept.unreachable.join(", "))),
        (keys, _) => Some(format!("{} left", count(keys, "hint"))),
    })
}

async fn different(app: &App, left: Duration) -> Done<Option<String>> {
    let within_ms = (left.as_millis() as u64).clamp(1, COMPARE_MS);
    let told = anti_entropy::compare(app, None, within_ms).await?;
    Ok(match (told.is_complete(), told.differing()) {
        (true, 0) => None,
        (true, differing) => {
            let repaired = count(told.repaired(), "key");
            Some(format!("{} differed; {repaired} repaired", count(differing, "partition")))
        }
        (false, _) => Some("not every pair of nodes has compared all".to_owned()),
    })
}
