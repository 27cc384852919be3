//! What this node knows of one peer: whether it answers, since when, how fast, and whether it is
//! suspected.
//!
//! Requests are the primary detector: a peer that refuses a connection or lets one time out is
//! *down* at once, and the first answer to anything (a probe goes out every `timeouts.probe_ms`
//! while it is down) brings it back. Two exceptions dampen flapping: a timeout is ignored if a
//! message of the same kind that was sent later has been answered, and a peer that went down
//! several times within seconds must answer for a while, longer each time and [`HOLD_BACK_MS_MAX`]
//! at most, before it counts as up again.
//!
//! A peer that is not down can be *suspected*: its heartbeats are missing (`crate::liveness::phi`),
//! a batch waits too long for an answer, or it reports that it cannot reach this node. Suspicion is
//! not failure: the peer is contacted only after all unsuspected replicas (docs/decisions/0005).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::liveness::advertised::Advertised;
use crate::liveness::advertised::GossipState;
use crate::liveness::peer_time::PeerTime;
use crate::liveness::phi::PhiAccrual;
use crate::liveness::round_trips::RoundTrips;

/// Whether a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not heard from yet; it is sent requests nevertheless.
    Unknown = 0,
    /// It answers.
    Up = 1,
    /// It refused a connection or let a request time out.
    Down = 2,
}

/// A peer that is up is greeted once every this many probe intervals.
pub const PROBES_PER_GREETING: u64 = 2;
/// The longest that a flapping peer must answer before it counts as up, in milliseconds
/// (docs/decisions/0005).
pub const HOLD_BACK_MS_MAX: u64 = 4000;
/// The hold-back after its second fall; doubled with each further one, in milliseconds.
const HOLD_BACK_MS_MIN: u64 = 250;
/// A fall is forgotten after this long without another, in milliseconds.
const FALL_FORGOTTEN_MS: u64 = 10_000;
/// A greeting triggers a greeting in return at most this often, in milliseconds.
const GREETED_BACK_MS: u64 = 100;
/// Heartbeats older than this say nothing about whether the peer can reach this node, in
/// milliseconds.
const NEWS_MS_MAX: u64 = 5000;
/// Kinds of messages, each with lanes of its own.
const KINDS: usize = 3;

/// What is known of one peer. The fields that operations read are atomic; times are those of
/// [`crate::peer::peers`]'s clock.
pub struct Health {
    state: AtomicU8,
    since_ms: AtomicU64,
    /// When it last answered anything.
    answered_ms: AtomicU64,
    /// When the latest answered message of each kind was sent.
    answered_sent_ms: [AtomicU64; KINDS],
    /// When it last greeted this node, 0 if never.
    greeted_ms: AtomicU64,
    one_way: AtomicBool,
    sworn_dead: AtomicBool,
    suspected: AtomicBool,
    suspected_since_ms: AtomicU64,
    falls: Mutex<Falls>,
    pulse: Mutex<PhiAccrual>,
    round_trips: RoundTrips,
    word: Advertised,
    greet: Notify,
}

/// The silence, of each kind, after which a peer is suspected.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest that a batch may wait for an answer, in milliseconds.
    pub answer_ms: u64,
    /// The longest gap between greetings of a peer that answers, in milliseconds.
    pub greeting_ms: u64,
    /// The suspicion level by gossip from which the peer is suspected.
    pub phi: f64,
}

/// Its recent falls.
#[derive(Default)]
struct Falls {
    count: u32,
    /// Since when it answers again, while it still counts as down.
    answering_since: Option<PeerTime>,
}

impl Health {
    /// A peer not heard from yet, whose heartbeats are expected every `interval_ms`.
    pub fn new(interval_ms: u64) -> Self {
        Self {
            state: AtomicU8::new(State::Unknown as u8),
            since_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            answered_sent_ms: Default::default(),
            greeted_ms: AtomicU64::new(0),
            one_way: AtomicBool::new(false),
            sworn_dead: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            suspected_since_ms: AtomicU64::new(0),
            falls: Mutex::default(),
            pulse: Mutex::new(PhiAccrual::new(interval_ms)),
            round_trips: RoundTrips::default(),
            word: Advertised::default(),
            greet: Notify::new(),
        }
    }

