//! How long values live: as a person says it, as exports keep it, and in words.

use std::time::{Duration, SystemTime};

use quorate_client::Lifetime;
use serde_json::{Value as Json, json};

/// When a value that is known here ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is said about it: its bucket decides.
    #[default]
    Unsaid,
    /// It stays until it is overwritten or deleted.
    Never,
    /// At this time.
    At(SystemTime),
}

impl End {
    /// Of a value that was read.
    pub(crate) fn of(expires_at: Option<SystemTime>) -> Self {
        expires_at.map_or(Self::Never, Self::At)
    }

    /// A member `expires_at`: a time, null for never, or missing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_json(member: Option<&Json>) -> Result<Self, String> {
        match member {
            None => Ok(Self::Unsaid),
            Some(Json::Null) => Ok(Self::Never),
            Some(Json::String(text)) => match humantime::parse_rfc3339(text) {
                Ok(at) => Ok(Self::At(at)),
                Err(_) => {
                    Err("expires_at: must be a time, such as 2026-11-29T18:39:26Z".to_owned())
                }
            },
            Some(_) => Err("expires_at: must be a time as text, or null".to_owned()),
        }
    }

    /// The member; `None` if it is left out.
    pub(crate) fn json(self) -> Option<Json> {
        match self {
            Self::Unsaid => None,
            Self::Never => Some(Json::Null),
            Self::At(at) => Some(json!(rfc3339(at))),
        }
    }

    /// Whether it is over.
    pub(crate) fn is_over(self, now: SystemTime) -> bool {
        matches!(self, Self::At(at) if at <= now)
    }

    /// What a write that is to end so asks for now.
    pub(crate) fn lifetime(self, now: SystemTime) -> Option<Lifetime> {
        match self {
            Self::Unsaid => None,
            Self::Never => Some(Lifetime::Unlimited),
            // A write that was begun in time gets a last second, and never no end at all.
            Self::At(at) => {
                let left = at.duration_since(now).unwrap_or_default();
                Some(Lifetime::Limited(left.max(Duration::from_secs(1))))
            }
        }
    }
}

/// A time in RFC 3339, to the millisecond, as nodes write it.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// `90s`, `15m`, `1h`, `7d`, `1h 30m`, or `never`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime::Unlimited);
    }
    let examples = "expected a time such as 90s, 15m, 1h, 7d, or never";
    let time = humantime::parse_duration(text).map_err(|_| examples.to_owned())?;
    let lifetime = Lifetime::Limited(time);
    lifetime.seconds().map_err(|_| format!("{examples}; 1 s to 100 years"))?;
    Ok(lifetime)
}

/// A lifetime in words: ` for 1h`, or ` for ever`; nothing if it is not given.
pub(crate) fn told(lifetime: Option<Lifetime>) -> String {
    match lifetime {
        None => String::new(),
        Some(Lifetime::Unlimited) => " for ever".to_owned(),
        Some(limited @ Lifetime::Limited(_)) => {
            let seconds = limited.seconds().ok().flatten().unwrap_or_default();
            format!(" for {}", exact(seconds))
        }
    }
}

/// A number of seconds as it can be given: `7d`, `90m`, `61s`.
pub(crate) fn exact(seconds: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let fits = |(unit, _): &&(u64, &str)| seconds > 0 && seconds.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_given_in_words() {
        let seconds = |text: &str| parse(text).map(|lifetime| lifetime.seconds().unwrap());
        for (text, wanted) in [("90s", 90), ("15m", 900), ("1h 30m", 5400), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(Some(wanted)), "{text}");
        }
        assert_eq!(seconds("never"), Ok(None));
        assert_eq!(seconds("1ms"), Ok(Some(1)), "rounded up");
        for bad in ["", "0s", "60", "soon", "-1h", "200years", "Never", "1e9s"] {
            assert!(parse(bad).unwrap_err().contains("never"), "{bad}");
        }
        assert_eq!(told(parse("1m 30s").ok()), " for 90s");
        assert_eq!(
            [exact(61), exact(5400), exact(7200), exact(2_592_000)],
            ["61s", "90m", "2h", "30d"]
        );
    }

    #[test]
    fn an_end_survives_json_and_gives_the_time_that_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let after = |ms| End::At(now + Duration::from_millis(ms));
        for end in [End::Unsaid, End::Never, after(1_234)] {
            assert_eq!(End::of_json(end.json().as_ref()), Ok(end));
        }
        for bad in [json!("soon"), json!(7), json!("2026-11-29"), json!({})] {
            assert!(End::of_json(Some(&bad)).unwrap_err().contains("expires_at"), "{bad}");
        }
        let left = |end: End| end.lifetime(now).map(|lifetime| lifetime.seconds().unwrap());
        assert_eq!([left(End::Unsaid), left(End::Never)], [None, Some(None)]);
        assert_eq!(left(after(89_001)), Some(Some(90)));
        let over = End::At(now - Duration::from_secs(5));
        assert!(over.is_over(now) && End::At(now).is_over(now) && !after(1).is_over(now));
        assert_eq!(left(over), Some(Some(1)), "an end all the same");
    }
}
