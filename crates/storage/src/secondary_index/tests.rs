//! Tests of the secondary index: what it lists, and that it never differs from the rows.

use proptest::prelude::*;
use quorate_protocol::clock::Clock;
use quorate_protocol::object::Metadata;
use quorate_protocol::row::Draft;

use super::*;
use crate::options::Durability;
use crate::testing::{LIMITS, NOW, draft, key, open};

fn name(text: &str) -> IndexName {
    IndexName::parse(text).unwrap()
}

fn integer(number: i64) -> IndexValue {
    IndexValue::Integer(number)
}

fn all_of(index: &str) -> IndexRange {
    IndexRange { index: name(index), from: None, to: None }
}

fn place(key: &Key) -> Place {
    Place::Home(Tree { partition: key.partition(64), n: 3 })
}

/// Writes a value with these entries of `n_i`.
fn write(store: &Store, at: &str, context: Clock, (bytes, entries): (usize, &[i64])) -> Clock {
    let user = entries.iter().map(|number| name("n_i").as_metadata(&integer(*number))).collect();
    let metadata = Metadata { user, ..Metadata::default() };
    let draft = Draft { metadata, ..draft(context, &vec![7; bytes]) };
    put(store, at, &draft)
}

fn put(store: &Store, at: &str, draft: &Draft) -> Clock {
    let key = key(at);
    let minted = store.mint(place(&key), &key, draft, NOW, &LIMITS, Blocking::Allowed);
    minted.unwrap().unwrap().object.clock
}

fn listed(store: &Store, range: &IndexRange) -> Vec<(String, String, bool)> {
    let of = |(hit, _, is_plain): (Hit, Version, bool)| {
        (hit.value.to_string(), hit.key.key().to_owned(), is_plain)
    };
    store.indexed("b", range, None, 1_000).unwrap().into_iter().map(of).collect()
}

fn owned(of: &[(&str, &str, bool)]) -> Vec<(String, String, bool)> {
    of.iter().map(|(value, key, plain)| ((*value).to_owned(), (*key).to_owned(), *plain)).collect()
}

fn strays(store: &Store) -> u64 {
    let (mut removed, mut from) = (0, None);
    loop {
        let (some, next) = store.scrub_index_some(from, || true).unwrap();
        removed += some;
        from = next;
        if from.is_none() {
            return removed;
        }
    }
}

#[test]
fn entries_live_and_die_with_their_values() {
    for bytes in [9, 40_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let old = write(&store, "a", Clock::default(), (bytes, &[5, -3]));
        write(&store, "b", Clock::default(), (bytes, &[5]));
        let both = owned(&[("-3", "a", true), ("5", "a", true), ("5", "b", true)]);
        assert_eq!(listed(&store, &all_of("n_i")), both);
        // Beside it, in its place, and nothing.
        write(&store, "a", Clock::default(), (bytes, &[7]));
        let two =
            owned(&[("-3", "a", false), ("5", "a", false), ("5", "b", true), ("7", "a", false)]);
        assert_eq!(listed(&store, &all_of("n_i")), two);
        let new = write(&store, "a", old, (bytes, &[]));
        assert_eq!(listed(&store, &all_of("n_i")), owned(&[("5", "b", true), ("7", "a", false)]));
        put(&store, "a", &Draft { value: None, ..draft(new, b"") });
        assert_eq!(listed(&store, &all_of("n_i")), owned(&[("5", "b", true)]));
        assert_eq!((strays(&store), listed(&store, &all_of("m_i"))), (0, vec![]));
    }
}

#[test]
fn text_is_in_the_order_of_its_bytes_and_integers_in_that_of_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let texts = ["a", "a b", "ab", "b", "ü"];
    for (number, text) in texts.iter().enumerate() {
        let entry = name("t_s").as_metadata(&name("t_s").value(text).unwrap());
        let metadata = Metadata { user: vec![entry], ..Metadata::default() };
        put(&store, &format!("{number}"), &Draft { metadata, ..draft(Clock::default(), b"") });
    }
    let values = |range: &IndexRange| -> Vec<String> {
        listed(&store, range).into_iter().map(|(value, ..)| value).collect()
    };
    assert_eq!(values(&all_of("t_s")), texts);
    let text = |text: &str| Some(IndexValue::Text(text.to_owned()));
    assert_eq!(values(&IndexRange { from: text("a"), to: text("a"), ..all_of("t_s") }), ["a"]);
    assert_eq!(values(&IndexRange { from: text("aa"), ..all_of("t_s") }), ["ab", "b", "ü"]);
    let numbers = [i64::MIN, -2, -1, 0, 1, 256, i64::MAX];
    write(&store, "k", Clock::default(), (1, &numbers));
    assert_eq!(values(&all_of("n_i")), numbers.map(|number| number.to_string()));
    let some = IndexRange { from: Some(integer(-1)), to: Some(integer(256)), ..all_of("n_i") };
    assert_eq!(values(&some), ["-1", "0", "1", "256"]);
    let page = store.indexed("b", &some, None, 2).unwrap();
    let rest = store.indexed("b", &some, Some(&page[1].0), 9).unwrap();
    assert_eq!((page.len(), rest.len()), (2, 2));
    assert_eq!(rest[0].0, Hit { value: integer(1), key: key("k") });
}

