//! `quorate explain`, and `--explain` of `get`, `put` and `delete`: how a request was carried out.

use std::time::Duration;

use quorate_client::{Answered, Error};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::Common;
use crate::cluster::names;
use crate::exit::{Done, Exit, Failure};
use crate::table::{Paint, Table, cell, maybe, painted};

/// How long to wait for the rest of a trace, such as repairs after the answer.
const DONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Show how a request was carried out, step by step.
///
/// Nodes keep the traces of explained requests for a while, and by themselves those of slow and
/// failed ones.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate get carts/alice --explain       # explain a new request
  quorate explain --slow                  # slow and failed requests that the nodes have kept
  quorate explain 8f3a0c1d22e4b7a9        # one of them

JSON: the trace as the node gives it; of --slow: traces (id, at, method, bucket, key, status, took_us,
why, node), unreachable.")]
pub struct Args {
    /// The id of a trace, 16 hexadecimal digits
    #[arg(value_name = "ID", required_unless_present = "slow", conflicts_with = "slow", value_parser = id)]
    id: Option<String>,
    /// List the slow and failed requests that the nodes have kept, newest first
    #[arg(long)]
    slow: bool,
    /// List at most so many of each node
    #[arg(long, default_value_t = 50, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    pub(crate) common: Common,
}

fn id(text: &str) -> Result<String, String> {
    let fits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if fits { Ok(text.to_owned()) } else { Err("expected 16 hexadecimal digits".to_owned()) }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    match &args.id {
        Some(id) => one(app, id).await,
        None => slow(app, args.limit).await,
    }
}

