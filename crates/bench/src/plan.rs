//! The settings of a measurement, each validated when parsed.

use std::path::PathBuf;

use crate::key_chooser::{Dice, Order};
use crate::value::Sizes;

/// The operations to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Only PUT.
    Put,
    /// Only GET, of keys that were stored before.
    Get,
    /// Only DELETE, of one stored key after the other.
    Delete,
    /// PUT, GET and DELETE in the ratio of `--mix`.
    Mixed,
    /// Only increments of counters by 1, in the bucket that `--bucket` names, with `-counter` after it.
    Increment,
    /// Only adds of one of 20 elements to sets, in the bucket with `-set` after its name.
    Add,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Delete => "delete",
            Op::Mixed => "mixed",
            Op::Increment => "increment",
            Op::Add => "add",
        }
    }

    /// The type that its bucket must have.
    pub(crate) fn data_type(self) -> Option<&'static str> {
        match self {
            Op::Put | Op::Get | Op::Delete | Op::Mixed => None,
            Op::Increment => Some("counter"),
            Op::Add => Some("set"),
        }
    }
}

/// Which node a request for a key goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Route {
    /// Any node, as behind a load balancer.
    Any,
    /// A home replica of the key, as with a client that knows the ring.
    Home,
}

/// The relative frequency of each operation in a mixed load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    put: u64,
    get: u64,
    delete: u64,
}

impl Mix {
    /// Draws an operation.
    pub(crate) fn draw(self, dice: &mut Dice) -> Op {
        match dice.below(self.put + self.get + self.delete) {
            it if it < self.put => Op::Put,
            it if it < self.put + self.get => Op::Get,
            _ => Op::Delete,
        }
    }
}

/// Load a cluster and measure it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The nodes to spread the connections over.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL,…")]
    pub(crate) nodes: Vec<String>,
    /// The authorities to believe, in PEM, where nodes are named by `https://`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The operation to measure.
    #[arg(long, value_enum, default_value = "put")]
    pub(crate) op: Op,
    /// How often each operation comes in `--op mixed`.
    #[arg(long, default_value = "50:50:0", value_name = "PUT:GET:DELETE", value_parser = mix)]
    pub(crate) mix: Mix,
    /// Connections, and thus operations in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub(crate) connections: u16,
    /// Additional clients that read 100 bytes of a value each second.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow_readers: u16,
    /// Additional clients that announce 8 MiB and send 100 bytes each second.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow_uploads: u16,
    /// Additional connections that send nothing.
    #[arg(long, default_value_t = 0)]
    pub(crate) idle_connections: u16,
    /// The length of the measurement.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Load before the measurement that is not counted.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) warmup_seconds: f64,
    /// Bytes of a value: a number, `LOW..HIGH` (uniform) or `log:LOW..HIGH` (mostly small ones).
    #[arg(long, default_value = "1024", value_name = "SIZES", value_parser = Sizes::parse)]
    pub(crate) value_bytes: Sizes,
    /// How many keys.
    #[arg(long, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub(crate) keys: u64,
    /// The order in which keys are requested.
    #[arg(long, value_enum, default_value = "uniform")]
    pub(crate) order: Order,
    /// Which of the nodes is asked for a key.
    #[arg(long, value_enum, default_value = "any")]
    pub(crate) route: Route,
    /// Make the bucket `siblings` and send this share of the PUTs, in percent, without a context;
    /// the others carry the key's context, and read it first if there is a conflict.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) conflicts: Option<f64>,
    /// Open loop: this many operations per second; latencies count from the intended start.
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Let a connection that was refused back off as long as `Retry-After` says.
    #[arg(long)]
    pub(crate) obey_retry_after: bool,
    /// Append the result to this file, as one line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw latency over time and the percentile curve into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Processes whose CPU time, memory and disk writes to report: the nodes.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID,…")]
    pub(crate) pids: Vec<u32>,
    /// The bucket; its `conflicts` are set to `lww`, or to `siblings` by `--conflicts`.
    #[arg(long, default_value = "bench")]
    pub(crate) bucket: String,
    /// Give the bucket a feed, so that each write is logged.
    #[arg(long)]
    pub(crate) feed: bool,
    /// Entries in a secondary index that each value written by PUT has: random numbers.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) index_entries: u8,
    /// Parameters for each request, for example `w=1`.
    #[arg(long, default_value = "")]
    pub(crate) query: String,
    /// Do not store the keys before reading them.
    #[arg(long)]
    pub(crate) skip_preload: bool,
    /// Accept any body as the answer to GET (for the ceiling server, which has only one).
    #[arg(long)]
    pub(crate) any_value: bool,
    /// The name of the result.
    #[arg(long, default_value = "cluster")]
    pub(crate) name: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_string())?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("0 to 86400".to_string()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected operations per second".to_string())?;
    if (0.1..=1e7).contains(&rate) { Ok(rate) } else { Err("0.1 to 10000000".to_string()) }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "expected a number".to_string())?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("0 to 100".to_string()) }
}

fn mix(text: &str) -> Result<Mix, String> {
    let parts: Result<Vec<u64>, _> =
        text.split(':').map(|it| it.parse::<u16>().map(u64::from)).collect();
    match parts.as_deref() {
        Ok([put, get, delete]) if put + get + delete > 0 => {
            Ok(Mix { put: *put, get: *get, delete: *delete })
        }
        _ => Err("expected three numbers, such as 50:45:5".to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// The settings that this command line results in.
    pub(crate) fn args(words: &[&str]) -> Result<Args, clap::Error> {
        Cli::try_parse_from(["run"].iter().chain(words)).map(|it| it.args)
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert!(args(&["--nodes", "a:1"]).is_ok());
        for bad in [
            vec![],
            vec!["--nodes", "a:1", "--connections", "0"],
            vec!["--nodes", "a:1", "--value-bytes", "23"],
            vec!["--nodes", "a:1", "--seconds", "-1"],
            vec!["--nodes", "a:1", "--seconds", "NaN"],
            vec!["--nodes", "a:1", "--rate", "0"],
            vec!["--nodes", "a:1", "--keys", "0"],
            vec!["--nodes", "a:1", "--mix", "0:0:0"],
            vec!["--nodes", "a:1", "--mix", "50:50"],
            vec!["--nodes", "a:1", "--conflicts", "101"],
        ] {
            assert!(args(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mix_draws_each_operation_as_often_as_it_says() {
        let (mix, mut dice) = (mix("70:20:10").unwrap(), Dice::new(1));
        let drawn: Vec<Op> = (0..10_000).map(|_| mix.draw(&mut dice)).collect();
        for (op, expected) in [(Op::Put, 7000), (Op::Get, 2000), (Op::Delete, 1000)] {
            let found = drawn.iter().filter(|it| **it == op).count();
            assert!(found.abs_diff(expected) < 300, "{op:?}: {found}");
        }
    }
}
