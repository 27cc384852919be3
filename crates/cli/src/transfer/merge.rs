//! How one line of an import meets what the key holds.

use std::time::{Duration, SystemTime};

use quorate_client::{Bucket, Context, Error, Read};

use super::line::Line;
use crate::data::value::Stored;
use crate::lifetime::End;

/// How far the ends of one value may lie apart: seconds are rounded, and clocks differ.
const ENDS_APART_MAX: Duration = Duration::from_secs(60);

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
    /// All that it brings has expired.
    Expired,
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
    let wanted: Vec<&Stored> = line.siblings.iter().filter(|it| it.value.is_some()).collect();
    let read = bucket.get(key).send().await?;
    let held: Vec<Stored> = match &read {
        Read::Absent(_) => Vec::new(),
        Read::Value(versioned) => vec![Stored::from(versioned.clone())],
        Read::Siblings(siblings) => siblings.siblings().iter().map(Stored::from).collect(),
    };
    let is_missing = |value: &&Stored| !held.iter().any(|it| is_same(it, value));
    let missing: Vec<&Stored> = wanted.iter().copied().filter(is_missing).collect();
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
    wanted: &[&Stored],
    missing: &[&Stored],
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
    values: &[&Stored],
) -> Result<u32, Error> {
    let mut siblings = 0;
    for (at, stored) in values.iter().enumerate() {
        let value = stored.value.clone().unwrap_or_default();
        let mut put = match context.filter(|_| at == 0) {
            Some(context) => bucket.put_after(key, context, value),
            None => bucket.put_blind(key, value),
        };
        if let Some(lifetime) = stored.end.lifetime(SystemTime::now()) {
            put = put.lifetime(lifetime);
        }
        siblings = put.send().await?.siblings;
    }
    Ok(siblings)
}

/// Whether a reader would see the same: bytes, type, metadata and index entries, for as long.
fn is_same(held: &Stored, wanted: &Stored) -> bool {
    let (Some(one), Some(other)) = (&held.value, &wanted.value) else { return false };
    let sorted = |metadata: &quorate_client::Metadata| {
        let mut metadata = metadata.clone();
        metadata.user.sort_unstable();
        metadata.index.sort_unstable();
        metadata.index.dedup();
        metadata
    };
    let same_value = one.bytes == other.bytes && sorted(&one.metadata) == sorted(&other.metadata);
    same_value && is_same_end(held.end, wanted.end)
}

/// Whether a value that is there ends as a line says. A line that says nothing fits any end.
fn is_same_end(held: End, wanted: End) -> bool {
    match (held, wanted) {
        (_, End::Unsaid) => true,
        (End::At(one), End::At(other)) => {
            let apart = one.duration_since(other).unwrap_or_else(|error| error.duration());
            apart <= ENDS_APART_MAX
        }
        (End::Never | End::Unsaid, End::Never) => true,
        (End::At(_), End::Never) | (End::Never | End::Unsaid, End::At(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::Value;

    use super::*;

    #[test]
    fn the_same_value_with_another_end_is_another() {
        let at = |seconds| End::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let of = |text: &str, end| Stored { end, ..Stored::from(Value::from(text)) };
        let same = |held, wanted| is_same(&of("x", held), &of("x", wanted));
        assert!(same(End::Never, End::Never) && same(at(100), at(103)) && same(at(103), at(100)));
        assert!(same(at(100), End::Unsaid) && same(End::Never, End::Unsaid));
        assert!(
            !same(End::Never, at(100)) && !same(at(100), End::Never) && !same(at(100), at(500))
        );
        assert!(!is_same(&of("x", End::Never), &of("y", End::Never)));
        assert!(!is_same(&Stored::default(), &of("x", End::Never)));
    }

    #[test]
    fn the_same_value_with_other_index_entries_is_another() {
        let of = |ages: &[i64]| {
            let value = ages.iter().fold(Value::from("x"), |value, age| value.index("age_i", *age));
            Stored::from(value)
        };
        assert!(is_same(&of(&[7, 42]), &of(&[42, 7, 42])));
        assert!(!is_same(&of(&[7]), &of(&[8])) && !is_same(&of(&[7]), &of(&[])));
    }
}
