//! The logs of feeds: what is read of them, across starts, crashes and trims.

use std::thread;

use quorate_protocol::clock::Clock;
use quorate_protocol::name::Bucket;

use super::*;
use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, mint, open};
use crate::{Durability, Place, Source};

const DAY_S: u32 = 24 * 3_600;

fn keep(store: &Store, buckets: &[&str], now: WallTime) {
    let wanted = buckets.iter().map(|bucket| ((*bucket).to_owned(), DAY_S)).collect();
    store.keep_feeds(&wanted, now).unwrap();
}

fn page(store: &Store, position: Position) -> Page {
    store.feed("b", "", position, 100).unwrap().unwrap()
}

fn names(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|(_, _, key, _)| key.key()).collect()
}

fn end_of(page: &Page) -> Position {
    Position { log: page.log, after: page.upto }
}

#[test]
fn what_changes_is_read_in_order_from_any_position() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Fsync);
    mint(&store, HOME, "before", b"v");
    assert_eq!(store.feed("b", "", Position::default(), 9).unwrap(), None);
    keep(&store, &["b", "c"], NOW);
    let begun = page(&store, Position::default());
    assert_eq!((names(&begun), begun.trimmed.1), (vec![], NOW), "what was before is missing");
    assert_eq!(begun.trimmed.0, begun.upto);
    for name in ["a1", "a2", "x"] {
        mint(&store, HOME, name, b"v");
    }
    let last = mint(&store, HOME, "a1", b"w").object.version();
    mint(&store, Place::Hint(crate::testing::node("n2")), "hint", b"v");
    let all = page(&store, end_of(&begun));
    assert_eq!((names(&all), all.is_end), (vec!["a1", "a2", "x"], true));
    assert_eq!(all.entries[0].3, last, "the version of its last change");
    assert!(all.is_sound(end_of(&begun), &Bucket::parse("b").unwrap(), "", 100));
    assert_eq!(store.feed_end("b"), all.upto);
    let some = store.feed("b", "a", end_of(&begun), 1).unwrap().unwrap();
    assert_eq!((names(&some), some.is_end), (vec!["a1"], false));
    let rest = store.feed("b", "a", end_of(&some), 9).unwrap().unwrap();
    // Its later change is read again; what has another prefix is passed.
    assert_eq!((names(&rest), rest.upto, rest.is_end), (vec!["a2", "a1"], all.upto, true));
    assert_eq!(names(&page(&store, end_of(&rest))), [""; 0]);
    assert_eq!(page(&store, Position::END).upto, all.upto);
    let other = Position { log: all.log + 1, after: all.upto };
    assert_eq!(names(&page(&store, other)).len(), 3, "another log's position is none here");
    // A merge that changes nothing is none.
    let object = mint(&store, HOME, "y", b"v").object;
    let end = end_of(&page(&store, Position::END));
    store.merge(HOME, &key("y"), &object, NOW, Blocking::Allowed).unwrap();
    assert_eq!(names(&page(&store, end)), [""; 0]);
}

#[test]
fn numbers_go_on_after_a_start_and_logs_end_with_their_feeds() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Position::default();
    for start in 0..3 {
        let store = open(dir.path(), Durability::Fsync);
        keep(&store, &["b"], NOW);
        let before = page(&store, last);
        assert_eq!(names(&before).len(), usize::from(start > 0), "what came after the position");
        mint(&store, HOME, "a", b"v");
        let now = page(&store, end_of(&before));
        assert_eq!((now.log, names(&now)), (before.log, vec!["a"]));
        assert_eq!(store.feeds(), [("b".to_owned(), 2 * start + 1)]);
        last = end_of(&now);
        mint(&store, HOME, "b", b"v");
        store.sync().unwrap();
    }
    let store = open(dir.path(), Durability::Fsync);
    keep(&store, &["b"], NOW);
    keep(&store, &[], NOW);
    assert_eq!((store.feed("b", "", last, 9).unwrap(), store.feeds()), (None, vec![]));
    mint(&store, HOME, "missed", b"v");
    keep(&store, &["b"], NOW.plus(7));
    let again = page(&store, last);
    assert_ne!(again.log, last.log);
    assert_eq!((names(&again), again.trimmed.1), (vec![], NOW.plus(7)));
    mint(&store, HOME, "new", b"v");
    assert_eq!(store.sweep_feeds(), Ok(0), "the bucket has a log");
    assert_eq!(store.trim_feed("b", NOW, 10), Ok(6), "of the log before");
    assert_eq!(names(&page(&store, Position::default())), ["new"]);
    assert_eq!((store.feeds(), store.trim_feed("b", NOW, 10)), (vec![("b".to_owned(), 1)], Ok(0)));
    keep(&store, &[], NOW);
    assert_eq!((store.sweep_feeds(), store.sweep_feeds()), (Ok(1), Ok(0)));
}

#[test]
fn a_log_that_begins_in_an_empty_store_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let now = WallTime(1 << 40);
    keep(&store, &["b"], now);
    let since = WallTime(now.0 - u64::from(DAY_S) * 1_000);
    assert_eq!(page(&store, Position::default()).trimmed.1, since);
    mint(&store, HOME, "a", b"v");
    store.discard_rows().unwrap();
    assert_eq!(store.feeds(), []);
    keep(&store, &["b"], now);
    let begun = page(&store, Position::default());
    assert_eq!((names(&begun), begun.trimmed.1), (vec![], since));
}

