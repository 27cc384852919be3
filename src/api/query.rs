//! Query parameters, parsed once.
//!
//! Each route lists the parameters it accepts. Anything else is a 400 that names the parameter: an
//! unknown or misspelt one must not be ignored, since `?W=3` would then promise less than the
//! client asked for.

use quorate_protocol::clock::Dot;
use quorate_protocol::name::{Bucket, KEY_BYTES_MAX, NodeId};
use quorate_protocol::quorum::{Count, QuorumError};
use quorate_protocol::record::Phase;
use quorate_protocol::terms::QuorumOptions;

use super::path::percent_decode;
use super::problem::Problem;

/// The parameters of a request; `None` if not given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) n: Option<Count>,
    pub(super) r: Option<Count>,
    pub(super) w: Option<Count>,
    /// Milliseconds; 1 or more, the upper bound is checked by [`Params::timeout_ms`].
    timeout_ms: Option<u64>,
    pub(super) sloppy: Option<bool>,
    pub(super) return_body: bool,
    pub(super) explain: bool,
    pub(super) slow: bool,
    pub(super) sibling: Option<Dot>,
    pub(super) bucket: Option<Bucket>,
    /// 1 to [`LIMIT_MAX`].
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) node: Option<NodeId>,
    pub(super) partition: Option<u16>,
    pub(super) epoch: Option<u64>,
    /// How long to wait for something new, in milliseconds.
    pub(super) wait_ms: Option<u64>,
    pub(super) phase: Option<Phase>,
    /// Of an index: the only value, or the ends of a range; not checked.
    pub(super) eq: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// The longest wait for something new, in milliseconds.
const WAIT_MS_MAX: u64 = 60_000;
/// The largest page of a listing, in rows. Bounds the work of one request.
pub(super) const LIMIT_MAX: usize = 1000;

impl Params {
    /// Parses a query that may contain only `known` parameters, each at most once.
    ///
    /// # Errors
    /// 400 `bad_parameter` that names the parameter and the accepted values.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut params = Self::default();
        let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(params) };
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = text("a name", name)?;
            if !known.contains(&name.as_str()) {
                let allowed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("is not a parameter of this request; allowed: {allowed}");
                return Err(Problem::bad_parameter(&name, detail));
            }
            if seen.contains(&name) {
                return Err(Problem::bad_parameter(&name, "is given more than once"));
            }
            let value = text(&name, value)?;
            params.set(&name, &value).map_err(|detail| Problem::bad_parameter(&name, detail))?;
            seen.push(name);
        }
        Ok(params)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "n" => self.n = Some(count(value)?),
            "r" => self.r = Some(count(value)?),
            "w" => self.w = Some(count(value)?),
            "wait_ms" => self.wait_ms = Some(number(value, WAIT_MS_MAX)?),
            "timeout_ms" => self.timeout_ms = Some(number(value, u64::MAX)?),
            "sloppy" => self.sloppy = Some(boolean(value)?),
            "return_body" => self.return_body = boolean(value)?,
            "explain" => self.explain = boolean(value)?,
            "slow" => self.slow = boolean(value)?,
            "sibling" => self.sibling = Some(value.parse().map_err(|e| format!("{e}"))?),
            "bucket" => self.bucket = Some(Bucket::parse(value).map_err(|e| e.to_string())?),
            "limit" => self.limit = Some(number(value, LIMIT_MAX as u64)? as usize),
            "cursor" => self.cursor = Some(value.to_owned()),
            "prefix" => self.prefix = Some(parse_prefix(value)?),
            "node" => self.node = Some(NodeId::parse(value).map_err(|e| e.to_string())?),
            "partition" => {
                self.partition = Some(value.parse().map_err(|_| "must be a number".to_owned())?);
            }
            "epoch" => self.epoch = Some(number(value, u64::MAX)?),
            "phase" => self.phase = Some(phase(value)?),
            "eq" => self.eq = Some(value.to_owned()),
            "from" => self.from = Some(value.to_owned()),
            "to" => self.to = Some(value.to_owned()),
            _ => return Err("is not a parameter".to_owned()),
        }
        Ok(())
    }

    /// The timeout of the request in milliseconds: the client's, else `default`.
    ///
    /// # Errors
    /// 400 if it exceeds `max`.
    pub(super) fn timeout_ms(&self, default: u64, max: u64) -> Result<u64, Problem> {
        match self.timeout_ms {
            Some(asked) if asked > max => {
                Err(Problem::bad_parameter("timeout_ms", format!("must be from 1 to {max}")))
            }
            asked => Ok(asked.unwrap_or(default)),
        }
    }

    /// The quorum settings that a read asks for.
    pub(super) fn of_read(&self) -> QuorumOptions {
        QuorumOptions { n: self.n, needed: self.r, sloppy: self.sloppy }
    }

    /// The quorum settings that a write asks for.
    pub(super) fn of_write(&self) -> QuorumOptions {
        QuorumOptions { n: self.n, needed: self.w, sloppy: self.sloppy }
    }
}

