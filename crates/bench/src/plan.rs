//! The settings of a measurement, each parsed into its range at once.

use std::path::PathBuf;

use crate::value::VALUE_BYTES_MIN;

/// What to do to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Only PUT.
    Put,
    /// Only GET, of keys that were stored before.
    Get,
    /// Half PUT, half GET.
    Mixed,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Mixed => "mixed",
        }
    }
}

/// Load a cluster and measure it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The nodes to spread the connections over.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL,…")]
    pub(crate) nodes: Vec<String>,
    /// What to do.
    #[arg(long, value_enum, default_value = "put")]
    pub(crate) op: Op,
    /// Connections, and so operations in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// The length of the measurement.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Load before it that is not measured.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) warmup_seconds: f64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024, value_parser = value_bytes)]
    pub(crate) value_bytes: usize,
    /// How many keys.
    #[arg(long, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub(crate) keys: u64,
    /// Open loop: this many operations per second; latencies count from the intended start.
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Add the result to this file, as one line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Processes whose processor time and memory to report: the nodes.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID,…")]
    pub(crate) pids: Vec<u32>,
    /// The bucket; it is set to `conflicts = lww`.
    #[arg(long, default_value = "bench")]
    pub(crate) bucket: String,
    /// Parameters for each request, for example `w=1`.
    #[arg(long, default_value = "")]
    pub(crate) query: String,
    /// Do not store the keys before reading them.
    #[arg(long)]
    pub(crate) skip_preload: bool,
    /// Take any body for an answer to GET (for the ceiling server, which knows only one).
    #[arg(long)]
    pub(crate) any_value: bool,
    /// What to call the result.
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

fn value_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "expected a number of bytes".to_string())?;
    let limits = VALUE_BYTES_MIN..=8 * 1024 * 1024;
    if limits.contains(&bytes) { Ok(bytes) } else { Err(format!("{limits:?}")) }
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

    /// The settings that these words of a command line mean.
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
        ] {
            assert!(args(&bad).is_err(), "{bad:?}");
        }
    }
}
