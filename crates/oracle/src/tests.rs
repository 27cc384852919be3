//! Tests of the oracle itself: it reports what is broken, and nothing else.

use super::*;

const KEY: &str = "b/k";

/// A history as a test of real processes records it: no dots, no contexts.
struct TestHistory {
    oracle: Oracle,
    now: u64,
}

impl TestHistory {
    fn new() -> Self {
        Self { oracle: Oracle::new(3), now: 0 }
    }

    fn moment(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    fn put(&mut self, saw: &[WriteNo], end: End) -> WriteNo {
        let (begun, ended) = (self.moment(), self.moment());
        let saw = Saw::These(saw.iter().copied().collect());
        let write = self.oracle.begin_write(KEY, false, saw, begun);
        self.oracle.history.begin_attempt(write);
        self.oracle.end_attempt(write, end, ended);
        write
    }

    fn read(&mut self, shown: &[WriteNo]) -> Option<&'static str> {
        let read = Read { begun: self.moment(), r: 2, strict: true };
        let shown: Vec<Sight> = sights(shown);
        let answer = Answer { key: KEY, shown: &shown, context: None };
        self.oracle.check_read(&read, &answer).err().map(|violation| violation.property)
    }

    fn left(&self, shown: &[WriteNo]) -> Option<&'static str> {
        let replicas = BTreeMap::from([(NodeId::parse("n1").unwrap(), sights(shown))]);
        self.oracle.check_final(KEY, &replicas).err().map(|violation| violation.property)
    }
}

fn sights(shown: &[WriteNo]) -> Vec<Sight> {
    shown.iter().map(|write| Sight { write: *write, dot: None }).collect()
}

fn acked() -> End {
    End::Acked { acks: 2, hints: 0, w: 2, strict: true }
}

#[test]
fn an_acknowledged_write_is_there_or_one_that_saw_it() {
    let mut history = TestHistory::new();
    let first = history.put(&[], acked());
    assert_eq!(history.left(&[]), Some("no_acknowledged_write_is_lost"));
    let second = history.put(&[first], End::Unknown);
    let third = history.put(&[second], End::Unknown);
    for left in [&[first][..], &[second], &[third]] {
        assert_eq!(history.left(left), None, "{left:?}");
    }
    let blind = history.put(&[], End::Unknown);
    assert_eq!(history.left(&[blind]), Some("no_acknowledged_write_is_lost"));
}

#[test]
fn siblings_did_not_see_each_other_and_the_dead_stay_dead() {
    let mut history = TestHistory::new();
    let first = history.put(&[], End::Unknown);
    let second = history.put(&[first], acked());
    let blind = history.put(&[], End::Unknown);
    assert_eq!(history.left(&[second, blind]), None);
    assert_eq!(history.left(&[first, second]), Some("no_false_siblings"));
    assert_eq!(history.read(&[first]), Some("strict_reads_see_what_was_acknowledged"));
    assert_eq!(history.read(&[second, second]), Some("one_request_one_sibling"));
}

#[test]
fn the_dead_stay_dead_under_the_dot_that_was_superseded() {
    let mut history = TestHistory::new();
    let dot = |counter| Dot { actor: quorate_protocol::clock::Actor(7), counter };
    let first = history.put(&[], End::Unknown);
    history.oracle.history.begin_attempt(first);
    history.oracle.history.shown_under(first, dot(1));
    let second = history.put(&[first], acked());
    assert_eq!(history.left(&[first, second]), Some("no_false_siblings"));
    history.oracle.history.shown_under(first, dot(2));
    assert_eq!(history.left(&[first, second]), None, "the copy of a repeated request");
}

#[test]
fn what_was_called_not_applied_never_appears_and_what_failed_may() {
    let mut history = TestHistory::new();
    let refused = history.put(&[], End::NotApplied);
    let unknown = history.put(&[], End::Unknown);
    assert_eq!(history.read(&[unknown]), None);
    assert_eq!(history.read(&[]), None);
    assert_eq!(history.read(&[refused]), Some("no_phantoms"));
    // A retry that is not known to have failed may be stored.
    history.oracle.history.begin_attempt(refused);
    assert_eq!(history.read(&[refused]), None);
    assert_eq!(history.read(&[WriteNo(99)]), Some("no_phantoms"));
}

#[test]
fn a_strict_read_sees_what_was_acknowledged_before_it_began() {
    let mut history = TestHistory::new();
    let first = history.put(&[], acked());
    assert_eq!(history.read(&[first]), None);
    assert_eq!(history.read(&[]), Some("no_false_absence"));
    let sibling = history.put(&[], acked());
    assert_eq!(history.read(&[first]), Some("strict_reads_see_what_was_acknowledged"));
    assert_eq!(history.read(&[first, sibling]), None);
}

#[test]
fn a_context_covers_what_was_shown_and_what_that_superseded() {
    let mut history = TestHistory::new();
    let dot = |counter| Dot { actor: quorate_protocol::clock::Actor(7), counter };
    let (first, second) = (history.put(&[], acked()), history.put(&[], acked()));
    history.oracle.minted(first, dot(1), BTreeSet::new()).unwrap();
    history.oracle.minted(second, dot(2), BTreeSet::new()).unwrap();
    let mut clock = Clock::default();
    clock.advance(dot(2));
    let covers = |history: &TestHistory, shown: &[WriteNo]| {
        let shown = sights(shown);
        history.oracle.check_answer(&Answer { key: KEY, shown: &shown, context: Some(&clock) })
    };
    assert_eq!(covers(&history, &[first, second]), Ok(()));
    let violation = covers(&history, &[second]).unwrap_err();
    assert_eq!(violation.property, "contexts_cover_only_what_was_shown");
    let third = history.put(&[first, second], acked());
    assert_eq!(covers(&history, &[third]), Ok(()));
    assert!(history.oracle.minted(third, dot(2), BTreeSet::new()).is_err());
}

#[test]
fn what_was_reaped_may_be_forgotten_but_not_come_back() {
    let mut history = TestHistory::new();
    let first = history.put(&[], acked());
    let tombstone = history.put(&[first], acked());
    assert_eq!(history.read(&[]), Some("no_false_absence"));
    assert_eq!(history.left(&[]), Some("no_acknowledged_write_is_lost"));
    let moment = history.moment();
    history.oracle.history.reaped([tombstone], moment);
    assert_eq!(history.read(&[]), None);
    assert_eq!(history.left(&[]), None);
    assert_eq!(history.left(&[tombstone]), None, "a replica that missed the reap brings it back");
    assert_eq!(history.read(&[first]), Some("nothing_comes_back_from_the_dead"));
    assert_eq!(history.left(&[first]), Some("nothing_comes_back_from_the_dead"));
    let second = history.put(&[], acked());
    assert_eq!(history.left(&[second]), None);
    assert_eq!(history.left(&[]), Some("no_acknowledged_write_is_lost"));
}
