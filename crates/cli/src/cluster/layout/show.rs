//! `quorate layout show` and `quorate layout history`.

use serde_json::{Value, json};

use super::layout;
use super::plan::list;
use crate::app::App;
use crate::cluster::names;
use crate::exit::{Done, Exit};
use crate::out::{bytes, count, millis, safe};
use crate::refusal;
use crate::table::{Paint, Table, maybe, painted};

/// What is to be done about a node that was released.
const STOP_IT: &str = "stop this process, and delete its data directory";

/// Runs `show`.
pub(super) async fn show(app: &App) -> Done<Exit> {
    let told = layout(app).await?;
    match app.out.json {
        true => app.out.json(&told)?,
        false => tell(app, &told)?,
    }
    Ok(Exit::Ok)
}

/// Shows a layout.
pub(super) fn tell(app: &App, told: &Value) -> Done {
    let text = |name: &str| safe(told[name].as_str().unwrap_or("?"));
    app.out.line(&format!("epoch {} ({}): {}", text("epoch"), text("hash"), text("phase")))?;
    app.out.line("")?;
    app.out.table(&members(told))?;
    if told["progress"].is_object() {
        app.out.line("")?;
        app.out.line(&progress(told))?;
        app.out.table(&progress_by_node(&told["progress"]))?;
    }
    if !list(&told["leaving"]).is_empty() {
        let mut table = Table::new(&["leaving", "#rows to hand over", "#hints", "what to do"]);
        for node in list(&told["leaving"]) {
            table.row(vec![
                maybe(node["name"].as_str()),
                maybe(node["rows"].as_u64()),
                maybe(node["hints"].as_u64()),
                maybe((node["released"] == true).then_some(STOP_IT)),
            ]);
        }
        app.out.line("")?;
        app.out.table(&table)?;
    }
    if !list(&told["waiting"]).is_empty() {
        let mut table =
            Table::new(&["asked to join", "zone", "#weight", "address", "#since", "disk"]);
        for node in list(&told["waiting"]) {
            table.row(vec![
                maybe(node["name"].as_str()),
                maybe(node["zone"].as_str()),
                maybe(node["weight"].as_u64()),
                maybe(node["peer_addr"].as_str()),
                maybe(node["since_ms"].as_u64().map(millis)),
                maybe(node["disk"].as_str()),
            ]);
        }
        app.out.line("")?;
        app.out.table(&table)?;
    }
    Ok(())
}

/// The members of both layouts, and what becomes of each.
fn members(told: &Value) -> Table {
    let (old, new) = (list(&told["members"]), list(&told["next"]));
    let has = |list: &[Value], node: &Value| list.iter().any(|it| it["name"] == node["name"]);
    let joining = new.iter().filter(|node| !has(old, node));
    let headings =
        ["node", "zone", "#weight", "state", "#replicas", "#then", "#fair", "change", "address"];
    let mut table = Table::new(&headings);
    for node in old.iter().chain(joining) {
        let then = new.iter().find(|it| it["name"] == node["name"]);
        let is_gone = list(&told["gone"]).contains(&node["name"]);
        let change = match (has(old, node), then.is_some()) {
            _ if new.is_empty() => None,
            (true, true) => None,
            (true, false) if is_gone => Some("gone"),
            (true, false) => Some("leaves"),
            (false, _) => Some("joins"),
        };
        let state = node["state"].as_str().unwrap_or("?");
        let paint = if matches!(state, "self" | "up") { Paint::Good } else { Paint::Bad };
        let fair = then.unwrap_or(node)["fair"].as_u64();
        table.row(vec![
            maybe(node["name"].as_str()),
            maybe(node["zone"].as_str()),
            maybe(node["weight"].as_u64()),
            painted(if state == "self" { "up" } else { state }, paint),
            maybe(has(old, node).then(|| node["load"].as_u64()).flatten()),
            maybe(then.and_then(|then| then["load"].as_u64())),
            maybe(fair),
            maybe(change),
            maybe(node["peer_addr"].as_str()),
        ]);
    }
    table
}

