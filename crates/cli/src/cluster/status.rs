//! `quorate status`: the cluster on one screen.

use serde_json::{Value, json};

use super::look::{Look, Seen, everywhere};
use super::names;
use crate::app::App;
use crate::args::Common;
use crate::exit::{Done, Exit};
use crate::nodes::authority;
use crate::out::{bytes, count, millis};
use crate::table::{Cell, Paint, Table, cell, maybe, painted};

/// Show the cluster on one screen: nodes, health, hints, differences, disks, releases.
///
/// One node tells of the others, and all are asked.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate status
  quorate status --url http://10.0.0.7:7401
  watch --color quorate status
  quorate status --json | jq '.nodes[] | select(.state != \"up\")'

Exits with 0 if all is well, and with 1 if something needs attention (listed under the table).

JSON: cluster_id, layout (version, hash), healthy, attention (a list of texts), and for each of nodes:
node, zone, url, state (up, down, unknown), ready, writable, filled, release, seen_up_by, seen_by,
protocol_max (the highest peer protocol it speaks), keys, hint_keys, hint_bytes, dirty_partitions,
partitions_not_ready, disk_free_bytes, round_trip_p99_us, clock_ahead_ms.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs the command.
pub(crate) async fn run(app: &App) -> Done<Exit> {
    let look = everywhere(app).await?;
    let attention = attention(&look);
    let exit = if attention.is_empty() { Exit::Ok } else { Exit::Failed };
    if app.out.json {
        app.out.json(&json!({
            "cluster_id": look.cluster.view["cluster_id"],
            "layout": look.cluster.view["layout"],
            "healthy": attention.is_empty(),
            "attention": attention,
            "nodes": look.nodes.iter().map(|seen| json_of(&look, seen)).collect::<Vec<_>>(),
        }))?;
        return Ok(exit);
    }
    let up = look.nodes.iter().filter(|seen| state(&look, seen) == "up").count();
    let id = look.cluster.view["cluster_id"].as_str().unwrap_or("?");
    let layout = look.nodes.iter().find_map(Seen::layout);
    let layout =
        layout.map_or(String::new(), |(version, hash)| format!(", layout {version} ({hash})"));
    app.out.line(&format!(
        "cluster {}: {up} of {} up{}",
        crate::out::safe(id),
        count(look.nodes.len() as u64, "node"),
        crate::out::safe(&layout)
    ))?;
    app.out.line("")?;
    app.out.table(&table(&look))?;
    app.out.line("")?;
    if attention.is_empty() {
        app.out.line("nothing needs attention")?;
    }
    for item in &attention {
        app.out.line(&format!("! {item}"))?;
    }
    Ok(exit)
}

/// How a node shows a peer that speaks none of its protocol versions.
pub(crate) const INCOMPATIBLE: &str = "incompatible";

/// up, down, or unknown: no answer here, and the others do not agree that it is down.
pub(crate) fn state(look: &Look, seen: &Seen) -> &'static str {
    let (up, of) = look.seen_up(&seen.member.name);
    match (seen.silent.is_none(), up) {
        (true, _) => "up",
        (false, 0) if of > 0 => "down",
        (false, _) => "unknown",
    }
}

/// The worst 99th percentile of round trips to a node, in microseconds; `None` if none was measured, which
/// nodes report as 0.
fn round_trip_p99_us(look: &Look, name: &str) -> Option<u64> {
    let measured = look.views_of(name).filter_map(|(_, peer)| peer["round_trip_p99_us"].as_u64());
    measured.max().filter(|us| *us > 0)
}

/// The highest version of the peer protocol that a node speaks, as others were told by it.
fn protocol_max(look: &Look, name: &str) -> Option<u64> {
    look.views_of(name).filter_map(|(_, peer)| peer["protocol_max"].as_u64()).max()
}

/// Whether some nodes speak a higher peer protocol than others, as in the middle of an upgrade.
fn protocols_differ(look: &Look) -> bool {
    let mut known = look.nodes.iter().filter_map(|seen| protocol_max(look, &seen.member.name));
    let first = known.next();
    known.any(|version| Some(version) != first)
}

fn dirty(seen: &Seen) -> Option<u64> {
    seen.anti_entropy.as_ref()?["dirty_partitions"].as_u64()
}

fn not_ready(seen: &Seen) -> Option<u64> {
    seen.anti_entropy.as_ref()?["partitions_not_ready"].as_u64()
}

