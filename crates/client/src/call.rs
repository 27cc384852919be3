//! One request until it is answered: which node, how long, and when again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::answer::{Answer, AnswerBody, PROBLEM_BYTES_MAX, answered, causes, error, read};
use crate::body::{Progress, Source};
use crate::client::Inner;
use crate::error::{Error, Outcome};
use crate::nodes::{Node, Place, State};
use crate::problem::REMOVED;
use crate::retry::{Deadline, patience};

/// A node that did not answer for so long is taken for dead.
const SILENT_FROM: Duration = Duration::from_secs(1);

/// How long a node rests on which a connection broke.
const BROKEN_RESTS: Duration = Duration::from_millis(200);

/// A request, and how it may be tried.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// The path, from the node's URL.
    pub(crate) path: String,
    /// The query of an attempt; it gets how long the node may take, if that is less than usual.
    pub(crate) query: &'a (dyn Fn(Option<Duration>) -> String + Send + Sync),
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
    pub(crate) target: Target<'a>,
    /// Whether it changes something: then a failure can leave something behind.
    pub(crate) writes: bool,
    /// Whether it may be sent again after it may have arrived.
    pub(crate) repeatable: bool,
    /// Statuses that are no errors, beside 2xx.
    pub(crate) accepts: &'a [u16],
    /// Whether the body is read as a part of the attempt.
    pub(crate) reads_body: bool,
    pub(crate) deadline: Deadline,
    /// How long a node may take at most for one attempt.
    pub(crate) attempt_max: Duration,
}

impl<'a> Call<'a> {
    /// A question about many keys, which any node answers.
    pub(crate) fn of_many(
        path: String,
        query: &'a (dyn Fn(Option<Duration>) -> String + Send + Sync),
        (timeout, attempt_max): (Duration, Duration),
    ) -> Self {
        Self {
            method: Method::GET,
            path,
            query,
            headers: HeaderMap::new(),
            body: Source::EMPTY,
            target: Target::Place(Place::Any),
            writes: false,
            repeatable: true,
            accepts: &[],
            reads_body: true,
            deadline: Deadline::new(timeout),
            attempt_max,
        }
    }
}

/// Which node a request is for.
#[derive(Clone, Debug)]
pub(crate) enum Target<'a> {
    /// One that fits.
    Place(Place<'a>),
    /// This one only.
    Node(Arc<Node>),
}

/// What a call has been through.
struct History {
    attempts: u32,
    /// What its attempts may have left behind.
    outcome: Outcome,
    last: Option<Error>,
    tried: Vec<Arc<Node>>,
}