/// How far a change is, in a few words.
pub(super) fn progress(told: &Value) -> String {
    let progress = &told["progress"];
    let number = |name: &str| progress[name].as_u64().unwrap_or_default();
    let (ready, total) = (number("partitions_ready"), number("partitions_total"));
    let mut received = format!("{ready} of {} received", count(total, "partition"));
    if let Some(left) = progress["bytes_left"].as_u64().filter(|left| *left > 0) {
        received += &format!(", about {} left", bytes(left));
    }
    if let Some(left_s) = progress["eta_s"].as_u64().filter(|left_s| *left_s > 0) {
        received += &format!(", {} at this pace", millis(left_s.saturating_mul(1_000)));
    }
    match waits_for(told) {
        Some(sources) => format!("{received}; waiting for {sources}, down"),
        None => received,
    }
}

/// The down nodes that a change waits for.
pub(super) fn waits_for(told: &Value) -> Option<String> {
    let by_node = &told["progress"]["by_node"];
    let mut sources: Vec<Value> = Vec::new();
    for node in by_node.as_object().into_iter().flat_map(|all| all.values()) {
        let new = list(&node["waiting_for"]).iter().filter(|it| !sources.contains(it));
        sources.extend(new.cloned().collect::<Vec<_>>());
    }
    (!sources.is_empty()).then(|| names(&sources))
}

fn progress_by_node(progress: &Value) -> Table {
    let mut table = Table::new(&["receives", "#partitions", "#missing", "waits for"]);
    for (name, node) in progress["by_node"].as_object().into_iter().flatten() {
        if node["partitions"] == json!(0) {
            continue;
        }
        let sources = list(&node["waiting_for"]);
        table.row(vec![
            maybe(Some(name)),
            maybe(node["partitions"].as_u64()),
            maybe(node["missing"].as_u64()),
            maybe((!sources.is_empty()).then(|| names(sources))),
        ]);
    }
    table
}

/// Runs `history`.
pub(super) async fn history(app: &App, limit: u16) -> Done<Exit> {
    let told = app.ask("asking", app.nodes.admin().layout_history(Some(limit))).await?;
    if !told.is_array() {
        return Err(refusal::incomplete("/layout/history"));
    }
    if app.out.json {
        app.out.json(&told)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["#epoch", "step", "by", "when (UTC)", "members", "next", "hash"]);
    for record in list(&told) {
        let cause = &record["cause"];
        let next = record["next"].as_array().map(|next| names(next));
        table.row(vec![
            maybe(record["epoch"].as_str()),
            maybe(cause["op"].as_str()),
            maybe(cause["by"].as_str()),
            maybe(cause["at"].as_str()),
            maybe(Some(names(list(&record["members"])))),
            maybe(next),
            maybe(record["hash"].as_str()),
        ]);
    }
    app.out.table(&table)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_shows_who_joins_and_who_leaves() {
        let node = |name: &str| {
            let mut node = json!({"name": name, "zone": "a", "weight": 1, "state": "up"});
            node["load"] = json!(64);
            node["fair"] = json!(64);
            node
        };
        let told = json!({
            "members": [node("n1"), node("n2"), node("n3")],
            "next": [node("n1"), node("n4")],
            "gone": ["n3"],
            "progress": {"partitions_total": 64, "partitions_ready": 16, "by_node": {
                "n4": {"partitions": 64, "missing": 48, "waiting_for": ["n2"]},
                "n1": {"partitions": 0, "missing": 0, "waiting_for": ["n2"]},
            }},
        });
        let table = members(&told).render(false);
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or("");
        assert!(line("n2").contains("leaves") && line("n3").contains("gone"), "{table}");
        assert!(line("n4").contains("joins") && !line("n1").contains("joins"), "{table}");
        assert_eq!(progress(&told), "16 of 64 partitions received; waiting for n2, down");
        let mut goes_on = told.clone();
        goes_on["progress"]["by_node"] = json!({});
        goes_on["progress"]["bytes_left"] = json!(2_000_000);
        goes_on["progress"]["eta_s"] = json!(90);
        let goes_on = progress(&goes_on);
        assert!(goes_on.starts_with("16 of 64 partitions received, about "), "{goes_on}");
        assert!(goes_on.ends_with(" at this pace"), "{goes_on}");
        let by_node = progress_by_node(&told["progress"]).render(false);
        assert!(by_node.contains("n4") && !by_node.contains("n1"), "{by_node}");
    }

    #[test]
    fn an_answer_that_is_not_as_expected_is_shown_all_the_same() {
        let told = json!({"members": [7, {"name": 7}, null], "progress": {"by_node": [1]}});
        assert!(members(&told).render(false).lines().count() >= 4);
        assert_eq!(progress(&told), "0 of 0 partitions received");
    }
}
