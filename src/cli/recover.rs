//! `quorate layout recover`: the data directory of a node that is stopped, in a cluster that has lost a
//! majority of its disks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use quorate_cli::{Confirm, Recover};
use quorate_engine::node::recover::{Found, RecoverError, Wanted, look};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, RECORD_BYTES_MAX, RecordHash, RecordMember};
use quorate_storage::DataDir;

use crate::config;
use crate::host;

/// Recovers a data directory. Returns what there is to say.
///
/// # Errors
/// What is wrong, and what to do.
pub fn run(asked: &Recover, confirm: Confirm<'_>) -> Result<String, String> {
    let config = config::load(&asked.config).map_err(|error| error.to_string())?;
    let wanted = wanted(asked)?;
    // Opening it would make one.
    if !config.data_dir.join("rocksdb").is_dir() {
        let path = config.data_dir.display();
        return Err(format!("data_dir {path}: {}", RecoverError::NothingHere));
    }
    let (files, dir) = (host::files(&config), DataDir::Path(config.data_dir.clone()));
    let found = look(&config, (&files, &dir), &wanted).map_err(|error| error.to_string())?;
    let (epoch, hash) = (found.record.epoch(), found.record.hash());
    confirm(&in_words(&found))?;
    found.carry_out(&files).map_err(|error| error.to_string())?;
    Ok(format!(
        "recovered: epoch {epoch}, hash {hash}. Do the same on every other disk that is left, with --expect \
         {hash}, before you start a node"
    ))
}

fn wanted(asked: &Recover) -> Result<Wanted, String> {
    let node = |text: &String| NodeId::parse(text).map_err(|error| format!("--without: {error}"));
    let expect = asked.expect.as_deref().map(hash).transpose()?;
    Ok(Wanted {
        without: asked.without.iter().map(node).collect::<Result<BTreeSet<_>, _>>()?,
        newest: asked.record.as_deref().map(read).transpose()?,
        expect,
        force: asked.force,
    })
}

fn hash(text: &str) -> Result<RecordHash, String> {
    let fits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| fits);
    number.map(RecordHash).ok_or_else(|| "--expect: a hash has 32 digits of 0-9 a-f".to_owned())
}

/// A file that is not longer than any record.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let (mut bytes, most) = (Vec::new(), RECORD_BYTES_MAX as u64 + 1);
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|error| format!("--record {}: {error}", path.display()))?;
    Ok(bytes)
}

/// What it comes to, for the operator to compare and to agree to.
fn in_words(found: &Found) -> String {
    let Found { known, record, is_done, overrides, partitions, lost_partitions, .. } = found;
    let of = |record: &ClusterRecord| format!("epoch {}, hash {}", record.epoch(), record.hash());
    if *is_done {
        return format!("it was recovered before: {}", of(record));
    }
    let names = |members: &[RecordMember]| {
        members.iter().map(|member| member.node.to_string()).collect::<Vec<_>>().join(" ")
    };
    let mut text = format!(
        "this disk knows:    {} ({})\nit would go on with: {} ({})",
        of(known),
        names(known.stable()),
        of(record),
        names(record.stable())
    );
    if known.next().is_some() {
        text += "\nThe change that is under way is given up.";
    }
    if let Some(other) = overrides {
        text += &format!(
            "\nThis disk has voted for record {other}, which may have been decided: look whether another \
             disk that is left knows it, and give its record with --record if so."
        );
    }
    text + &format!(
        "\nLost are writes that only the lost disks acknowledged, and all keys in {lost_partitions} of \
         {partitions} partitions, of which no copy is left (of buckets with the default n). Compare the \
         epoch and the hash on every disk that is left: they must be the same."
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_checked_by_name() {
        let asked = |without: &str, expect: Option<&str>| Recover {
            config: "n1.toml".into(),
            without: vec![without.to_owned()],
            record: None,
            expect: expect.map(str::to_owned),
            force: false,
            yes: true,
        };
        let digits = "0123456789abcdef0123456789abcdef";
        let read = wanted(&asked("n2", Some(digits))).unwrap();
        assert_eq!(read.expect.map(|it| it.to_string()).as_deref(), Some(digits));
        for (without, expect, named) in
            [("N2", None, "--without"), ("n2", Some("7"), "--expect"), ("n2", Some(""), "--expect")]
        {
            let why = wanted(&asked(without, expect)).unwrap_err();
            assert!(why.starts_with(named), "{why}");
        }
        let missing = Recover { record: Some("/no/such/file".into()), ..asked("n2", None) };
        assert!(wanted(&missing).unwrap_err().starts_with("--record /no/such/file: "));
    }
}
