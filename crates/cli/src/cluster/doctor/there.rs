//! What `doctor` checks of the cluster, by asking every node.

use std::collections::BTreeMap;

use serde_json::Value;

use super::here::FILES_MIN;
use super::{Finding, NodeFile, ok, warning, wrong};
use crate::cluster::look::{Look, Seen};
use crate::cluster::names;
use crate::cluster::status::INCOMPATIBLE;
use crate::out::{bytes, count, millis, safe};

/// A clock that is more off is worth a look. Nodes correct one that is a minute off.
const CLOCK_OFF_MS: u64 = 5_000;
/// Syncs that take longer are worth a look.
const SYNC_SLOW_MS: u64 = 200;
/// Hints older than this should have been delivered.
const HINT_OLD_MS: u64 = 300_000;

/// All checks.
pub(super) fn check(look: &Look, file: Option<&NodeFile>) -> Vec<Finding> {
    let mut findings = nodes(look);
    findings.push(ways(look));
    findings.push(clocks(look));
    findings.push(releases(look));
    findings.push(layouts(look, file));
    findings.push(settings(look));
    findings.extend(limits(look));
    findings.extend(disks(look));
    findings.extend(syncs(look));
    findings.push(hints(look));
    findings.extend(operator(look));
    findings
}

fn answering(look: &Look) -> impl Iterator<Item = &Seen> {
    look.nodes.iter().filter(|seen| seen.silent.is_none())
}

fn nodes(look: &Look) -> Vec<Finding> {
    const CHECK: &str = "nodes";
    let mut found = Vec::new();
    for seen in &look.nodes {
        let name = &seen.member.name;
        match (&seen.silent, seen.is("ready")) {
            (Some(why), _) if seen.member.url.is_none() => {
                let advice = "name it with --url too, or set its advertised address";
                found.push(warning(CHECK, format!("{name} was not asked: {why}"), advice));
            }
            (Some(why), _) => {
                let advice =
                    "is it running? Its log says why it stopped; `quorate serve` starts it";
                found.push(wrong(CHECK, format!("{name} does not answer: {}", safe(why)), advice));
            }
            (None, Some(true)) => {}
            (None, _) => {
                let why = safe(seen.text("not_ready").unwrap_or("not ready"));
                found.push(wrong(
                    CHECK,
                    format!("{name} takes no requests: {why}"),
                    advice_of(&why),
                ));
            }
        }
    }
    if found.is_empty() {
        found.push(ok(
            CHECK,
            format!("{} answer and are ready", count(look.nodes.len() as u64, "node")),
        ));
    }
    found
}

fn advice_of(why: &str) -> &'static str {
    match why.contains("form") {
        true => "form the cluster once: `quorate form --config FILE`",
        false => "`quorate wait ready` waits for it; its log says more",
    }
}

/// Whether the nodes reach each other, both ways.
fn ways(look: &Look) -> Finding {
    const CHECK: &str = "between nodes";
    let (mut broken, mut reachable) = (Vec::new(), true);
    for seen in &look.nodes {
        let name = &seen.member.name;
        for (by, peer) in look.views_of(name) {
            let reason = match (peer["state"].as_str(), peer["reaches_us"].as_bool()) {
                (Some("up"), Some(false)) => format!("{name} does not reach {by}"),
                (Some("up") | None, _) => continue,
                (Some(INCOMPATIBLE), _) => {
                    let why = peer["last_error"].as_str().unwrap_or("no common peer protocol");
                    broken.push(format!("{by}: {}", safe(why)));
                    continue;
                }
                (Some(_), _) if seen.silent.is_some() => continue, // it is down: told above
                (Some(state), _) => {
                    let why = peer["last_error"].as_str().map(|it| format!(" ({})", safe(it)));
                    format!("{by} sees {name} {}{}", safe(state), why.unwrap_or_default())
                }
            };
            broken.push(reason);
            reachable = false;
        }
    }
    broken.sort();
    broken.dedup();
    match broken.as_slice() {
        [] => ok(CHECK, "every node that answers reaches every other one, both ways"),
        some if reachable => wrong(
            CHECK,
            some.join("; "),
            "run releases side by side that have a version of the peer protocol in common",
        ),
        some => wrong(
            CHECK,
            some.join("; "),
            "open the peer ports both ways; check peer_addr in [layout] and cluster_keys on both",
        ),
    }
}