impl Inner {
    /// Sends a request until it is answered, refused for good, or out of time.
    pub(crate) async fn call(self: &Arc<Self>, call: Call<'_>) -> Result<Answer, Error> {
        self.maintain();
        let turn = self.next_turn();
        let mut history =
            History { attempts: 0, outcome: Outcome::NotApplied, last: None, tried: Vec::new() };
        loop {
            let Some(node) = self.choose(&call.target, turn, &history.tried) else {
                return Err(history.end(Error::invalid("nodes", "none is known")));
            };
            let progress = Progress::begin();
            let Some(body) = call.body.body(&progress) else {
                // The stream is used up. What happened to the attempt that took it is the answer.
                return Err(history.end(Error::invalid("value", "the stream was sent before")));
            };
            history.attempts += 1;
            history.tried.push(node.clone());
            let error = match self.attempt(&call, &node, body, &progress, history.attempts).await {
                Ok(answer) => {
                    node.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            self.learn(&node, &error);
            let error = if call.writes { error } else { error.of_read() };
            history.outcome = history.outcome.max(error.outcome());
            let may_repeat = call.repeatable || error.outcome() == Outcome::NotApplied;
            if !is_transient(&error) || !may_repeat {
                return Err(history.end(error));
            }
            if history.attempts >= self.settings.retries.attempts_max {
                return Err(history.end(error));
            }
            let pause = self.pause(&call.target, &error, &history.tried, history.attempts);
            if pause >= call.deadline.left() {
                return Err(history.out_of_time(error, &call.deadline));
            }
            history.last = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// The best node, of equals the one that was tried least: live nodes are tried again before dead
    /// ones.
    fn choose(&self, target: &Target<'_>, turn: usize, tried: &[Arc<Node>]) -> Option<Arc<Node>> {
        let place = match target {
            Target::Node(node) => return Some(node.clone()),
            Target::Place(place) => place,
        };
        let now = Instant::now();
        let candidates = self.view().candidates(*place, turn, now);
        let times = |node: &Arc<Node>| tried.iter().filter(|it| Arc::ptr_eq(it, node)).count();
        candidates.into_iter().min_by_key(|node| (node.state(now), times(node))) // the first of equals
    }

    /// Sends it once.
    async fn attempt(
        &self,
        call: &Call<'_>,
        node: &Arc<Node>,
        body: reqwest::Body,
        progress: &Progress,
        attempts: u32,
    ) -> Result<Answer, Error> {
        let budget = call.deadline.budget(call.attempt_max);
        let patience = patience(budget);
        let query = (call.query)((budget < call.attempt_max).then_some(budget));
        let mark = if query.is_empty() { "" } else { "?" };
        let url = [node.url.as_str(), &call.path, mark, &query].concat();
        let mut request = self.request(call.method.clone(), url).headers(call.headers.clone());
        if call.body.length() > 0 || call.method == Method::PUT {
            request = request.body(body);
        }
        let sent = request.send();
        tokio::pin!(sent);
        let response = loop {
            let silent_until = progress.last() + patience;
            let until = silent_until.min(Instant::now() + call.deadline.left());
            tokio::select! {
                sent = &mut sent => break sent.map_err(|error| match progress.failure() {
                    Some(why) => Error::invalid("value", why),
                    None => unreachable(node, &error),
                })?,
                () = tokio::time::sleep_until(until.into()) => {}
            }
            let moved = progress.last() + patience > Instant::now();
            if !moved || call.deadline.left().is_zero() {
                let (after, last) = (patience.min(call.deadline.after()), None);
                let outcome = Outcome::Unknown;
                return Err(Error::TimedOut { outcome, after, attempts, last });
            }
        };
        self.hear(response.headers());
        let status = response.status();
        if !status.is_success() && !call.accepts.contains(&status.as_u16()) {
            return Err(error(response, &call.deadline, &node.url).await);
        }
        let by = answered(node, response.headers(), attempts);
        let headers = response.headers().clone();
        let body = if call.reads_body {
            let bytes_max = match status.as_u16() {
                200..=300 => self.settings.answer_bytes_max,
                _ => PROBLEM_BYTES_MAX,
            };
            let body = read(response, bytes_max, patience, &call.deadline).await;
            AnswerBody::Whole(body.map_err(|unread| unread.into_error(&node.url, patience))?)
        } else {
            AnswerBody::Live(response)
        };
        Ok(Answer { status, headers, body, by })
    }

    /// What an error says about the node.
    fn learn(self: &Arc<Self>, node: &Arc<Node>, error: &Error) {
        let now = Instant::now();
        match error {
            // A deadline that was short says nothing about the node.
            Error::TimedOut { after, .. } if *after < SILENT_FROM => {}
            // A connection that broke may have been idle for too long. If the node is dead, the next
            // attempt cannot connect.
            Error::Unreachable { outcome: Outcome::Unknown, .. } => {
                node.rests(now, BROKEN_RESTS);
                self.look_again_soon();
            }
            Error::Unreachable { .. } | Error::TimedOut { .. } => self.suspect(node),
            // As good as dead, until it answers otherwise: its process may become a member again.
            _ if was_removed(error) => self.suspect(node),
            Error::NotReady { retry_after, .. } | Error::Overloaded { retry_after, .. } => {
                node.answered();
                node.rests(now, retry_after.unwrap_or(Duration::from_secs(1)));
                self.look_again_soon();
            }
            Error::BadAnswer { .. } | Error::Failed { .. } | Error::NoQuorum { .. } => {
                self.look_again_soon();
            }
            Error::NoReadQuorum { .. } => self.look_again_soon(),
            Error::Full { .. }
            | Error::ConditionFailed { .. }
            | Error::SiblingGone { .. }
            | Error::KeyFull { .. }
            | Error::NotFound { .. }
            | Error::NoFeed { .. }
            | Error::CursorExpired { .. }
            | Error::Denied { .. }
            | Error::BadContext { .. }
            | Error::TooLarge { .. }
            | Error::IdempotencyKeyReused { .. }
            | Error::WrongType { .. }
            | Error::BucketNotEmpty { .. }
            | Error::ContextNeeded { .. }
            | Error::ContextAhead { .. }
            | Error::CounterFull { .. }
            | Error::BadRequest { .. }
            | Error::Invalid { .. }
            | Error::Conflict { .. } => node.answered(),
        }
    }

    /// How long to wait before the next attempt. None at all if a node did not answer and another may;
    /// what the node asked for, if no other node is left.
    fn pause(
        &self,
        target: &Target<'_>,
        error: &Error,
        tried: &[Arc<Node>],
        attempts: u32,
    ) -> Duration {
        let backoff = self.settings.retries.pause(attempts, rand::random());
        let others = match target {
            Target::Node(_) => 0,
            Target::Place(_) => {
                let is_fresh = |node: &&Arc<Node>| {
                    node.state(Instant::now()) == State::Up
                        && !tried.iter().any(|it| Arc::ptr_eq(it, node))
                };
                self.view().nodes.iter().filter(is_fresh).count()
            }
        };
        let is_silent = matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. });
        let asked = error.problem().and_then(|problem| problem.retry_after()).unwrap_or_default();
        match (others, is_silent) {
            (1.., true) => Duration::ZERO,
            (1.., false) => backoff,
            (0, _) => backoff.max(asked),
        }
    }
}

impl History {
    /// The error of the whole call, which ends with this one.
    fn end(self, error: Error) -> Error {
        let error = match (error, self.last) {
            (Error::Invalid { .. }, Some(last)) => last,
            (Error::TimedOut { outcome, after, attempts, .. }, last) => {
                Error::TimedOut { outcome, after, attempts, last: last.map(Box::new) }
            }
            (error, _) => error,
        };
        error.at_least(self.outcome)
    }

    /// Likewise, if only time is missing for another attempt. A definite error is told as it is.
    fn out_of_time(self, error: Error, deadline: &Deadline) -> Error {
        let (outcome, after, attempts) = (self.outcome, deadline.after(), self.attempts);
        if matches!(error, Error::TimedOut { .. }) {
            let last = self.last.map(Box::new);
            return Error::TimedOut { outcome, after, attempts, last };
        }
        self.end(error)
    }
}

/// Whether another attempt may succeed.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error {
        Error::NoQuorum { .. }
        | Error::NoReadQuorum { .. }
        | Error::Overloaded { .. }
        | Error::NotReady { .. }
        | Error::TimedOut { .. }
        | Error::Unreachable { .. } => true,
        Error::Failed { problem, .. } => problem.name() != "internal",
        Error::BadRequest { problem, .. } => problem.status() == 408,
        Error::Full { .. }
        | Error::ConditionFailed { .. }
        | Error::SiblingGone { .. }
        | Error::KeyFull { .. }
        | Error::NotFound { .. }
        | Error::NoFeed { .. }
        | Error::CursorExpired { .. }
        | Error::Denied { .. }
        | Error::BadContext { .. }
        | Error::TooLarge { .. }
        | Error::IdempotencyKeyReused { .. }
        | Error::WrongType { .. }
        | Error::BucketNotEmpty { .. }
        | Error::ContextNeeded { .. }
        | Error::ContextAhead { .. }
        | Error::CounterFull { .. }
        | Error::BadAnswer { .. }
        | Error::Invalid { .. }
        | Error::Conflict { .. } => false,
    }
}

/// Whether the node that answered is no member of the cluster any more.
pub(crate) fn was_removed(error: &Error) -> bool {
    error.problem().is_some_and(|problem| problem.name() == REMOVED)
}

/// No answer came; what the network said.
pub(crate) fn unreachable(node: &Arc<Node>, error: &reqwest::Error) -> Error {
    // Without a connection nothing was sent. Anything later may have arrived.
    let outcome = if error.is_connect() { Outcome::NotApplied } else { Outcome::Unknown };
    Error::Unreachable { outcome, node: node.url.clone(), detail: causes(error) }
}
