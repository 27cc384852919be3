//! The project's targets on a machine with 2 cores, and whether they are met. A measurement is
//! identified by its name (as in `scripts/bench.sh`), its operation and its connections; a target
//! without a measurement is left out. Targets are ratios to the bare server of the same run where
//! possible: microseconds depend on the machine more than on what runs on it.

use crate::report::{CEILING, cpu_of_bare, of_ceiling, relative_to_ceiling};
use crate::summary::Summary;

/// One line per target: the target, the result, and whether it is met.
pub(crate) fn text(summaries: &[Summary]) -> String {
    let lines = [standard, tail, overload, mixture, growth].map(|of| of(summaries)).concat();
    lines.into_iter().flatten().collect()
}

/// The rates, the CPU time, and the single connection.
fn standard(summaries: &[Summary]) -> Vec<Option<String>> {
    let get = place(summaries, "buffered", "get", 64);
    let put = place(summaries, "buffered", "put", 64);
    let fsync = place(summaries, "fsync", "put", 64);
    let rate = |place: Option<usize>| Some(summaries.get(place?)?.operations_per_second);
    let cpu = |place: Option<usize>| cpu_of_bare(summaries, place?);
    let p50 = |it: &Summary| Some(it.latency.p50_us as f64);
    let p50_us = |name, op| p50(summaries.get(place(summaries, name, op, 1)?)?);
    let p50_of_bare =
        |op| relative_to_ceiling(summaries, place(summaries, "buffered", op, 1)?, p50);
    let ceiling = |place: Option<usize>| of_ceiling(summaries, place?).map(|it| it * 100.0);
    let of_buffered = rate(fsync).zip(rate(put)).map(|(fsync, put)| fsync / put.max(1.0) * 100.0);
    let bare_put_us = p50_us("buffered", "put").zip(p50_of_bare("put")).map(|(us, of)| us / of);
    let beyond_flush =
        p50_us("fsync", "put").zip(p50_us("disk flush", "put")).map(|(put, flush)| put - flush);
    let beyond_flush = beyond_flush.zip(bare_put_us).map(|(us, bare)| us / bare);
    vec![
        at_least("GET of the ceiling's rate, %", ceiling(get), 35.0),
        at_most("GET cpu of all nodes, bare GETs", cpu(get), 2.6),
        at_least("PUT buffered of the ceiling's rate, %", ceiling(put), 18.0),
        at_most("PUT buffered cpu of all nodes, bare PUTs", cpu(put), 8.0),
        at_least("PUT fsync of the buffered rate, %", of_buffered, 80.0),
        at_most("PUT fsync p50 over the flush, 1 connection, bare PUTs", beyond_flush, 8.0),
        at_most("GET p50, 1 connection, bare GETs", p50_of_bare("get"), 3.0),
        at_most("PUT buffered p50, 1 connection, bare PUTs", p50_of_bare("put"), 5.0),
    ]
}

/// Half of the peak rate in an open loop.
fn tail(summaries: &[Summary]) -> Vec<Option<String>> {
    let of = |name: &str| {
        let latency = summaries.iter().rev().find(|it| it.name == name).map(|it| it.latency);
        let ms = |us: fn(&crate::summary::Latency) -> u64| Some(us(latency.as_ref()?) as f64 / 1e3);
        [
            at_most(&format!("{name}: p99, ms"), ms(|it| it.p99_us), 5.0),
            at_most(&format!("{name}: p99.9, ms"), ms(|it| it.p99_9_us), 20.0),
        ]
    };
    let names = [
        "half of the peak",
        "half, while n4 catches up",
        "half, the same, comparing without pause",
    ];
    names.map(of).concat()
}