async fn one(app: &App, id: &str) -> Done<Exit> {
    let members = app.nodes.cluster().await?.members;
    let answers = app.nodes.everywhere(&members, async |admin| match admin.explanation(id).await {
        Err(quorate_client::Error::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    });
    let answers = answers.await;
    let mut silent = Vec::new();
    for (member, answer) in members.iter().zip(answers) {
        match answer {
            Ok(Some(trace)) => {
                show(app, &trace)?;
                return Ok(Exit::Ok);
            }
            Ok(None) => {}
            Err(_) => silent.push(member.name.as_str()),
        }
    }
    let mut message = format!("no node has a trace {id} (any more)");
    if !silent.is_empty() {
        message += &format!("; {} did not answer", silent.join(", "));
    }
    let advice = "quorate explain --slow lists those that are kept";
    Err(Failure::new(Exit::NotFound, message).advise(advice).into())
}

async fn slow(app: &App, limit: u16) -> Done<Exit> {
    let members = app.nodes.cluster().await?.members;
    let answers = app.nodes.everywhere(&members, async |admin| admin.slow(Some(limit)).await).await;
    let (mut traces, mut unreachable) = (Vec::new(), Vec::new());
    for (member, answer) in members.iter().zip(answers) {
        let list = answer.ok().and_then(|answer| answer["traces"].as_array().cloned());
        let Some(list) = list else {
            unreachable.push(member.name.clone());
            continue;
        };
        traces.extend(list.into_iter().filter(Value::is_object).map(|mut trace| {
            trace["node"] = json!(member.name);
            trace
        }));
    }
    let at = |trace: &Value| trace["at"].as_str().unwrap_or_default().to_owned();
    traces.sort_by_key(|trace| std::cmp::Reverse(at(trace)));
    let exit = if unreachable.is_empty() { Exit::Ok } else { Exit::Unavailable };
    if app.out.json {
        app.out.json(&json!({"traces": traces, "unreachable": unreachable}))?;
        return Ok(exit);
    }
    if traces.is_empty() {
        app.out.line("no slow or failed request is kept")?;
    } else {
        let headings = ["at (UTC)", "id", "node", "request", "status", "#took", "why"];
        let mut table = Table::new(&headings);
        for trace in &traces {
            let text = |name: &str| trace[name].as_str().unwrap_or("?").to_owned();
            let request = format!("{} {}/{}", text("method"), text("bucket"), text("key"));
            table.row(vec![
                cell(at(trace).replace('T', " ").trim_end_matches('Z')),
                cell(text("id")),
                cell(text("node")),
                cell(crate::out::short(&request, 60)),
                status(trace),
                maybe(trace["took_us"].as_u64().map(micros)),
                cell(text("why")),
            ]);
        }
        app.out.table(&table)?;
    }
    if !unreachable.is_empty() {
        app.out.note(&format!("note: {} did not tell", unreachable.join(", ")));
    }
    Ok(exit)
}

/// Prints the trace of an explained request that was answered.
///
/// # Errors
/// If the node keeps none.
pub(crate) async fn of_answer(app: &App, answered: &Answered) -> Done {
    let Some(id) = &answered.explain_id else {
        let message = format!("{} does not explain requests", answered.node);
        return Err(Failure::new(Exit::Failed, message)
            .advise("it is of an older release: quorate status shows releases")
            .into());
    };
    of_request(app, &answered.node, id).await
}

/// Prints the trace of an explained request that failed, if there is one: there is none if no node was
/// asked, and the failure itself is told anyway.
pub(crate) async fn of_error(app: &App, error: &Error) {
    let Some(problem) = error.problem() else { return };
    let Some(id) = problem.explain_id() else { return };
    if of_request(app, problem.node(), id).await.is_err() {
        app.out.note(&format!("note: {} did not show the trace {id}", problem.node()));
    }
}

async fn of_request(app: &App, node: &str, id: &str) -> Done {
    let admin = app.nodes.look_at(node)?;
    // Repairs come after the answer.
    let deadline = tokio::time::Instant::now() + DONE_WITHIN;
    loop {
        let trace = admin.explanation(id).await?;
        if trace["done"].as_bool() == Some(true) || tokio::time::Instant::now() >= deadline {
            return show(app, &trace);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn show(app: &App, trace: &Value) -> Done {
    if app.out.json {
        return app.out.json(trace);
    }
    for line in head(trace) {
        app.out.line(&line)?;
    }
    app.out.line("")?;
    app.out.table(&timeline(trace))?;
    if trace["truncated"].as_bool() == Some(true) {
        app.out.note("note: the trace was cut: more happened than a trace holds");
    }
    if trace["done"].as_bool() == Some(false) {
        app.out.note("note: the request still goes on (repairs, late answers)");
    }
    Ok(())
}

fn head(trace: &Value) -> Vec<String> {
    let text = |value: &Value| crate::out::safe(value.as_str().unwrap_or("?"));
    let number = |name: &str| trace[name].as_u64().map_or("?".to_owned(), |it| it.to_string());
    let took = trace["took_us"].as_u64().map(micros).unwrap_or_default();
    let problem = trace["problem"].as_str().map(|it| format!(" ({})", crate::out::safe(it)));
    let mut lines = vec![format!(
        "{} {}/{}: {}{} after {took}",
        text(&trace["method"]),
        text(&trace["bucket"]),
        text(&trace["key"]),
        number("status"),
        problem.unwrap_or_default(),
    )];
    let coordinator = match trace["coordinator"]["node"].as_str() {
        Some(node) => format!(
            ", coordinator {} ({})",
            crate::out::safe(node),
            text(&trace["coordinator"]["why"])
        ),
        None => String::new(),
    };
    lines.push(format!("entry node {}{coordinator}", text(&trace["entry"])));
    let list = trace["preference_list"].as_array().map(Vec::as_slice).unwrap_or_default();
    let n = usize::try_from(trace["n"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX).min(list.len());
    let (homes, fallbacks) = list.split_at(n);
    let stand_in = match names(fallbacks) {
        none if none.is_empty() => String::new(),
        some => format!(", then {some}"),
    };
    lines.push(format!("home replicas {}{stand_in}", names(homes)));
    let kind = if trace["sloppy"].as_bool() == Some(false) { "home replicas" } else { "nodes" };
    let reached = match trace["quorum_us"].as_u64() {
        Some(us) => format!("reached after {}", micros(us)),
        None => "not reached".to_owned(),
    };
    lines.push(format!("needed {} of {} {kind}: {reached}", number("needed"), number("n")));
    lines
}

fn timeline(trace: &Value) -> Table {
    let mut table = Table::new(&["#after", "node", "what", "detail"]);
    for event in trace["events"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let what = event["what"].as_str().unwrap_or("?");
        let paint = match what {
            "quorum" | "answered" | "done" => Paint::Good,
            "refused" | "silent" | "not_sent" => Paint::Bad,
            "hedged" | "fallback" | "hinted" | "late" | "avoided" | "repaired" => Paint::Warn,
            _ => Paint::Plain,
        };
        table.row(vec![
            maybe(event["us"].as_u64().map(micros)),
            maybe(event["node"].as_str()),
            painted(what, paint),
            cell(event["detail"].as_str().unwrap_or_default()),
        ]);
    }
    table
}

fn status(trace: &Value) -> crate::table::Cell {
    match trace["status"].as_u64() {
        Some(status @ ..400) => cell(status),
        Some(status) => painted(status, Paint::Bad),
        None => maybe(None::<u64>),
    }
}

fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_trace_is_shown_without_a_panic() {
        let whole = json!({"id": "00", "method": "PUT", "bucket": "b", "key": "k", "entry": "n1",
            "coordinator": {"node": "n2", "why": "home replica"}, "n": 3, "needed": 2, "sloppy": true,
            "preference_list": ["n2", "n5", "n3", "n1"], "status": 204, "took_us": 1234, "quorum_us": 900,
            "events": [{"us": 12, "node": "n2", "what": "asked", "detail": null}]});
        let lines = head(&whole);
        assert_eq!(lines[0], "PUT b/k: 204 after 1.23 ms");
        assert_eq!(lines[2], "home replicas n2, n5, n3, then n1");
        assert_eq!(lines[3], "needed 2 of 3 nodes: reached after 900 µs");
        assert!(timeline(&whole).render(false).contains("12 µs  n2    asked"));
        for odd in
            [json!(null), json!([]), json!({"n": u64::MAX, "preference_list": [1], "events": [7]})]
        {
            head(&odd);
            timeline(&odd);
        }
    }
}