fn disk_free(seen: &Seen) -> Option<u64> {
    seen.metrics.count(&["quorate_disk_free_bytes"])
}

fn keys(seen: &Seen) -> Option<u64> {
    seen.metrics.count(&["quorate_keys"])
}

fn json_of(look: &Look, seen: &Seen) -> Value {
    let (up, of) = look.seen_up(&seen.member.name);
    let hints = seen.hints_kept();
    json!({
        "node": seen.member.name,
        "zone": seen.member.zone,
        "url": seen.member.url,
        "state": state(look, seen),
        "silent": seen.silent,
        "ready": seen.is("ready"),
        "writable": seen.is("writable"),
        "filled": seen.is("filled"),
        "release": seen.text("release"),
        "protocol_max": protocol_max(look, &seen.member.name),
        "seen_up_by": up,
        "seen_by": of,
        "keys": keys(seen),
        "hint_keys": hints.map(|(keys, _)| keys),
        "hint_bytes": hints.map(|(_, bytes)| bytes),
        "dirty_partitions": dirty(seen),
        "partitions_not_ready": not_ready(seen),
        "disk_free_bytes": disk_free(seen),
        "round_trip_p99_us": round_trip_p99_us(look, &seen.member.name),
        "clock_ahead_ms": seen.view.as_ref().and_then(|view| view["clock_ahead_ms"].as_i64()),
    })
}

fn table(look: &Look) -> Table {
    let mut headings = vec![
        "node",
        "zone",
        "address",
        "state",
        "ready",
        "seen up by",
        "release",
        "#keys",
        "#hints kept",
        "#to compare",
        "#disk free",
        "#p99",
    ];
    let with_protocol = protocols_differ(look);
    if with_protocol {
        headings.push("#protocol");
    }
    let mut table = Table::new(&headings);
    for seen in &look.nodes {
        let state = state(look, seen);
        let paint = match state {
            "up" => Paint::Good,
            "down" => Paint::Bad,
            _ => Paint::Warn,
        };
        let (up, of) = look.seen_up(&seen.member.name);
        let mut row = vec![
            cell(&seen.member.name),
            cell(&seen.member.zone),
            maybe(seen.member.url.as_deref().map(authority)),
            painted(state, paint),
            ready(seen),
            painted(format!("{up} of {of}"), if up == of { Paint::Plain } else { Paint::Warn }),
            maybe(seen.text("release")),
            maybe(keys(seen)),
            hints(seen),
            maybe(dirty(seen)),
            maybe(disk_free(seen).map(bytes)),
            maybe(round_trip_p99_us(look, &seen.member.name).map(|us| format!("{} µs", us))),
        ];
        if with_protocol {
            row.push(maybe(protocol_max(look, &seen.member.name)));
        }
        table.row(row);
    }
    table
}

fn ready(seen: &Seen) -> Cell {
    match (seen.is("ready"), seen.is("writable"), seen.is("filled")) {
        (Some(true), Some(false), _) => painted("reads only", Paint::Warn),
        (Some(true), _, Some(false)) => painted("filling", Paint::Warn),
        (Some(true), _, _) => painted("yes", Paint::Good),
        (Some(false), _, _) => painted("no", Paint::Bad),
        (None, _, _) => maybe(None::<u64>),
    }
}

fn hints(seen: &Seen) -> Cell {
    match seen.hints_kept() {
        Some((0, _)) => cell(0),
        Some((keys, size)) => painted(format!("{keys} ({})", bytes(size)), Paint::Warn),
        None => maybe(None::<u64>),
    }
}

/// What an operator should know.
pub(crate) fn attention(look: &Look) -> Vec<String> {
    let mut found = Vec::new();
    for seen in &look.nodes {
        let name = &seen.member.name;
        if let Some(why) = &seen.silent {
            let (up, of) = look.seen_up(name);
            found.push(match (seen.member.url.is_some(), up) {
                (true, _) => {
                    format!("{name} does not answer here ({why}); {up} of {of} others see it up")
                }
                (false, _) => format!("{name} was not asked: {why}; {up} of {of} others see it up"),
            });
            continue;
        }
        for reason in ["not_ready", "waits_for_operator"] {
            found.extend(seen.text(reason).map(|why| format!("{name}: {}", crate::out::safe(why))));
        }
        if seen.is("writable") == Some(false) && seen.is("ready") == Some(true) {
            found.push(format!("{name} takes no writes: its disk is nearly full, or failed"));
        }
        if seen.is("clock_corrected") == Some(true) {
            let ahead = seen.view.as_ref().and_then(|view| view["clock_ahead_ms"].as_i64());
            let ahead = millis(ahead.unwrap_or(0).unsigned_abs());
            found
                .push(format!("{name}: its clock is wrong by {ahead}; the cluster's time is used"));
        }
        if let Some(missing @ 1..) = not_ready(seen) {
            found.push(format!("{name} has {} still to fill", count(missing, "partition")));
        }
        found.extend(quarrels(look, seen));
        found.extend(targets(seen));
    }
    found
}

