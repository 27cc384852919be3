//! How one line of an import meets what the key holds.

use quorate_client::{Bucket, Context, Error, Read, Value};

use super::line::Line;

/// What to do with a key that holds something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnConflict {
    /// Keep both, as siblings
    Keep,
    /// Leave what is there
    Skip,
    /// Replace what is there
    Replace,
}

/// What became of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    New,
    Same,
    Replaced,
    Conflicted,
    Skipped,
}

/// Stores one line; with `dry_run` it only says what would become of it.
///
/// # Errors
/// The request that failed.
pub(super) async fn one(
    bucket: &Bucket,
    line: &Line,
    on_conflict: OnConflict,
    dry_run: bool,
) -> Result<Became, Error> {
    let key = line.name.key.as_str();
    let wanted: Vec<&Value> = line.siblings.iter().filter_map(|it| it.value.as_ref()).collect();
    let read = bucket.get(key).send().await?;
    let held: Vec<&Value> = match &read {
        Read::Absent(_) => Vec::new(),
        Read::Value(versioned) => vec![versioned.value()],
        Read::Siblings(siblings) => siblings.values().collect(),
    };
    let is_missing = |value: &&Value| !held.iter().any(|it| is_same(it, value));
    let missing: Vec<&Value> = wanted.iter().copied().filter(is_missing).collect();
    let (became, context) = match (&read, on_conflict) {
        (Read::Absent(absent), _) => (Became::New, absent.context().cloned()),
        _ if missing.is_empty() => return Ok(Became::Same),
        (_, OnConflict::Skip) => return Ok(Became::Skipped),
        (_, OnConflict::Replace) => (Became::Replaced, read.context().cloned()),
        // Whether the line's context covers what is there, only the cluster can tell.
        (_, OnConflict::Keep) if dry_run => return Ok(Became::Conflicted),
        (_, OnConflict::Keep) => return keep(bucket, line, &wanted, &missing).await,
    };
    if !dry_run {
        write(bucket, key, context.as_ref(), &wanted).await?;
    }
    Ok(became)
}

/// Stores what a line brings beside what is there, or in its place if the line has seen that.
async fn keep(
    bucket: &Bucket,
    line: &Line,
    wanted: &[&Value],
    missing: &[&Value],
) -> Result<Became, Error> {
    let key = line.name.key.as_str();
    if let Some(context) = line.context.as_deref().and_then(|text| Context::parse(text).ok()) {
        match write(bucket, key, Some(&context), wanted).await {
            Ok(siblings) if siblings as usize == wanted.len() => return Ok(Became::Replaced),
            Ok(_) => return Ok(Became::Conflicted),
            Err(error) if is_of_another_cluster(&error) => {}
            Err(error) => return Err(error),
        }
    }
    write(bucket, key, None, missing).await?;
    Ok(Became::Conflicted)
}

fn is_of_another_cluster(error: &Error) -> bool {
    error.problem().is_some_and(|problem| problem.name() == "bad_context")
}

/// Writes values beside each other, the first with the context; returns how many siblings there are.
async fn write(
    bucket: &Bucket,
    key: &str,
    context: Option<&Context>,
    values: &[&Value],
) -> Result<u32, Error> {
    let mut siblings = 0;
    for (at, value) in values.iter().enumerate() {
        let value = (*value).clone();
        let put = match context.filter(|_| at == 0) {
            Some(context) => bucket.put_after(key, context, value),
            None => bucket.put_blind(key, value),
        };
        siblings = put.send().await?.siblings;
    }
    Ok(siblings)
}

/// Whether a reader would see the same: bytes, type and metadata.
fn is_same(one: &Value, other: &Value) -> bool {
    let sorted = |value: &Value| {
        let mut metadata = value.metadata.clone();
        metadata.user.sort_unstable();
        metadata
    };
    one.bytes == other.bytes && sorted(one) == sorted(other)
}
