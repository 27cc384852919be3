//! What a request may ask for beyond the defaults of its bucket.

use std::time::Duration;

/// A number of replicas, as N, R and W take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// A majority of N.
    Quorum,
    /// N.
    All,
    /// Exactly so many, from 1 to N.
    Exactly(u16),
}

impl From<u16> for Count {
    fn from(count: u16) -> Self {
        Self::Exactly(count)
    }
}

impl std::str::FromStr for Count {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            _ => match text.parse() {
                Ok(count @ 1..) => Ok(Self::Exactly(count)),
                Ok(_) | Err(_) => {
                    let detail =
                        format!("must be one, quorum, all or a number from 1, not {text:?}");
                    Err(crate::Error::invalid("count", detail))
                }
            },
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Exactly(count) => write!(f, "{count}"),
        }
    }
}

/// The options of one request. What is `None` follows the bucket's properties and the client's
/// settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How many home replicas to ask; at most the bucket's N.
    pub n: Option<Count>,
    /// R of a read, W of a write.
    pub needed: Option<Count>,
    /// Whether hints of fallbacks count.
    pub sloppy: Option<bool>,
    /// How long a node may take for one attempt, in milliseconds, 1 to the cluster's
    /// `timeouts.request_ms_max`. Follows the client's attempt time-out if none.
    pub timeout_ms: Option<u64>,
    /// How long the whole call may take, with all retries. Follows the client's time-out if none.
    pub deadline: Option<Duration>,
    /// Whether the node is to keep a trace of the request.
    pub explain: bool,
}

impl Options {
    /// The query of an attempt; `needed` is `r` or `w`. With a `budget` the node is told that it has less
    /// time than it takes by default, so that its answer comes before the client gives up.
    pub(crate) fn query(&self, needed: &str, budget: Option<Duration>) -> String {
        let mut pairs = Vec::new();
        let mut add = |name: &str, value: String| pairs.push(format!("{name}={value}"));
        if let Some(n) = self.n {
            add("n", n.to_string());
        }
        if let Some(count) = self.needed {
            add(needed, count.to_string());
        }
        if let Some(sloppy) = self.sloppy {
            add("sloppy", sloppy.to_string());
        }
        let budget_ms = budget.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX).max(1));
        if let Some(timeout_ms) = self.timeout_ms.or(budget_ms) {
            add("timeout_ms", timeout_ms.to_string());
        }
        if self.explain {
            add("explain", "true".to_owned());
        }
        pairs.join("&")
    }
}

/// The setters that every request of a key has.
macro_rules! option_setters {
    ($($field:ident).+, $needed:ident, $what:literal) => {
        /// Asks only the first `n` home replicas; at most the bucket's N.
        pub fn n(mut self, n: impl Into<$crate::Count>) -> Self {
            self.$($field).+.n = Some(n.into());
            self
        }

        #[doc = $what]
        pub fn $needed(mut self, count: impl Into<$crate::Count>) -> Self {
            self.$($field).+.needed = Some(count.into());
            self
        }

        /// Whether hints of fallbacks count.
        pub fn sloppy(mut self, sloppy: bool) -> Self {
            self.$($field).+.sloppy = Some(sloppy);
            self
        }

        /// How long a node may take for one attempt, in milliseconds, 1 to the cluster's
        /// `timeouts.request_ms_max` (60,000 unless configured).
        pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
            self.$($field).+.timeout_ms = Some(timeout_ms);
            self
        }

        /// How long the whole call may take, with all retries.
        pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
            self.$($field).+.deadline = Some(deadline);
            self
        }

        /// Replaces all options.
        pub fn options(mut self, options: $crate::Options) -> Self {
            self.$($field).+ = options;
            self
        }
    };
}
pub(crate) use option_setters;

/// The setter of requests that a node can keep a trace of.
macro_rules! explain_setter {
    ($($field:ident).+) => {
        /// Asks the node to keep a trace of the request:
        /// [`Answered::explain_id`](crate::Answered::explain_id) names it.
        pub fn explain(mut self) -> Self {
            self.$($field).+.explain = true;
            self
        }
    };
}
pub(crate) use explain_setter;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_words_or_numbers_from_one() {
        for text in ["one", "quorum", "all", "1", "65535"] {
            assert_eq!(text.parse::<Count>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "-1", "ALL", "65536", "1.5"] {
            assert!(bad.parse::<Count>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_says_only_what_was_asked() {
        let budget = Some(Duration::from_millis(1500));
        assert_eq!(Options::default().query("r", None), "");
        assert_eq!(Options::default().query("r", budget), "timeout_ms=1500");
        let options = Options {
            n: Some(Count::Exactly(2)),
            needed: Some(Count::All),
            sloppy: Some(false),
            timeout_ms: Some(7),
            deadline: None,
            explain: true,
        };
        assert_eq!(options.query("w", budget), "n=2&w=all&sloppy=false&timeout_ms=7&explain=true");
        assert_eq!(Options::default().query("w", Some(Duration::ZERO)), "timeout_ms=1");
    }
}
