//! `quorate bucket`.

use quorate_client::{BucketProperties, Count, DataType, Lifetime};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::exit::{Done, Exit, Failure};
use crate::lifetime;
use crate::refusal;
use crate::table::{Paint, Table, cell, painted};

/// In the order of a table.
const PROPERTIES: [&str; 8] =
    ["type", "n", "r", "w", "conflicts", "sloppy", "expires_in_s", "feed_retention_s"];

/// List, show, change or reset the properties of buckets.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate bucket list
  quorate bucket get carts
  quorate bucket set carts --n 5 --w 3          # the other properties stay as they are
  quorate bucket set flags --conflicts lww
  quorate bucket set visits --type counter      # while it has no keys; see `quorate typed`
  quorate bucket set sessions --expires-in 30d  # values that are written from now on
  quorate bucket set carts --feed 24h           # keep a day of what changes, for `quorate feed`
  quorate bucket reset carts

A bucket needs not be made: every name is one, with the defaults. A property that was not set follows
the defaults. A type, once set, stays.

JSON: bucket, properties (type, n, r, w, conflicts, sloppy, expires_in_s, feed_retention_s), set (those
that were set); of the list: buckets (a list of those), defaults.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// The buckets with properties of their own, and the defaults
    List,
    /// One bucket's properties
    Get {
        /// The bucket
        #[arg(value_parser = bucket_name)]
        bucket: String,
    },
    /// Set some properties of a bucket
    Set(Set),
    /// Reset a bucket to the defaults; its keys and its type are not touched
    Reset {
        /// The bucket
        #[arg(value_parser = bucket_name)]
        bucket: String,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Set {
    /// The bucket
    #[arg(value_parser = bucket_name)]
    bucket: String,
    /// Copies of each key
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    n: Option<u16>,
    /// How many replicas answer a read: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    r: Option<Count>,
    /// How many replicas hold a write: a number, one, quorum or all
    #[arg(long, value_name = "COUNT")]
    w: Option<Count>,
    /// The type of its values, by which concurrent changes are merged; only while it has no keys
    #[arg(long = "type", value_name = "TYPE",
          value_parser = ["counter", "set", "flag", "map", "register_lww", "hll"])]
    data_type: Option<String>,
    /// Keep concurrent writes as siblings, or let the last one win (lww)
    #[arg(long, value_parser = ["siblings", "lww"], conflicts_with = "data_type")]
    conflicts: Option<String>,
    /// Whether fallbacks count towards r and w
    #[arg(long, value_name = "true|false")]
    sloppy: Option<bool>,
    /// How long values live whose write does not say it: 90s, 15m, 1h, 7d; or never. Those that are there
    /// keep what they have
    #[arg(long, value_name = "TIME", value_parser = lifetime::parse, conflicts_with = "data_type")]
    expires_in: Option<Lifetime>,
    /// For how long changes are kept for `quorate feed`: 1m to 30d; none: not at all, and what was kept is
    /// forgotten
    #[arg(long, value_name = "TIME|none", value_parser = retention)]
    feed: Option<Retention>,
}

/// For how long changes are kept, in seconds; `None`: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retention(Option<u64>);

/// `24h`, `90m`, `7d`, or `none`.
fn retention(text: &str) -> Result<Retention, String> {
    if text == "none" {
        return Ok(Retention(None));
    }
    let seconds = humantime::parse_duration(text).ok().map(|time| time.as_secs());
    match seconds.filter(|seconds| RETENTION_S.contains(seconds)) {
        Some(seconds) => Ok(Retention(Some(seconds))),
        None => Err("expected a time from 1m to 30d, such as 90m, 24h, 7d, or none".to_owned()),
    }
}

/// For how long nodes keep changes, in seconds.
const RETENTION_S: std::ops::RangeInclusive<u64> = 60..=2_592_000;

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    match &args.what {
        What::List => list(app).await,
        What::Get { bucket } => get(app, bucket).await,
        What::Set(wanted) => set(app, wanted).await,
        What::Reset { bucket } => reset(app, bucket).await,
    }
}

/// `GET /buckets`, checked.
async fn buckets(app: &App) -> Done<Value> {
    let told = app.ask("asking", app.nodes.admin().buckets()).await?;
    let sound = told["buckets"].is_array() && told["defaults"].is_object();
    if sound { Ok(told) } else { Err(refusal::incomplete("/buckets")) }
}

fn of<'a>(told: &'a Value, bucket: &str) -> Option<&'a Value> {
    told["buckets"].as_array()?.iter().find(|it| it["bucket"].as_str() == Some(bucket))
}

async fn list(app: &App) -> Done<Exit> {
    let told = buckets(app).await?;
    if app.out.json {
        app.out.json(&told)?;
        return Ok(Exit::Ok);
    }
    let mut headings = vec!["bucket"];
    headings.extend(PROPERTIES.map(heading));
    let mut table = Table::new(&headings);
    for bucket in told["buckets"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let mut row = vec![cell(bucket["bucket"].as_str().unwrap_or("?"))];
        for name in PROPERTIES {
            let own = !bucket["set"][name].is_null();
            row.push(painted(
                text(name, &bucket["properties"][name]),
                if own { Paint::Plain } else { Paint::Dim },
            ));
        }
        table.row(row);
    }
    let mut row = vec![painted("(all others)", Paint::Dim)];
    row.extend(PROPERTIES.map(|name| painted(text(name, &told["defaults"][name]), Paint::Dim)));
    table.row(row);
    app.out.table(&table)?;
    Ok(Exit::Ok)
}

