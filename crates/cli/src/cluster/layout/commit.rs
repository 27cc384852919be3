//! `quorate layout commit` and `quorate layout abort`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::change::Changes;
use super::plan::{self, list, warnings};
use super::{layout, show};
use crate::app::App;
use crate::exit::{Done, Exit, Failure};
use crate::out::safe;

/// The longest plan that is read, in bytes.
const PLAN_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate layout commit plan.json
  quorate layout plan --add n4 --json | quorate layout commit -
  quorate layout commit --add n4               # shows the plan and asks
  quorate layout commit --remove n2 --yes --accept zone_shared

If another change came first, nothing is done and it exits with 4: plan again. A commit may be repeated:
it finds that it was done. JSON: epoch, hash.")]
pub(super) struct Commit {
    /// A plan that `quorate layout plan -o FILE` wrote; - for standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// A warning of the plan that is accepted, by its name
    #[arg(long, value_name = "WARNING")]
    accept: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "The old layout remains. A node that was joining hands over what it took, and leaves; one
that is dead cannot, and has to be named with --lost. JSON: epoch, hash."
)]
pub(super) struct Abort {
    /// A node that was joining and is dead for good
    #[arg(long, value_name = "NODE")]
    lost: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs `commit`.
pub(super) async fn commit(app: &App, args: &Commit) -> Done<Exit> {
    let document = match (&args.file, args.changes.is_empty()) {
        (Some(_), false) => {
            let why = "give a plan or the flags of a change, not both";
            return Err(Failure::usage(why).into());
        }
        (Some(file), true) => read(file)?,
        (None, _) => {
            let document = plan::ask(app, &args.changes).await?;
            agree(app, args, &document["plan"])?;
            document
        }
    };
    let accepted = list(&document["accept"]).iter().cloned();
    let accept: Vec<Value> = accepted.chain(args.accept.iter().map(|name| json!(name))).collect();
    let agreed = json!({
        "base": document["base"],
        "result": document["result"],
        "changes": document["changes"],
        "gone": document["gone"],
        "accept": accept,
    });
    let begun = app.ask("waiting for votes", app.nodes.admin().commit_layout(&agreed)).await?;
    tell(app, &begun, "has begun; `quorate layout wait` waits for its end")
}

/// Shows the plan and asks; only on a terminal, if `--yes` is not given.
fn agree(app: &App, args: &Commit, plan: &Value) -> Done {
    if !app.out.json {
        plan::show(app, plan)?;
        app.out.line("")?;
    }
    if let Some(refusal) = list(&plan["refusals"]).first() {
        let (name, text) = (refusal["name"].as_str(), refusal["text"].as_str());
        let why = format!("{}: {}", name.unwrap_or("refused"), text.unwrap_or_default());
        return Err(Failure::new(Exit::Failed, safe(&why)).into());
    }
    let open: Vec<String> =
        warnings(plan).into_iter().filter(|name| !args.accept.contains(name)).collect();
    if !open.is_empty() {
        let why = format!("the change has warnings that were not accepted: {}", open.join(", "));
        let flags: Vec<String> = open.iter().map(|name| format!("--accept {name}")).collect();
        let advice = format!("if you mean it: {}", flags.join(" "));
        return Err(Failure::new(Exit::Failed, why).advise(advice).into());
    }
    confirm(args.yes, "begin this change?")
}

/// Runs `abort`.
pub(super) async fn abort(app: &App, args: &Abort) -> Done<Exit> {
    let before = layout(app).await?;
    if before["phase"] != "moving" {
        return Err(Failure::new(Exit::Conflict, "no change of the layout is under way").into());
    }
    if !app.out.json {
        show::tell(app, &before)?;
        app.out.line("")?;
    }
    confirm(args.yes, "give this change up?")?;
    let base = before["hash"].as_str().unwrap_or_default();
    let admin = app.nodes.admin();
    let ended = app.ask("waiting for votes", admin.abort_layout(base, &args.lost)).await?;
    tell(app, &ended, "is in force, with the old layout")
}

pub(super) fn tell(app: &App, answer: &Value, what: &str) -> Done<Exit> {
    if app.out.json {
        app.out.json(answer)?;
        return Ok(Exit::Ok);
    }
    let text = |name: &str| safe(answer[name].as_str().unwrap_or("?"));
    app.out.line(&format!("epoch {} ({}) {what}", text("epoch"), text("hash")))?;
    Ok(Exit::Ok)
}

/// Asks a person. Without a terminal nobody can be asked.
pub(super) fn confirm(yes: bool, question: &str) -> Done {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let why = "nobody is here to be asked: repeat it with --yes";
        return Err(Failure::usage(why).into());
    }
    drop(write!(std::io::stderr().lock(), "{question} [y/N] "));
    let mut line = String::new();
    let failed = |error| Failure::new(Exit::Failed, format!("standard input: {error}"));
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done").into()),
    }
}

fn read(file: &Path) -> Done<Value> {
    let name = file.display();
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().take(PLAN_BYTES_MAX).read_to_string(&mut text),
        false => std::fs::File::open(file)
            .and_then(|open| open.take(PLAN_BYTES_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    Ok(parse(&text).map_err(|why| Failure::usage(format!("{name}: {why}")))?)
}

/// A plan as `quorate layout plan` writes it.
fn parse(text: &str) -> Result<Value, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_plan = ["base", "result"].iter().all(|name| document[*name].is_string());
    match is_plan && document["changes"].is_array() {
        true => Ok(json!({
            "base": document["base"],
            "result": document["result"],
            "changes": document["changes"],
            "gone": list(&document["gone"]),
            "accept": list(&document["accept"]),
        })),
        false => Err("no plan: expected what `quorate layout plan -o FILE` writes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_without_what_is_only_to_be_looked_at() {
        let text = r#"{"base": "b", "result": "r", "changes": [1], "plan": {"load": []}}"#;
        let wanted = json!({"base": "b", "result": "r", "changes": [1], "gone": [], "accept": []});
        assert_eq!(parse(text), Ok(wanted));
        for bad in ["", "[]", "{}", "7", r#"{"base": "b", "result": 1, "changes": []}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