#[test]
fn what_is_missing_and_what_is_too_many_is_found_by_the_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    write(&store, "a", Clock::default(), (1, &[1, 2]));
    write(&store, "large", Clock::default(), (40_000, &[3]));
    let right = listed(&store, &all_of("n_i"));
    let entry = |at: &str, number| entry_key(&key(at), &name("n_i"), &integer(number));
    store.tamper(|batch| {
        batch.delete(Column::Index, entry("a", 1))?;
        batch.put(Column::Index, entry("large", 3), b"")?;
        batch.put(Column::Index, entry("a", 9), b"")?;
        batch.put(Column::Index, entry("gone", 9), b"")
    });
    assert_eq!(strays(&store), 3, "the one that says something else, and two without a row");
    let scrub = |at: &str| store.scrub(key(at).partition(64)).unwrap().differing_entries;
    assert_eq!((scrub("a"), scrub("large")), (1, 1));
    assert_eq!((scrub("a"), scrub("large"), strays(&store)), (0, 0, 0));
    assert_eq!(listed(&store, &all_of("n_i")), right);
}

/// As an earlier release leaves it, which keeps the metadata and knows no indexes.
#[test]
fn the_index_of_an_older_store_is_built_before_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Fsync);
    assert!(store.has_whole_index());
    for number in 0..300 {
        let entries: &[i64] = if number % 3 == 0 { &[number, -1] } else { &[] };
        write(&store, &format!("k{number}"), Clock::default(), (9, entries));
    }
    let right = listed(&store, &all_of("n_i"));
    assert_eq!(right.len(), 200);
    let mut known = Vec::new();
    store
        .walk(Column::Index, &[], None, |entry_key, _| {
            known.push(entry_key.to_vec());
            Ok(true)
        })
        .unwrap();
    store.tamper(|batch| {
        batch.delete(Column::Meta, WHOLE)?;
        known.iter().try_for_each(|entry_key| batch.delete(Column::Index, entry_key))
    });
    store.close().unwrap();
    drop(store);
    let store = open(dir.path(), Durability::Fsync);
    assert!(!store.has_whole_index() && listed(&store, &all_of("n_i")).is_empty());
    for partition in (0..64).map(Partition) {
        let mut after = None;
        loop {
            after = store.build_index_some(partition, after, || true).unwrap();
            if after.is_none() {
                break;
            }
        }
    }
    store.index_is_built().unwrap();
    assert_eq!((store.has_whole_index(), strays(&store)), (true, 0));
    assert_eq!(listed(&store, &all_of("n_i")), right);
    store.close().unwrap();
    drop(store);
    assert!(open(dir.path(), Durability::Fsync).has_whole_index());
}

/// A key, whether the value is large, its entries (or a delete), and whether the write saw what was there.
type Step = (usize, bool, Option<Vec<i64>>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let entries = prop::option::of(prop::collection::vec(-2i64..3, 0..4));
    prop::collection::vec((0usize..4, any::<bool>(), entries, any::<bool>()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any writes and deletes the index has exactly the entries of the values that there are.
    #[test]
    fn the_index_is_what_the_rows_say(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let mut clocks = vec![Clock::default(); 4];
        for (at, is_large, entries, sees_all) in &steps {
            let seen = if *sees_all { clocks[*at].clone() } else { Clock::default() };
            let at_key = format!("k{at}");
            clocks[*at] = match entries {
                Some(entries) => {
                    let bytes = if *is_large { 20_000 } else { 1 };
                    write(&store, &at_key, seen, (bytes, entries))
                }
                None => put(&store, &at_key, &Draft { value: None, ..draft(seen, b"") }),
            };
        }
        let mut expected = Vec::new();
        for at in 0..4 {
            let key = key(&format!("k{at}"));
            let Some(row) = store.read(place(&key), &key, Blocking::Allowed).unwrap() else { continue };
            let object = Row::decode(row).unwrap().object;
            let (version, plain) = (object.version(), is_plain(&object));
            let hits = object.index_entries().into_iter().map(|(_, value)| Hit { value, key: key.clone() });
            expected.extend(hits.map(|hit| (hit, version, plain)));
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(store.indexed("b", &all_of("n_i"), None, 1_000).unwrap(), expected);
        prop_assert_eq!(strays(&store), 0);
    }
}

crate::testing::also_on_simulated_disks! {
    entries_live_and_die_with_their_values,
    text_is_in_the_order_of_its_bytes_and_integers_in_that_of_numbers,
    what_is_missing_and_what_is_too_many_is_found_by_the_scrub,
    the_index_of_an_older_store_is_built_before_it_is_whole,
}