async fn get(app: &App, bucket: &str) -> Done<Exit> {
    let told = buckets(app).await?;
    let own = of(&told, bucket);
    let properties = own.map_or(&told["defaults"], |own| &own["properties"]);
    let set = own.map_or_else(|| json!({}), |own| own["set"].clone());
    show(app, bucket, properties, &set)?;
    Ok(Exit::Ok)
}

async fn set(app: &App, wanted: &Set) -> Done<Exit> {
    let Set { bucket: _, n, r, w, data_type, conflicts, sloppy, expires_in, feed } = wanted;
    let counts = n.is_some() || r.is_some() || w.is_some();
    let times = expires_in.is_some() || feed.is_some();
    let others = conflicts.is_some() || sloppy.is_some() || times;
    if !counts && data_type.is_none() && !others {
        let why = "nothing to set: give one of --type, --n, --r, --w, --conflicts, --sloppy, --expires-in, \
                   --feed";
        return Err(Failure::usage(why).advise("`quorate bucket reset` takes all back").into());
    }
    // All properties are replaced: those that were set before are sent again.
    let told = buckets(app).await?;
    let before = of(&told, &wanted.bucket).map_or_else(|| json!({}), |own| own["set"].clone());
    let before = serde_json::from_value::<BucketProperties>(before);
    let before = before.map_err(|_| refusal::incomplete("/buckets"))?;
    let count = |count: Count| match count {
        Count::Exactly(number) => json!(number),
        Count::One | Count::Quorum | Count::All => json!(count.to_string()),
    };
    let data_type = data_type.as_deref().map(str::parse::<DataType>).transpose()?;
    // A bucket that gets a type has no other way to settle conflicts.
    let earlier = before.conflicts.filter(|_| data_type.is_none());
    let set = BucketProperties {
        data_type: data_type.or(before.data_type),
        n: wanted.n.or(before.n),
        r: wanted.r.map(count).or(before.r),
        w: wanted.w.map(count).or(before.w),
        conflicts: wanted.conflicts.clone().or(earlier),
        sloppy: wanted.sloppy.or(before.sloppy),
        expires_in_s: match expires_in {
            Some(lifetime) => lifetime.seconds()?,
            None => before.expires_in_s.filter(|_| data_type.is_none()),
        },
        feed_retention_s: feed.map_or(before.feed_retention_s, |Retention(seconds)| seconds),
    };
    let admin = app.nodes.admin();
    let properties = app.ask("setting", admin.set_bucket(&wanted.bucket, &set)).await?;
    show(app, &wanted.bucket, &json!(properties), &json!(set))?;
    Ok(Exit::Ok)
}

async fn reset(app: &App, bucket: &str) -> Done<Exit> {
    app.ask("resetting", app.nodes.admin().reset_bucket(bucket)).await?;
    let told = buckets(app).await?;
    let own = of(&told, bucket);
    let has_set = |own: &Value| PROPERTIES[1..].iter().any(|name| !own["set"][*name].is_null());
    if own.is_some_and(has_set) {
        let message = format!("{bucket} was reset, and someone has set properties of it since");
        return Err(Failure::new(Exit::Conflict, message).into());
    }
    let nothing = json!({});
    let (properties, set) =
        own.map_or((&told["defaults"], &nothing), |own| (&own["properties"], &own["set"])); // a type stays
    show(app, bucket, properties, set)?;
    Ok(Exit::Ok)
}

fn show(app: &App, bucket: &str, properties: &Value, set: &Value) -> Done {
    if app.out.json {
        return app.out.json(&json!({"bucket": bucket, "properties": properties, "set": set}));
    }
    let mut table = Table::new(&["property", "value", "from"]);
    for name in PROPERTIES {
        let from = match (set[name].is_null(), properties[name] == "merged") {
            (false, _) => "this bucket",
            (true, true) => "its type",
            (true, false) => "the defaults",
        };
        table.row(vec![
            cell(heading(name)),
            cell(text(name, &properties[name])),
            painted(from, Paint::Dim),
        ]);
    }
    app.out.table(&table)
}

/// What people call a property.
fn heading(name: &'static str) -> &'static str {
    match name {
        "expires_in_s" => "expires in",
        "feed_retention_s" => "feed",
        other => other,
    }
}

fn text(name: &str, value: &Value) -> String {
    if let ("expires_in_s" | "feed_retention_s", Some(seconds)) = (name, value.as_u64()) {
        return lifetime::exact(seconds);
    }
    match value {
        Value::Null if name == "expires_in_s" => "never".to_owned(),
        Value::Null if name == "feed_retention_s" => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_time_or_none() {
        for (text, seconds) in [("none", None), ("1m", Some(60)), ("30d", Some(2_592_000))] {
            assert_eq!(retention(text), Ok(Retention(seconds)), "{text}");
        }
        for bad in ["", "never", "59s", "31d", "24", "-1h"] {
            assert!(retention(bad).is_err(), "{bad}");
        }
        assert_eq!(text("feed_retention_s", &json!(86_400)), "1d");
        assert_eq!(text("feed_retention_s", &Value::Null), "none");
    }
}