    /// Whether it answers. One that is sworn dead is down whatever it does.
    pub fn state(&self) -> State {
        if self.sworn_dead.load(Relaxed) {
            return State::Down;
        }
        match self.state.load(Relaxed) {
            1 => State::Up,
            2 => State::Down,
            _ => State::Unknown,
        }
    }

    /// By the record in force an operator has sworn that it is dead, or has not. Returns whether that has
    /// changed.
    pub fn swear(&self, is_dead: bool) -> bool {
        self.sworn_dead.swap(is_dead, Relaxed) != is_dead
    }

    /// Since when it is in this state, or suspected if it is.
    pub fn since(&self) -> PeerTime {
        let since = if self.state() != State::Down && self.is_suspected() {
            &self.suspected_since_ms
        } else {
            &self.since_ms
        };
        PeerTime(since.load(Relaxed))
    }

    /// Whether it answers but cannot reach this node, as far as is known.
    pub fn is_one_way(&self) -> bool {
        self.one_way.load(Relaxed)
    }

    /// Whether it is suspected.
    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Relaxed)
    }

    /// It answered a message of this kind, sent at `sent_at`. Returns whether that changes its
    /// state.
    pub fn answered(&self, kind: usize, sent_at: PeerTime, now: PeerTime) -> bool {
        self.answered_ms.store(now.0, Relaxed);
        self.answered_sent_ms[kind].fetch_max(sent_at.0, Relaxed);
        if self.state() == State::Up {
            return false;
        }
        let mut falls = lock(&self.falls);
        if self.state() == State::Down {
            let since = *falls.answering_since.get_or_insert(now);
            if now.since(since) < hold_back_ms(falls.count) {
                return false;
            }
        }
        falls.answering_since = None;
        self.set(State::Up, now, None)
    }

    /// Whether it has answered anything after `then`.
    pub fn has_answered_since(&self, then: PeerTime) -> bool {
        self.answered_ms.load(Relaxed) >= then.0
    }

    /// It refused a message of this kind, sent at `sent_at`, or timed out on it. Returns whether
    /// that changes its state.
    pub fn failed(&self, kind: usize, sent_at: PeerTime, now: PeerTime, error: String) -> bool {
        if self.answered_sent_ms[kind].load(Relaxed) > sent_at.0 {
            return false; // it answered something sent later: this failure is outdated
        }
        let mut falls = lock(&self.falls);
        falls.answering_since = None;
        if self.state() != State::Down {
            let calm_ms = now.since(PeerTime(self.since_ms.load(Relaxed)));
            let forgotten = u32::try_from(calm_ms / FALL_FORGOTTEN_MS).unwrap_or(u32::MAX);
            falls.count = falls.count.saturating_sub(forgotten).saturating_add(1);
        }
        self.set(State::Down, now, Some(error))
    }

    fn set(&self, state: State, now: PeerTime, error: Option<String>) -> bool {
        let changed = self.state.swap(state as u8, Relaxed) != state as u8;
        if changed {
            self.since_ms.store(now.0, Relaxed);
        }
        self.word.refused(error);
        changed
    }

    /// The state it advertises.
    pub fn word(&self) -> &Advertised {
        &self.word
    }

    /// Records what gossip reports of the peer. If it is not up, a heartbeat triggers a greeting at
    /// once.
    pub fn gossiped(&self, news: GossipState, now: PeerTime) {
        lock(&self.pulse).beat(now);
        self.word.gossiped(news);
        if self.state() != State::Up {
            self.greet_now();
        }
    }

    /// It greeted this node, and so can reach it. If it does not count as up, it is greeted at
    /// once: most likely it has just started, and writes that miss it until the next greeting would
    /// become hints.
    pub fn greeted(&self, now: PeerTime) {
        let last = self.greeted_ms.swap(now.0, Relaxed);
        // Two nodes that hold each other back must not greet each other in a tight loop.
        let is_answer = last != 0 && now.since(PeerTime(last)) < GREETED_BACK_MS;
        if self.state() != State::Up && !is_answer {
            self.greet_now();
        }
    }

    /// This process was held up until now: the silence does not count against the peer.
    pub fn forgive(&self, now: PeerTime) {
        self.greeted_ms.fetch_max(now.0, Relaxed);
        lock(&self.pulse).forgive(now);
    }

    /// Re-evaluates whether the peer is suspected. `waiting_since`: when the oldest batch still in
    /// flight was sent. Returns whether that changed.
    pub fn review(
        &self,
        waiting_since: Option<PeerTime>,
        patience: &Patience,
        now: PeerTime,
    ) -> bool {
        let answered = PeerTime(self.answered_ms.load(Relaxed));
        let overdue = waiting_since
            .is_some_and(|since| now.since(since) >= patience.answer_ms && answered.0 < since.0);
        let phi = lock(&self.pulse).phi(answered, now);
        let one_way = self.cannot_reach_me(answered, patience, now);
        self.one_way.store(one_way, Relaxed);
        let suspected = overdue || one_way || phi.is_some_and(|phi| phi >= patience.phi);
        let changed = self.suspected.swap(suspected, Relaxed) != suspected;
        if changed {
            self.suspected_since_ms.store(now.0, Relaxed);
        }
        changed
    }

    /// Gossip says so and is recent; or the peer answers, but its greetings, which used to arrive,
    /// are missing.
    fn cannot_reach_me(&self, answered: PeerTime, patience: &Patience, now: PeerTime) -> bool {
        let beat = lock(&self.pulse).last();
        if beat.is_some_and(|beat| now.since(beat) < NEWS_MS_MAX) && self.word.cannot_reach_me() {
            return true;
        }
        let greeted = PeerTime(self.greeted_ms.load(Relaxed));
        let silent = greeted.0 > 0 && now.since(greeted) >= patience.greeting_ms;
        silent && now.since(answered) < patience.greeting_ms
    }

    /// The suspicion level, `None` if gossip has not reported the peer.
    pub fn phi(&self, now: PeerTime) -> Option<f64> {
        lock(&self.pulse).phi(PeerTime(self.answered_ms.load(Relaxed)), now)
    }

    /// Greets the peer now instead of at the next interval.
    pub fn greet_now(&self) {
        self.greet.notify_one();
    }

    /// Waits for a request to greet the peer out of turn.
    pub async fn to_be_greeted(&self) {
        self.greet.notified().await;
    }

    /// Round trips of reads and greetings.
    pub fn round_trips(&self) -> &RoundTrips {
        &self.round_trips
    }
}