/// Each node compares its clock with those of its peers.
fn clocks(look: &Look) -> Finding {
    const CHECK: &str = "clocks";
    let advice = "run a time service (chrony, systemd-timesyncd) on that machine";
    let ahead = |seen: &Seen| seen.view.as_ref().and_then(|view| view["clock_ahead_ms"].as_i64());
    let told = |seen: &Seen| {
        let off = ahead(seen)?;
        let way = if off > 0 { "ahead of" } else { "behind" };
        let off = millis(off.unsigned_abs());
        Some(format!("{} is {off} {way} the cluster's time", seen.member.name))
    };
    let corrected: Vec<String> = answering(look)
        .filter(|seen| seen.is("clock_corrected") == Some(true))
        .filter_map(told)
        .collect();
    if !corrected.is_empty() {
        return wrong(CHECK, corrected.join("; "), advice);
    }
    let is_off = |seen: &&Seen| ahead(seen).is_some_and(|off| off.unsigned_abs() > CLOCK_OFF_MS);
    let off: Vec<String> = answering(look).filter(is_off).filter_map(told).collect();
    match off.as_slice() {
        [] => ok(CHECK, format!("all within {} of each other", millis(CLOCK_OFF_MS))),
        some => warning(CHECK, some.join("; "), advice),
    }
}

fn releases(look: &Look) -> Finding {
    const CHECK: &str = "releases";
    let mut by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for seen in answering(look) {
        let release = safe(seen.text("release").unwrap_or("unknown"));
        by.entry(release).or_default().push(&seen.member.name);
    }
    let told: Vec<String> =
        by.iter().map(|(release, nodes)| format!("{release} on {}", nodes.join(", "))).collect();
    let ours = env!("CARGO_PKG_VERSION");
    match by.keys().collect::<Vec<_>>().as_slice() {
        [release] if *release == ours => {
            ok(CHECK, format!("all nodes and this command are {ours}"))
        }
        [release] => {
            let what = format!("the nodes are {release}, this command is {ours}");
            warning(CHECK, what, "use the command of the nodes' release")
        }
        _ => {
            warning(CHECK, told.join("; "), "finish the upgrade: all nodes should run one release")
        }
    }
}

fn layouts(look: &Look, file: Option<&NodeFile>) -> Finding {
    const CHECK: &str = "layout";
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for seen in answering(look) {
        if let Some((_, hash)) = seen.layout() {
            by.entry(hash).or_default().push(&seen.member.name);
        }
    }
    if let Some(file) = file.filter(|file| !file.layout_hash.is_empty()) {
        by.entry(&file.layout_hash).or_default().push("the configuration");
    }
    let told: Vec<String> =
        by.iter().map(|(hash, who)| format!("{} on {}", safe(hash), who.join(", "))).collect();
    match told.as_slice() {
        [one] => ok(CHECK, one.clone()),
        _ => wrong(
            CHECK,
            told.join("; "),
            "give all nodes the same [layout] and restart the odd ones",
        ),
    }
}