/// 400 that names `n`, or `name` (`r` or `w`), and its range: `1 <= r, w <= n <=` the bucket's n.
pub(super) fn unfit(name: &str, error: QuorumError) -> Problem {
    match error {
        QuorumError::TooManyReplicas { n, max } => Problem::bad_parameter(
            "n",
            format!(
                "must be from 1 to the bucket's n ({max}), not {n}; a request may only lower it"
            ),
        ),
        QuorumError::MoreThanN { needed, n } => {
            Problem::bad_parameter(name, format!("must be from 1 to n ({n}), not {needed}"))
        }
    }
}

/// Decodes a name or a value in form encoding: a plus is a space, `%2B` a plus.
fn text(name: &str, raw: &str) -> Result<String, Problem> {
    percent_decode(&raw.replace('+', " "))
        .and_then(|bytes| String::from_utf8(bytes.into_owned()).ok())
        .ok_or_else(|| Problem::bad_parameter(name, "is not percent-encoded UTF-8"))
}

/// Parses a prefix.
///
/// # Errors
/// The reason, if no key can start with it.
fn parse_prefix(value: &str) -> Result<String, String> {
    if value.len() > KEY_BYTES_MAX || value.contains('\0') {
        return Err(format!("must be at most {KEY_BYTES_MAX} bytes without NUL, as keys are"));
    }
    Ok(value.to_owned())
}

fn count(value: &str) -> Result<Count, String> {
    Count::parse(value).map_err(|error| error.to_string())
}

fn number(value: &str, max: u64) -> Result<u64, String> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse::<u64>() {
        Ok(number) if digits && (1..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) if max == u64::MAX => Err("must be a whole number from 1".to_owned()),
        Ok(_) | Err(_) => Err(format!("must be a whole number from 1 to {max}")),
    }
}