/// How long a peer with this many recent falls must answer before it counts as up.
fn hold_back_ms(falls: u32) -> u64 {
    match falls.checked_sub(2) {
        None => 0,
        Some(further) => (HOLD_BACK_MS_MIN << further.min(16)).min(HOLD_BACK_MS_MAX),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const READ: usize = 0;
    const WRITE: usize = 1;
    const PATIENCE: Patience = Patience { answer_ms: 250, greeting_ms: 1500, phi: 8.0 };

    fn falls(health: &Health, at: u64) -> bool {
        health.failed(READ, PeerTime(at), PeerTime(at), "refused".to_owned())
    }

    fn answers(health: &Health, at: u64) -> bool {
        health.answered(READ, PeerTime(at), PeerTime(at))
    }

    #[test]
    fn a_change_is_told_once_and_the_first_answer_brings_it_back() {
        let health = Health::new(200);
        assert!(falls(&health, 5));
        assert!(!falls(&health, 9));
        assert_eq!(
            (health.since(), health.word().last().error),
            (PeerTime(5), Some("refused".into()))
        );
        assert!(answers(&health, 12) && !answers(&health, 13));
        assert_eq!((health.state(), health.word().last().error), (State::Up, None));
    }

    #[test]
    fn who_greets_while_it_counts_as_down_is_greeted_back_but_not_in_circles() {
        let health = Health::new(200);
        let is_greeted_back = |at| {
            health.greeted(PeerTime(at));
            health.to_be_greeted().now_or_never().is_some()
        };
        falls(&health, 5);
        assert!(is_greeted_back(20), "it has started");
        assert!(!is_greeted_back(21), "that was an answer");
        assert!(is_greeted_back(200));
        answers(&health, 201);
        assert!(!is_greeted_back(500), "it is up");
    }

    #[test]
    fn a_timeout_is_no_news_if_something_sent_later_was_answered() {
        let health = Health::new(200);
        assert!(health.answered(READ, PeerTime(100), PeerTime(101)));
        let timeout = |kind| health.failed(kind, PeerTime(50), PeerTime(1050), "silent".to_owned());
        assert!(!timeout(READ));
        assert_eq!(health.state(), State::Up);
        assert!(timeout(WRITE), "its disk may hang while it answers reads");
    }

    /// A peer that flaps must answer for longer each time, up to the bound; a calm period resets
    /// that.
    #[test]
    fn a_flapping_peer_is_held_back_longer_each_time() {
        let health = Health::new(200);
        let mut now = 0;
        let mut held_back = Vec::new();
        for _ in 0..8 {
            now += 100;
            falls(&health, now);
            let begun = now + 10;
            now = begun;
            while !answers(&health, now) {
                now += 10;
            }
            held_back.push(now - begun);
        }
        assert_eq!(held_back, [0, 250, 500, 1000, 2000, 4000, 4000, 4000]);
        now += 20 * FALL_FORGOTTEN_MS;
        falls(&health, now);
        assert!(answers(&health, now + 1), "all is forgotten");
    }

    #[test]
    fn while_held_back_another_failure_starts_the_wait_anew() {
        let health = Health::new(200);
        for at in [10, 20] {
            falls(&health, at);
            answers(&health, at + 1);
        }
        assert_eq!(health.state(), State::Down, "held back");
        falls(&health, 200);
        assert!(!answers(&health, 300) && !answers(&health, 540) && answers(&health, 550));
    }

    #[test]
    fn an_overdue_answer_makes_suspect_and_any_later_answer_clears() {
        let health = Health::new(200);
        answers(&health, 1000);
        assert!(!health.review(Some(PeerTime(1001)), &PATIENCE, PeerTime(1100)));
        assert!(health.review(Some(PeerTime(1001)), &PATIENCE, PeerTime(1251)));
        assert!(health.is_suspected() && health.state() == State::Up, "no failure");
        answers(&health, 1300);
        assert!(health.review(Some(PeerTime(1001)), &PATIENCE, PeerTime(1301)));
        assert!(!health.is_suspected(), "one slow batch among quick ones is no reason");
    }

    #[test]
    fn silence_by_gossip_makes_suspect_only_without_answers() {
        let health = Health::new(200);
        for beat in 1..=20 {
            health.gossiped(GossipState::default(), PeerTime(beat * 200));
        }
        assert!(!health.review(None, &PATIENCE, PeerTime(5000)));
        assert!(health.review(None, &PATIENCE, PeerTime(5700)));
        answers(&health, 5700);
        assert!(health.review(None, &PATIENCE, PeerTime(5701)) && !health.is_suspected());
        health.forgive(PeerTime(50_000));
        assert!(!health.review(None, &PATIENCE, PeerTime(50_100)), "this node slept, not the peer");
    }

    #[test]
    fn a_peer_that_cannot_reach_this_node_is_suspected_while_it_says_so() {
        let health = Health::new(200);
        answers(&health, 100);
        let news = |cannot_reach_me| GossipState { cannot_reach_me, ..GossipState::default() };
        health.gossiped(news(true), PeerTime(200));
        assert!(health.review(None, &PATIENCE, PeerTime(201)) && health.is_suspected());
        health.gossiped(news(false), PeerTime(400));
        assert!(health.review(None, &PATIENCE, PeerTime(401)) && !health.is_suspected());
        health.gossiped(news(true), PeerTime(600));
        answers(&health, 6000);
        assert!(!health.review(None, &PATIENCE, PeerTime(6000)), "old news");
    }

    #[test]
    fn a_peer_that_answers_but_greets_no_more_cannot_reach_this_node() {
        let health = Health::new(200);
        answers(&health, 9000);
        assert!(!health.review(None, &PATIENCE, PeerTime(9001)), "it never did: an older release");
        health.greeted(PeerTime(9500));
        answers(&health, 11_000);
        assert!(health.review(None, &PATIENCE, PeerTime(11_001)) && health.is_one_way());
        health.greeted(PeerTime(11_100));
        assert!(health.review(None, &PATIENCE, PeerTime(11_101)) && !health.is_one_way());
        assert!(
            !health.review(None, &PATIENCE, PeerTime(14_000)),
            "nor does it answer: no one-way"
        );
        answers(&health, 20_000);
        health.forgive(PeerTime(20_000));
        assert!(!health.review(None, &PATIENCE, PeerTime(20_100)), "this node slept, not the peer");
    }
}