#[test]
fn a_filling_node_logs_what_was_written_while_changes_are_kept() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, theirs] = dirs.each_ref().map(|dir| open(dir.path(), Durability::Buffered));
    let day_ms = u64::from(DAY_S) * 1_000;
    let rows = |at: u64, name: &str| {
        let draft = draft(Clock::default(), b"v");
        let at = WallTime(at);
        let minted = theirs.mint(HOME, &key(name), &draft, at, &LIMITS, Blocking::Allowed);
        vec![(HOME, key(name), minted.unwrap().unwrap().encoded)]
    };
    let now = WallTime(10 * day_ms);
    keep(&ours, &["b"], now);
    let old = rows(8 * day_ms, "old");
    assert_eq!(ours.merge_page(old.clone(), Source::Fill, now), Ok(1));
    assert_eq!(ours.merge_page(rows(9 * day_ms + 1, "recent"), Source::Fill, now), Ok(1));
    assert_eq!(names(&page(&ours, Position::default())), ["recent"]);
    assert_eq!(ours.merge_page(rows(8 * day_ms, "late"), Source::Replica, now), Ok(1));
    assert_eq!(names(&page(&ours, Position::default())), ["recent", "late"]);
    assert_eq!(ours.scrub(TREE.partition).unwrap().repaired(), 0);
}

#[test]
fn what_is_too_old_or_too_much_is_trimmed_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    let day_ms = u64::from(DAY_S) * 1_000;
    keep(&store, &["b"], WallTime(0));
    for i in 0..10 {
        let (draft, at) = (draft(Clock::default(), b"v"), WallTime(i * day_ms / 10));
        let key = key(&format!("k{i}"));
        store.mint(HOME, &key, &draft, at, &LIMITS, Blocking::Allowed).unwrap().unwrap();
    }
    let first = page(&store, Position::default());
    assert_eq!(store.trim_feed("b", WallTime(day_ms), 10), Ok(0));
    let now = WallTime(day_ms + 3 * day_ms / 10);
    assert_eq!(store.trim_feed("b", now, 10), Ok(3), "older than a day");
    let left = page(&store, Position::default());
    assert_eq!(names(&left), names(&first)[3..]);
    assert_eq!(left.trimmed, (first.entries[2].0, WallTime(2 * day_ms / 10)));
    assert_eq!(store.trim_feed("b", now, 5), Ok(2), "more than five");
    assert_eq!(store.feeds(), [("b".to_owned(), 5)]);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path(), Durability::Buffered);
    keep(&store, &["b"], now);
    let again = page(&store, Position::default());
    assert_eq!(again.trimmed, (first.entries[4].0, WallTime(4 * day_ms / 10)));
    assert_eq!(
        (names(&again), store.feeds()),
        (names(&first)[5..].to_vec(), vec![("b".into(), 5)])
    );
    assert_eq!(store.trim_feed("none", now, 0), Ok(0));
}

#[test]
fn an_entry_is_read_once_all_before_it_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    keep(&store, &["b"], NOW);
    let begun = end_of(&page(&store, Position::END));
    let key = key("slow");
    let mut update = store.update(HOME, &key, HOME.row_key(&key), None).unwrap();
    update.news = News::Change(NOW);
    let mut batch = store.engine.batch();
    let slow = store.feeds.stage(&mut batch, &update, Version([1; 16])).unwrap();
    mint(&store, HOME, "fast", b"v");
    let between = page(&store, begun);
    assert_eq!((names(&between), end_of(&between)), (vec![], begun), "not before the slow one");
    assert_eq!(store.feed_end("b"), begun.after);
    store.engine.write(batch, Blocking::Allowed).unwrap();
    slow.unwrap().keep();
    assert_eq!(names(&page(&store, begun)), ["slow", "fast"]);
}

#[test]
fn a_reader_beside_writers_misses_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Durability::Buffered);
    keep(&store, &["b"], NOW);
    let mut seen = BTreeSet::new();
    let mut position = Position::default();
    let mut read = |store: &Store| {
        let page = page(store, position);
        position = end_of(&page);
        seen.extend(page.entries.into_iter().map(|(_, _, key, _)| key));
    };
    thread::scope(|scope| {
        let writer = |by: usize| {
            let store = &store;
            move || (0..500).for_each(|i| drop(mint(store, HOME, &format!("{by}-{i}"), b"v")))
        };
        let writers: Vec<_> = (0..4).map(|by| scope.spawn(writer(by))).collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            read(&store);
        }
    });
    (0..25).for_each(|_| read(&store));
    assert_eq!(seen.len(), 2_000);
}

crate::testing::also_on_simulated_disks! {
    what_changes_is_read_in_order_from_any_position,
    numbers_go_on_after_a_start_and_logs_end_with_their_feeds,
    a_log_that_begins_in_an_empty_store_misses_nothing,
    a_filling_node_logs_what_was_written_while_changes_are_kept,
    what_is_too_old_or_too_much_is_trimmed_and_said_to_be,
    an_entry_is_read_once_all_before_it_are_written,
}