fn phase(value: &str) -> Result<Phase, String> {
    match value {
        "stable" => Ok(Phase::Stable),
        "moving" => Ok(Phase::Moving),
        "releasing" => Ok(Phase::Releasing),
        _ => Err("must be stable, moving or releasing".to_owned()),
    }
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::bucket::Properties;
    use quorate_protocol::terms::{Lists, Terms};

    use super::*;

    const OF_WRITES: &[&str] = &["w", "n", "timeout_ms", "sloppy", "return_body"];
    const OF_READS: &[&str] = &["r", "n"];
    const ALL: &[&str] =
        &["r", "w", "n", "timeout_ms", "sloppy", "return_body", "sibling", "bucket", "limit"];

    fn refused(query: &str) -> String {
        Params::parse(Some(query), ALL).unwrap_err().detail().to_owned()
    }

    #[test]
    fn words_numbers_and_nothing() {
        let params =
            Params::parse(Some("w=all&n=2&timeout_ms=50&sloppy=false&return_body=true"), OF_WRITES);
        let params = params.unwrap();
        assert_eq!((params.w, params.n), (Some(Count::All), Some(Count::Exactly(2))));
        assert_eq!(params.timeout_ms(1000, 60_000).unwrap(), 50);
        assert_eq!((params.sloppy, params.return_body), (Some(false), true));
        assert_eq!(Params::parse(None, OF_READS).unwrap(), Params::default());
        assert_eq!(Params::parse(Some(""), OF_READS).unwrap(), Params::default());
        assert_eq!(Params::parse(Some("%72=one"), OF_READS).unwrap().r, Some(Count::One));
    }

    #[test]
    fn every_wrong_value_is_named_with_its_parameter() {
        for bad in ["0", "-1", "%2B1", "+1", "", "two", "1.5", "65536", "ALL", "%201"] {
            for name in ["r", "w", "n"] {
                let detail = refused(&format!("{name}={bad}"));
                assert!(detail.starts_with(&format!("{name}: must be a whole number")), "{detail}");
            }
        }
        assert!(refused("r").starts_with("r: must be"));
        for bad in ["0", "-5", "", "1s", "99999999999999999999999"] {
            assert!(refused(&format!("timeout_ms={bad}")).starts_with("timeout_ms: must be"));
        }
        for bad in ["1", "TRUE", "", "yes"] {
            assert_eq!(refused(&format!("sloppy={bad}")), "sloppy: must be true or false");
            assert_eq!(
                refused(&format!("return_body={bad}")),
                "return_body: must be true or false"
            );
        }
        assert!(refused("sibling=7").starts_with("sibling: a dot is"));
        assert!(refused("bucket=a/b").starts_with("bucket: a bucket is"));
        for bad in ["0", "1001", "-1", ""] {
            assert!(refused(&format!("limit={bad}")).contains("from 1 to 1000"));
        }
    }

    #[test]
    fn unknown_repeated_and_undecodable_parameters_are_named() {
        assert!(refused("W=3").starts_with("W: is not a parameter"));
        assert!(refused("w=1&&n=1").contains("is not a parameter"));
        assert_eq!(refused("w=1&w=1"), "w: is given more than once");
        assert_eq!(refused("w=%zz"), "w: is not percent-encoded UTF-8");
        assert_eq!(refused("w=%ff"), "w: is not percent-encoded UTF-8");
        let form = Params::parse(Some("prefix=user+1%2B"), &["prefix"]).unwrap();
        assert_eq!(form.prefix.as_deref(), Some("user 1+"), "as forms are encoded");
        let put = Params::parse(Some("r=1"), OF_WRITES).unwrap_err();
        assert!(put.detail().contains("allowed: w, n, timeout_ms"), "{}", put.detail());
    }

    #[test]
    fn impossible_quorums_are_named() {
        let bucket = Properties::default();
        let list: Vec<_> = (1..6).map(|i| NodeId::parse(&format!("n{i}")).unwrap()).collect();
        let lists = Lists { stable: &list, next: None };
        let terms = |query| {
            let params = Params::parse(Some(query), ALL).unwrap();
            let read = Terms::of_read(&params.of_read(), &bucket, lists);
            let write = Terms::of_write(&params.of_write(), &bucket, lists);
            (read.map_err(|error| unfit("r", error)), write.map_err(|error| unfit("w", error)))
        };
        let detail = |result: Result<Terms, Problem>| result.unwrap_err().detail().to_owned();
        assert!(detail(terms("n=4").0).starts_with("n: must be from 1 to the bucket's n (3)"));
        assert_eq!(detail(terms("r=4").0), "r: must be from 1 to n (3), not 4");
        assert_eq!(detail(terms("n=1&w=2").1), "w: must be from 1 to n (1), not 2");
        let narrow = terms("n=1").1.unwrap();
        assert_eq!((narrow.n, narrow.needed()), (1, 1));
        let long = Params::parse(Some("timeout_ms=60001"), ALL).unwrap();
        assert_eq!(
            long.timeout_ms(1, 60_000).unwrap_err().detail(),
            "timeout_ms: must be from 1 to 60000"
        );
    }

    #[test]
    fn a_layout_is_waited_for_by_epoch_and_phase() {
        const KNOWN: &[&str] = &["epoch", "phase"];
        let asked = Params::parse(Some("epoch=17&phase=stable"), KNOWN).unwrap();
        assert_eq!((asked.epoch, asked.phase), (Some(17), Some(Phase::Stable)));
        for bad in ["epoch=-1", "epoch=x", "epoch=", "phase=done", "phase=", "phase=Stable"] {
            let name = bad.split('=').next().unwrap();
            let problem = Params::parse(Some(bad), KNOWN).unwrap_err();
            assert!(problem.detail().starts_with(name), "{bad}: {}", problem.detail());
        }
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_key() {
        assert_eq!(parse_prefix(""), Ok(String::new()));
        assert_eq!(parse_prefix(&"k".repeat(1024)), Ok("k".repeat(1024)));
        assert!(parse_prefix(&"k".repeat(1025)).is_err());
        assert!(parse_prefix("a\0b").is_err());
    }
}
