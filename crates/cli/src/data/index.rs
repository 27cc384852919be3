//! `quorate index`.

use quorate_client::{IndexEntry, IndexQuery, IndexValue};
use serde_json::json;

use crate::app::App;
use crate::args::{Common, bucket_name};
use crate::data::keys;
use crate::exit::{Done, Exit, Failure};
use crate::table::{Table, cell};

/// The most entries asked for in one request.
const PAGE: u64 = 1000;
/// How many entries a table has, unless told otherwise.
const ROWS: u64 = 10_000;

/// Find keys by the index entries of their values.
///
/// Entries are written with a value: `quorate put users/ada ... --index email_s=ada@x --index age_i=36`. An
/// index whose name ends in _s has texts, in the order of their bytes; one whose name ends in _i has
/// integers. A key in conflict is found by the entries of all of its siblings.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  quorate index users email_s --eq ada@x
  quorate index users age_i --from 18 --to 65
  quorate index users age_i --from -7                # 7 below zero, and all above
  quorate index users email_s                        # every entry, in order
  quorate index users age_i --to 17 --null | xargs -0 -I{} quorate get users/{}
  quorate index users age_i --limit 100 --cursor CURSOR

Entries are in order of value, then of key. Both ends of a range are in it. An index that nobody has used
is empty. It is no snapshot: what is written meanwhile may be shown or not.

If too few replicas of some partition answered, entries may be missing: a note says so, and the exit code
is 5. A table ends after 10000 entries, unless --limit says otherwise.

JSON: one object per line, {\"bucket\", \"index\", \"value\", \"key\"}; the last one has cursor and complete
instead of value and key.")]
pub struct Args {
    /// The bucket
    #[arg(value_parser = bucket_name)]
    bucket: String,
    /// The index: its name ends in _s (texts) or _i (integers)
    index: String,
    /// Only entries with this value
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true, conflicts_with_all = ["from", "to"])]
    eq: Option<String>,
    /// Only entries with this value or a greater one
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    from: Option<String>,
    /// Only entries with this value or a smaller one
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    to: Option<String>,
    /// Stop after so many entries, and tell the cursor
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on where an earlier answer to the same question stopped
    #[arg(long)]
    cursor: Option<String>,
    /// Print keys only, and end each with a NUL byte
    #[arg(long, short = '0', conflicts_with = "json")]
    null: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Args {
    /// What is asked.
    ///
    /// # Errors
    /// Usage: a value that the index cannot have.
    fn query(&self, app: &App) -> Done<IndexQuery> {
        let value = |text: &Option<String>| {
            let value = text.as_ref().map(|text| IndexValue::parse(&self.index, text)).transpose();
            value.map_err(|error| Failure::usage(error.to_string()))
        };
        let mut query = app.nodes.plain.bucket(self.bucket.as_str()).index(self.index.as_str());
        if let Some(value) = value(&self.eq)? {
            query = query.eq(value);
        }
        if let Some(value) = value(&self.from)? {
            query = query.from(value);
        }
        if let Some(value) = value(&self.to)? {
            query = query.to(value);
        }
        Ok(query)
    }
}

/// Runs the command.
pub(crate) async fn run(app: &App, args: &Args) -> Done<Exit> {
    let query = args.query(app)?;
    let as_lines = app.out.json || args.null;
    let mut cursor = args.cursor.clone();
    let mut left = args.limit.unwrap_or(if as_lines { u64::MAX } else { ROWS });
    let mut rows = Vec::new();
    let mut complete = true;
    loop {
        let query = query.clone().limit(left.min(PAGE) as u16);
        let page = app.ask("asking the index", query.page(cursor.as_deref())).await?;
        complete &= page.complete;
        left = left.saturating_sub(page.entries.len() as u64);
        if as_lines {
            print(app, args, &page.entries)?
        } else {
            rows.extend(page.entries)
        }
        cursor = page.cursor;
        if cursor.is_none() || left == 0 {
            break;
        }
    }
    if app.out.json {
        let (bucket, index) = (&args.bucket, &args.index);
        let last =
            json!({"bucket": bucket, "index": index, "cursor": cursor, "complete": complete});
        app.out.json(&last)?;
    } else if !as_lines {
        show(app, args, &rows)?;
    }
    Ok(keys::end(app, "entries", cursor.as_deref(), complete))
}

fn print(app: &App, args: &Args, entries: &[IndexEntry]) -> Done {
    let mut text = String::new();
    for IndexEntry { value, key } in entries {
        if args.null {
            text += &format!("{key}\0");
        } else {
            let (bucket, index) = (&args.bucket, &args.index);
            let line = json!({"bucket": bucket, "index": index, "value": value, "key": key});
            text += &format!("{line}\n");
        }
    }
    app.out.bytes(text.as_bytes())
}

fn show(app: &App, args: &Args, entries: &[IndexEntry]) -> Done {
    if entries.is_empty() {
        return app.out.line("no key has such an entry");
    }
    let has_integers = args.index.ends_with("_i");
    let mut table = Table::new(&[if has_integers { "#value" } else { "value" }, "key"]);
    for IndexEntry { value, key } in entries {
        table.row(vec![cell(value), cell(format!("{}/{key}", args.bucket))]);
    }
    app.out.table(&table)
}
