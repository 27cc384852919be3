//! When values end: what a write asks for, and what an answer tells.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::Answer;
use crate::error::Error;

const EXPIRES_IN: HeaderName = HeaderName::from_static("quorate-expires-in");
const EXPIRES_AT: HeaderName = HeaderName::from_static("quorate-expires-at");
const EXPIRED: HeaderName = HeaderName::from_static("quorate-expired");
/// The longest life of a value that ends, in seconds: 100 years of 366 days.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// How long a value lives. A write that does not say it follows its bucket
/// ([`BucketProperties::expires_in_s`](crate::BucketProperties::expires_in_s)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// So long from when it is stored: more than nothing, at most 100 years. Parts of a second are rounded
    /// up.
    Limited(Duration),
    /// Until it is overwritten or deleted, whatever its bucket says.
    Unlimited,
}

impl Lifetime {
    /// The whole seconds of a value that ends; `None` for one that does not.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no value can live so long, or it is to live for no time at all.
    pub fn seconds(self) -> Result<Option<u64>, Error> {
        let Self::Limited(time) = self else { return Ok(None) };
        let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
        if (1..=SECONDS_MAX).contains(&seconds) {
            return Ok(Some(seconds));
        }
        let detail = format!("must be more than nothing and at most {SECONDS_MAX} s, not {time:?}");
        Err(Error::invalid("expires_in", detail))
    }

    /// Adds what a write asks for to its headers.
    pub(crate) fn write_to(asked: Option<Self>, headers: &mut HeaderMap) -> Result<(), Error> {
        let Some(lifetime) = asked else { return Ok(()) };
        let value = match lifetime.seconds()? {
            Some(seconds) => HeaderValue::from(seconds),
            None => HeaderValue::from_static("never"),
        };
        headers.insert(EXPIRES_IN, value);
        Ok(())
    }
}

/// When the value of an answer expires.
///
/// # Errors
/// [`Error::BadAnswer`] if the answer says what is no time: a value that ends must not seem to stay.
pub(crate) fn expires_at(answer: &Answer) -> Result<Option<SystemTime>, Error> {
    let told = match answer.headers.get(&EXPIRES_AT) {
        None => return Ok(None),
        Some(told) => told.to_str().ok().and_then(|text| time_of(text).ok()),
    };
    told.map(Some).ok_or_else(|| answer.bad("its Quorate-Expires-At is no time"))
}

/// Whether a key has no value because what it had has expired.
pub(crate) fn has_expired(answer: &Answer) -> bool {
    answer.headers.get(&EXPIRED).is_some_and(|value| value == "true")
}

/// A time of an answer: RFC 3339.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn time_of(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|error| format!("expires_at: {error}"))
}

/// Adds to headers what the answer to one operation of a batch says.
pub(crate) fn told(headers: &mut HeaderMap, expires_at: Option<&str>, expired: bool) {
    if let Some(value) = expires_at.map(HeaderValue::from_str) {
        // What is no header's value is no time either, and must not get lost.
        headers.insert(EXPIRES_AT, value.unwrap_or(HeaderValue::from_static("")));
    }
    if expired {
        headers.insert(EXPIRED, HeaderValue::from_static("true"));
    }
}

/// The setters of how long a value lives.
macro_rules! lifetime_setters {
    () => {
        /// The value expires after this time: from then on the key is as if it had been deleted. Parts of a
        /// second are rounded up; at most 100 years. Without this, and without
        /// [`never_expires`](Self::never_expires), the bucket's property counts.
        pub fn expires_in(self, time: std::time::Duration) -> Self {
            self.lifetime($crate::Lifetime::Limited(time))
        }

        /// The value stays until it is overwritten or deleted, whatever its bucket says.
        pub fn never_expires(self) -> Self {
            self.lifetime($crate::Lifetime::Unlimited)
        }

        /// Either, for programs that are told which.
        pub fn lifetime(mut self, lifetime: $crate::Lifetime) -> Self {
            self.lifetime = Some(lifetime);
            self
        }
    };
}
pub(crate) use lifetime_setters;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header(lifetime: Lifetime) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        Lifetime::write_to(Some(lifetime), &mut headers).map_err(|error| error.to_string())?;
        Ok(headers["quorate-expires-in"].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_life_is_whole_seconds_rounded_up() {
        let of = |ms| header(Lifetime::Limited(Duration::from_millis(ms)));
        assert_eq!(of(1).unwrap(), "1");
        assert_eq!(of(1_000).unwrap(), "1");
        assert_eq!(of(1_001).unwrap(), "2");
        assert_eq!(header(Lifetime::Unlimited).unwrap(), "never");
        let longest = Duration::from_secs(3_162_240_000);
        assert_eq!(header(Lifetime::Limited(longest)).unwrap(), "3162240000");
        for bad in [Duration::ZERO, longest + Duration::from_nanos(1), Duration::MAX] {
            assert!(
                header(Lifetime::Limited(bad)).unwrap_err().starts_with("expires_in"),
                "{bad:?}"
            );
        }
        let mut headers = HeaderMap::new();
        Lifetime::write_to(None, &mut headers).unwrap();
        assert!(headers.is_empty(), "the bucket decides");
    }

    #[test]
    fn ends_are_read_to_the_millisecond() {
        let end = time_of("2026-11-29T18:39:26.123Z").unwrap();
        let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_millis() % 1000, 123);
        for bad in ["", "soon", "2026-11-29", "2026-13-29T18:39:26.123Z"] {
            assert!(time_of(bad).is_err(), "{bad}");
        }
    }
}