/// Ten times the load that saturates, alternating with that load.
fn overload(summaries: &[Summary]) -> Vec<Option<String>> {
    let of = |op: &str| {
        let rate = |name: &str| {
            let alike = |it: &&Summary| it.op == op && it.name.starts_with(name);
            let rates = summaries.iter().filter(alike).map(|it| it.operations_per_second);
            mean(&rates.collect::<Vec<f64>>())
        };
        let kept = rate("10x offered").zip(rate("saturated"));
        let kept = kept.map(|(over, saturated)| over / saturated.max(1.0) * 100.0);
        at_least(&format!("{op} at 10x the load, of what saturates, %"), kept, 90.0)
    };
    vec![of("get"), of("put")]
}

/// Small requests beside ten times the load of large values that saturates. Two loads that both
/// want everything have a fair share of half of the cluster each, and together they should get as
/// much as either does alone.
fn mixture(summaries: &[Summary]) -> Vec<Option<String>> {
    let of = |name: &str| {
        let sizes = name.trim_start_matches(SMALL_BESIDE);
        let operations: fn(&Summary) -> f64 = |it| it.operations_per_second;
        let bytes: fn(&Summary) -> f64 = |it| it.bytes_per_second;
        // The mean of all measurements of this name, which alternate.
        let among = |name: &str, figure: fn(&Summary) -> f64| {
            let alike = summaries.iter().filter(|it| it.name == name);
            mean(&alike.map(figure).collect::<Vec<f64>>())
        };
        let ratio = |found: Option<f64>, alone: Option<f64>| {
            found.zip(alone).map(|(found, alone)| found / alone.max(1.0) * 100.0)
        };
        let small = ratio(among(name, operations), among("small, alone", operations));
        let large = ratio(
            among(&format!("{sizes}, 10x"), bytes),
            among(&format!("{sizes}, saturated"), bytes),
        );
        let together = small.zip(large).map(|(small, large)| small + large);
        [
            at_least(
                &format!("small, of its fair share, beside {sizes}, %"),
                small.map(|it| it * 2.0),
                100.0,
            ),
            at_least(&format!("small and {sizes}, of both peaks together, %"), together, 80.0),
        ]
    };
    let names = summaries.iter().map(|it| it.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| name.starts_with(SMALL_BESIDE)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().flat_map(of).collect()
}

/// How the measurements of small requests beside large values are named; the sizes follow.
const SMALL_BESIDE: &str = "small beside ";

/// What a larger cluster and more keys cost.
fn growth(summaries: &[Summary]) -> Vec<Option<String>> {
    let relative = |of: fn(&Summary) -> Option<f64>, name: &str, op: &str, least: &str| {
        let found = |name: &str| {
            let it = summaries.iter().rev().find(|it| it.name == name && it.op == op)?;
            of(it)
        };
        found(name).zip(found(least)).map(|(it, least)| it / least.max(f64::MIN_POSITIVE) * 100.0)
    };
    let cpu_us = |it: &Summary| it.cpu_us_per_operation;
    let us = |it: &Summary| Some(1e6 / it.operations_per_second.max(1.0));
    let mut lines = Vec::new();
    for op in ["get", "put"] {
        for how in ["", ", clients know the ring", ", load grows too"] {
            let least = if how.is_empty() { "" } else { ", clients know the ring" };
            let (name, least) = (format!("9 nodes{how}"), format!("3 nodes{least}"));
            let found = relative(cpu_us, &name, op, &least);
            lines.push(at_most(&format!("{op} cpu, {name}, of that of 3, %"), found, 115.0));
        }
        for keys in ["1000000", "10000000"] {
            let found = relative(us, &format!("{keys} keys"), op, "10000 keys");
            lines.push(at_most(
                &format!("{op} time, {keys} keys, of that of 10000, %"),
                found,
                150.0,
            ));
        }
    }
    lines
}

fn mean(of: &[f64]) -> Option<f64> {
    (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
}

/// The last measurement of this name, operation and number of connections.
fn place(summaries: &[Summary], name: &str, op: &str, connections: usize) -> Option<usize> {
    let is_it = |it: &Summary| {
        it.name != CEILING && it.name == name && it.op == op && it.connections == connections
    };
    summaries.iter().rposition(is_it)
}

fn at_least(what: &str, found: Option<f64>, wanted: f64) -> Option<String> {
    let found = found?;
    Some(line(what, "at least", found, wanted, found >= wanted))
}

fn at_most(what: &str, found: Option<f64>, wanted: f64) -> Option<String> {
    let found = found?;
    Some(line(what, "at most", found, wanted, found <= wanted))
}

fn line(what: &str, bound: &str, found: f64, wanted: f64, enough: bool) -> String {
    let verdict = if enough { "met" } else { "NOT met" };
    // Small ratios need a decimal.
    let digits = usize::from(wanted < 10.0);
    format!("{what:<54} {found:>7.1}, {bound} {wanted:.digits$}: {verdict}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::summary;

    #[test]
    fn targets_are_judged_where_there_is_a_measurement() {
        let rows = [
            summary(CEILING, "get", 1000.0),
            summary("buffered", "get", 400.0),
            summary(CEILING, "put", 1000.0),
            summary("buffered", "put", 100.0),
            summary("fsync", "put", 70.0),
        ];
        let text = text(&rows);
        let verdict = |start: &str| {
            let line = text.lines().find(|it| it.starts_with(start)).unwrap_or_default();
            line.rsplit_once(": ").map(|(_, verdict)| verdict.to_string())
        };
        assert_eq!(verdict("GET of").as_deref(), Some("met"), "{text}");
        assert_eq!(verdict("GET cpu").as_deref(), Some("met"), "{text}");
        assert_eq!(verdict("PUT buffered of").as_deref(), Some("NOT met"), "{text}");
        assert_eq!(verdict("PUT fsync of").as_deref(), Some("NOT met"), "{text}");
        assert_eq!(verdict("GET p50"), None, "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn overload_is_judged_by_what_saturates_in_turns() {
        let rows = [
            summary("closed loop", "get", 999.0),
            summary("saturated, turn 1", "get", 100.0),
            summary("10x offered, turn 1", "get", 90.0),
            summary("saturated, turn 2", "get", 300.0),
            summary("10x offered, turn 2", "get", 290.0),
            summary("saturated, turn 1", "put", 100.0),
        ];
        let text = text(&rows);
        assert!(text.contains("95.0, at least 90: met") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn small_requests_are_judged_by_half_of_their_peak() {
        let bytes = |name: &str, bytes_per_second| Summary {
            bytes_per_second,
            ..summary(name, "mixed", 1.0)
        };
        let rows = [
            summary("small, alone", "mixed", 900.0),
            bytes("1 MiB, saturated", 1e6),
            bytes("1 MiB, 10x", 5e5),
            summary("small beside 1 MiB", "mixed", 500.0),
            summary("small, alone", "mixed", 1100.0),
            bytes("1 MiB, saturated", 1e6),
            bytes("1 MiB, 10x", 1e5),
            summary("small beside 1 MiB", "mixed", 460.0),
        ];
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("96.0, at least 100: NOT met"), "{text}");
        assert!(lines[1].contains("78.0, at least 80: NOT met"), "{text}");
    }

    #[test]
    fn growth_is_judged_beside_the_least() {
        let cpu = |name: &str, us| Summary {
            cpu_us_per_operation: Some(us),
            ..summary(name, "put", 100.0)
        };
        let rows = [
            cpu("3 nodes", 10.0),
            cpu("9 nodes", 12.0),
            cpu("9 nodes, clients know the ring", 1.0),
        ];
        let found = text(&rows);
        assert!(
            found.contains("120.0, at most 115: NOT met") && found.lines().count() == 1,
            "{found}"
        );
        let rows = [summary("10000 keys", "get", 150.0), summary("1000000 keys", "get", 100.0)];
        let found = text(&rows);
        assert!(found.contains("150.0, at most 150: met") && found.lines().count() == 1, "{found}");
    }
}
