//! `quorate healthcheck`: one question to one node, for containers and supervisors.

use serde_json::json;

use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::out::short;
use crate::refusal;

/// Ask one node whether it lives, or whether it takes requests: exit code 0 or 1.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate healthcheck                                # /livez: restart it if this fails
  quorate healthcheck --ready                        # /readyz: send it requests if this holds
  HEALTHCHECK CMD [\"quorate\", \"healthcheck\"]         # in a Dockerfile

Only the first address is asked, and nothing is printed unless it fails. Any failure exits with 1.

JSON: healthy, why.")]
pub struct Args {
    /// Whether it takes requests, not only whether it lives
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let url = app.nodes.urls.first().map(String::as_str).unwrap_or_default();
    let admin = app.nodes.look_at(url)?;
    let health = if args.ready { admin.readyz().await } else { admin.livez().await };
    let why = match health {
        Err(error) => Some(refusal::of(&error).message),
        Ok(health) if health.ok => None,
        Ok(health) => {
            let problem: Option<serde_json::Value> = serde_json::from_str(&health.text).ok();
            let detail = problem.as_ref().and_then(|it| it["detail"].as_str());
            Some(format!("{url}: {}", short(detail.unwrap_or(health.text.trim()), 300)))
        }
    };
    if app.out.json {
        app.out.json(&json!({"healthy": why.is_none(), "why": why}))?;
    } else if let Some(why) = &why {
        app.out.note(&format!("unhealthy: {why}"));
    }
    Ok(if why.is_none() { Exit::Ok } else { Exit::Failed })
}
