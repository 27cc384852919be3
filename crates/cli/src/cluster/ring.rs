//! `quorate ring` and `quorate locate`.

use serde_json::{Value, json};

use crate::app::App;
use crate::args::{Common, Name};
use crate::exit::{Done, Exit};
use crate::nodes::authority;
use crate::refusal;
use crate::table::{Paint, Table, cell, maybe, painted};

/// Show the layout: nodes, zones, weights, and how evenly partitions are spread.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate ring
  quorate ring --json | jq '.nodes[].of_fair_share'

JSON: as GET /ring: version, hash, partitions, n, nodes (node, zone, weight, partitions,
of_fair_share).")]
pub struct Ring {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Show where a key is stored: its home replicas, then its fallbacks, in order.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate locate carts/alice
  quorate locate carts/alice --json | jq -r .home_replicas[0]

The key need not exist. JSON: bucket, key, partition, n, preference_list, home_replicas, and nodes
(node, role, state, url).")]
pub struct Locate {
    /// The key
    #[arg(value_name = "BUCKET/KEY")]
    name: Name,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs `ring`.
pub(crate) async fn ring(app: &App) -> Done<Exit> {
    let ring = app.ask("asking", app.nodes.admin().ring()).await?;
    let nodes = ring["nodes"].as_array().filter(|_| ring["hash"].is_string());
    let nodes = nodes.ok_or_else(|| refusal::incomplete("/ring"))?;
    if app.out.json {
        app.out.json(&ring)?;
        return Ok(Exit::Ok);
    }
    let number = |value: &Value| value.as_u64().map_or("?".to_owned(), |it| it.to_string());
    app.out.line(&format!(
        "layout {} ({}): {} partitions, {} copies of each by default",
        number(&ring["version"]),
        crate::out::safe(ring["hash"].as_str().unwrap_or("?")),
        number(&ring["partitions"]),
        number(&ring["n"]),
    ))?;
    app.out.line("")?;
    let mut table = Table::new(&["node", "zone", "#weight", "#partitions", "#of fair share"]);
    for node in nodes {
        let share = node["of_fair_share"].as_f64();
        let paint = match share {
            Some(share) if !(0.8..=1.25).contains(&share) => Paint::Warn,
            Some(_) | None => Paint::Plain,
        };
        let share = share.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0));
        table.row(vec![
            maybe(node["node"].as_str()),
            maybe(node["zone"].as_str()),
            maybe(node["weight"].as_u64()),
            maybe(node["partitions"].as_u64()),
            painted(share, paint),
        ]);
    }
    app.out.table(&table)?;
    Ok(Exit::Ok)
}

/// Runs `locate`.
pub(crate) async fn locate(app: &App, args: &Locate) -> Done<Exit> {
    let (bucket, key) = (args.name.bucket.as_str(), args.name.key.as_str());
    let place = app.ask("asking", app.nodes.admin().locate(bucket, key)).await?;
    let (list, n) = (&place.preference_list, place.n);
    let members = app.nodes.cluster().await?.members;
    let rows: Vec<Value> = list
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let member = members.iter().find(|it| it.name == *node);
            let state = member.and_then(|it| it.seen["state"].as_str());
            json!({
                "node": node,
                "role": if at < n { "home" } else { "fallback" },
                "state": state.map(|state| if state == "self" { "up" } else { state }),
                "url": member.and_then(|it| it.url.as_ref()),
            })
        })
        .collect();
    if app.out.json {
        let mut shown = json!(place);
        shown["home_replicas"] = json!(&list[..n.min(list.len())]);
        shown["nodes"] = json!(rows);
        app.out.json(&shown)?;
        return Ok(Exit::Ok);
    }
    app.out.line(&format!("{}: partition {}, n = {n}", args.name, place.partition))?;
    app.out.line("")?;
    let mut table = Table::new(&["#", "node", "role", "state", "address"]);
    for (at, row) in rows.iter().enumerate() {
        let state = row["state"].as_str().unwrap_or("?");
        let paint = if state == "up" { Paint::Good } else { Paint::Bad };
        table.row(vec![
            cell(at + 1),
            maybe(row["node"].as_str()),
            maybe(row["role"].as_str()),
            painted(state, paint),
            maybe(row["url"].as_str().map(authority)),
        ]);
    }
    app.out.table(&table)?;
    Ok(Exit::Ok)
}