fn settings(look: &Look) -> Finding {
    const CHECK: &str = "settings";
    let mut differ = Vec::new();
    for seen in answering(look) {
        for (by, peer) in look.views_of(&seen.member.name) {
            let list = peer["disagrees"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !list.is_empty() && by < seen.member.name.as_str() {
                differ.push(format!("{by} and {} differ: {}", seen.member.name, names(list)));
            }
        }
    }
    match differ.as_slice() {
        [] => ok(CHECK, "those that must be equal are equal"),
        some => wrong(CHECK, some.join("; "), "make them equal in all configurations, and restart"),
    }
}

fn limits(look: &Look) -> Vec<Finding> {
    const CHECK: &str = "open files";
    let mut found = Vec::new();
    let (mut least, mut known) = (u64::MAX, false);
    for seen in answering(look) {
        let name = &seen.member.name;
        let open = seen.metrics.count(&["process_open_fds", "quorate_open_descriptors"]);
        let max = seen.metrics.count(&["process_max_fds", "quorate_open_descriptors_max"]);
        let (Some(open), Some(max)) = (open, max) else { continue };
        (least, known) = (least.min(max), true);
        let what = format!("{name} has {open} of at most {max} files open");
        if open.saturating_mul(10) > max.saturating_mul(8) {
            found.push(wrong(CHECK, what, "raise the limit (LimitNOFILE= in systemd)"));
        } else if max < FILES_MIN {
            found.push(warning(CHECK, what, "raise the limit (LimitNOFILE= in systemd)"));
        }
    }
    if found.is_empty() && known {
        found.push(ok(
            CHECK,
            format!("every node may open {least} files or more, and is far from it"),
        ));
    }
    found
}

fn disks(look: &Look) -> Vec<Finding> {
    const CHECK: &str = "disks";
    let mut found = Vec::new();
    let mut least = None;
    for seen in answering(look) {
        if seen.is("writable") == Some(false) {
            let what = format!("{} takes no writes", seen.member.name);
            let advice = "make room on its data disk, or replace the disk; its /readyz says which";
            found.push(wrong(CHECK, what, advice));
        }
        let free = seen.metrics.count(&["quorate_disk_free_bytes"]);
        least = least.into_iter().chain(free).min();
    }
    if found.is_empty() {
        let free = least
            .map_or("free space unknown".to_owned(), |it| format!("at least {} free", bytes(it)));
        found.push(ok(CHECK, format!("every node takes writes; {free}")));
    }
    found
}

/// How long syncs of the nodes' own writes took, if they tell.
fn syncs(look: &Look) -> Option<Finding> {
    const CHECK: &str = "disk sync";
    let p99_ms = |seen: &Seen| {
        let took =
            seen.metrics.quantile(None, &["quorate_store_sync_duration_seconds"], &[], 0.99)?;
        Some(((took * 1e3).ceil() as u64, seen.member.name.clone()))
    };
    let (worst_ms, name) = answering(look).filter_map(p99_ms).max()?;
    let what = format!("99 % of syncs took up to {} on {name}, less elsewhere", millis(worst_ms));
    Some(match worst_ms {
        0..=SYNC_SLOW_MS => ok(CHECK, what),
        _ => {
            warning(CHECK, what, "writes wait for it: a faster disk, or fewer others on it, helps")
        }
    })
}

fn hints(look: &Look) -> Finding {
    const CHECK: &str = "hints";
    let mut keys = 0;
    let mut old = Vec::new();
    for seen in answering(look) {
        keys += seen.hints_kept().map_or(0, |(keys, _)| keys);
        let targets = seen.hints.as_ref().and_then(|it| it["targets"].as_array());
        for target in targets.map(Vec::as_slice).unwrap_or_default() {
            let age = target["oldest_ms"].as_u64().filter(|age| *age > HINT_OLD_MS);
            if let (Some(age), Some(node)) = (age, target["node"].as_str()) {
                old.push(format!(
                    "{} keeps some for {} since {}",
                    seen.member.name,
                    safe(node),
                    millis(age)
                ));
            }
        }
    }
    match old.as_slice() {
        [] => ok(CHECK, format!("{} kept, none old", count(keys, "hint"))),
        some => warning(
            CHECK,
            some.join("; "),
            "bring those nodes back: hints are delivered by themselves",
        ),
    }
}

fn operator(look: &Look) -> Vec<Finding> {
    let wait = |seen: &Seen| {
        let why = safe(seen.text("waits_for_operator")?);
        let advice = "decide: `quorate distrusted list --config FILE`, then accept or discard";
        Some(wrong("operator", format!("{}: {why}", seen.member.name), advice))
    };
    let mut found: Vec<Finding> = answering(look).filter_map(wait).collect();
    let lost =
        |seen: &Seen| seen.view.as_ref().and_then(|it: &Value| it["lost_partitions"].as_u64());
    if found.is_empty() && answering(look).filter_map(lost).sum::<u64>() == 0 {
        found.push(ok("operator", "nothing waits for a decision"));
    }
    found
}
