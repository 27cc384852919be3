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
        Ok(health) => {
            let told: Option<serde_json::Value> = serde_json::from_str(&health.text).ok();
            // Another program may answer 200 to anything.
            let is_ours = match args.ready {
                true => told.as_ref().is_some_and(|it| it["ready"].as_bool() == Some(true)),
                false => health.text.starts_with("alive"),
            };
            let detail = told.as_ref().and_then(|it| it["detail"].as_str());
            let detail = short(detail.unwrap_or(health.text.trim()), 300);
            match (health.ok, is_ours) {
                (true, true) => None,
                (true, false) => Some(format!("{url} is no Quorate node, it seems: {detail:?}")),
                (false, _) => Some(format!("{url}: {detail}")),
            }
        }
    };
    if app.out.json {
        app.out.json(&json!({"healthy": why.is_none(), "why": why}))?;
    } else if let Some(why) = &why {
        app.out.note(&format!("unhealthy: {why}"));
    }
    Ok(if why.is_none() { Exit::Ok } else { Exit::Failed })
}