/// What a node and its peers disagree on.
fn quarrels(look: &Look, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    let name = &seen.member.name;
    let blind: Vec<&str> = look
        .views_of(name)
        .filter(|(_, peer)| !matches!(peer["state"].as_str(), Some("up" | INCOMPATIBLE)))
        .map(|(by, _)| by)
        .collect();
    if !blind.is_empty() {
        found.push(format!(
            "{name} answers here, but not to {}: check its peer port",
            blind.join(", ")
        ));
    }
    for (by, peer) in look.views_of(name) {
        if peer["state"].as_str() == Some(INCOMPATIBLE) {
            let why = peer["last_error"].as_str().unwrap_or("no common peer protocol");
            found.push(format!("{by}: {}", crate::out::safe(why)));
        }
        let differs = peer["disagrees"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !differs.is_empty() && by < name.as_str() {
            let list = names(differs);
            found.push(format!("{by} and {name} differ in settings that must be equal: {list}"));
        }
    }
    let first = look.nodes.iter().find_map(Seen::layout);
    if let (Some((_, ours)), Some((_, theirs))) = (seen.layout(), first)
        && ours != theirs
    {
        found.push(format!("{name} runs another layout ({})", crate::out::safe(ours)));
    }
    found
}

fn targets(seen: &Seen) -> Vec<String> {
    let Some(list) = seen.hints.as_ref().and_then(|hints| hints["targets"].as_array()) else {
        return Vec::new();
    };
    let tell = |target: &Value| {
        let keys = target["keys"].as_u64().filter(|keys| *keys > 0)?;
        let age = target["oldest_ms"]
            .as_u64()
            .map_or(String::new(), |ms| format!(", oldest {}", millis(ms)));
        let node = crate::out::safe(target["node"].as_str()?);
        Some(format!("{} keeps {} for {node}{age}", seen.member.name, count(keys, "hint")))
    };
    list.iter().filter_map(tell).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::nodes::{Cluster, Member};

    /// A cluster of two that answer, in which n1 sees n2 as given.
    fn look(n1_of_n2: Value, n2_of_n1: Value) -> Look {
        let node = |name: &str, mut peer: Value, of: &str| {
            peer["node"] = of.into();
            Seen {
                member: Member {
                    name: name.to_owned(),
                    zone: "z".to_owned(),
                    url: Some("http://127.0.0.1:1".to_owned()),
                    seen: Value::Null,
                },
                silent: None,
                view: Some(json!({ "node": name, "nodes": [peer] })),
                hints: None,
                anti_entropy: None,
                metrics: Metrics::default(),
            }
        };
        let nodes = vec![node("n1", n1_of_n2, "n2"), node("n2", n2_of_n1, "n1")];
        Look { cluster: Cluster { members: Vec::new(), view: Value::Null }, nodes }
    }

    #[test]
    fn the_protocol_is_a_column_only_while_nodes_differ() {
        let up = |max: u64| json!({ "state": "up", "protocol_max": max });
        for (n1, n2) in [(8, 8), (7, 8)] {
            let look = look(up(n2), up(n1));
            assert_eq!(protocol_max(&look, "n1"), Some(n1));
            assert_eq!(table(&look).render(false).contains("protocol"), n1 != n2);
            assert_eq!(attention(&look), [""; 0]);
        }
    }

    #[test]
    fn an_incompatible_peer_is_no_matter_of_its_port() {
        let why = "no common peer protocol: n2 speaks 40 to 41, this node 7 to 8";
        let seen = json!({ "state": INCOMPATIBLE, "last_error": why });
        let told = attention(&look(seen, json!({ "state": "down" })));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("n1 answers here, but not to n2: check its peer port"),
            "{told:?}"
        );
        assert_eq!(told[1], format!("n1: {why}"));
    }
}
