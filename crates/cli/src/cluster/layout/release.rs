//! `quorate layout release`: lets a leaving node go that is dead for good.

use serde_json::Value;

use super::commit::{confirm, tell};
use super::layout;
use super::plan::list;
use crate::app::App;
use crate::exit::{Done, Exit, Failure};
use crate::out::safe;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  quorate layout release n2 --lost

A node that left is released by itself once it has handed over what it holds. One that died before holds the
change up for ever (`releasing`), until this lets it go. Lost is what only it holds: writes that it alone
acknowledged (w=1, or as a fallback) and had not handed over yet. It is refused while the node answers any
member, and the node can never come back: delete its data directory. May be repeated. JSON: epoch, hash.")]
pub(super) struct Release {
    /// The leaving node
    #[arg(value_name = "NODE")]
    node: String,
    /// It is dead for good
    #[arg(long, required = true)]
    lost: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs `release`.
pub(super) async fn run(app: &App, args: &Release) -> Done<Exit> {
    debug_assert!(args.lost, "it is required");
    let before = layout(app).await?;
    let Some(leaving) = list(&before["leaving"]).iter().find(|it| it["name"] == args.node.as_str())
    else {
        let why = format!("{} is not leaving: `quorate layout show` says who is", safe(&args.node));
        return Err(Failure::new(Exit::Conflict, why).into());
    };
    if !app.out.json {
        app.out.line(&may_be_lost(&args.node, leaving))?;
    }
    confirm(args.yes, "let it go?")?;
    let base = before["hash"].as_str().unwrap_or_default();
    let admin = app.nodes.admin();
    let released = app.ask("waiting for votes", admin.release_lost(base, &args.node)).await?;
    tell(app, &released, "is in force, without it")
}

/// What is lost with a node, as far as that is known.
fn may_be_lost(name: &str, leaving: &Value) -> String {
    let name = safe(name);
    if leaving["released"] == true {
        return format!("{name} is released already");
    }
    let known = match (leaving["rows"].as_u64(), leaving["hints"].as_u64()) {
        (rows, Some(hints)) => {
            let rows = rows.map_or("some".to_owned(), |rows| rows.to_string());
            format!("it holds {rows} rows to hand over and {hints} hints")
        }
        (_, None) => "it does not say what it holds".to_owned(),
    };
    format!(
        "lost is what only {name} has: writes that it alone acknowledged (w=1, or as a fallback) and had not \
         handed over; {known}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_lost_is_said_as_far_as_it_is_known() {
        let told = |leaving| may_be_lost("n2", &leaving);
        let silent = told(json!({"released": false, "rows": null, "hints": null}));
        assert!(silent.ends_with("it does not say what it holds"), "{silent}");
        let counted = told(json!({"released": false, "rows": 3, "hints": 4}));
        assert!(counted.ends_with("it holds 3 rows to hand over and 4 hints"), "{counted}");
        let released = told(json!({"released": true, "rows": 0, "hints": 0}));
        assert_eq!(released, "n2 is released already");
    }
}
