//! One connection of a measurement: its requests, its buffers, and the checks of the answers.

use std::fmt::{self, Display, Formatter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::http::{Client, Error, Node, Request, Response};
use crate::key_chooser::{Dice, KeyChooser};
use crate::key_history::{KeyHistory, Wrote};
use crate::plan::{Args, Op};
use crate::route::Homes;
use crate::siblings;
use crate::value::{self, ValueGen};

/// How long one operation may take before it counts as a timeout.
pub(crate) const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many elements the sets of `--op add` have.
const ELEMENTS: u64 = 20;
/// How many keys are drawn to find one that a node holds: a node may hold none at all.
const DRAWS_MAX: usize = 1000;
/// The longest `Retry-After` that is honoured, in seconds.
const RETRY_AFTER_S_MAX: u64 = 60;

/// Everything that the connections share.
pub(crate) struct Job {
    pub(crate) args: Args,
    pub(crate) nodes: Vec<Node>,
    /// Which nodes hold a key, if only those are asked.
    pub(crate) homes: Option<Homes>,
    pub(crate) value_gen: ValueGen,
    pub(crate) chooser: KeyChooser,
    pub(crate) histories: Vec<KeyHistory>,
    /// The current context of each key, if conflicts are made; otherwise empty.
    pub(crate) contexts: Vec<Mutex<Option<Box<str>>>>,
    /// Sequence numbers start above this: those of later runs are greater.
    pub(crate) sequence_base: u64,
    /// Sequence numbers given out.
    pub(crate) sequence: AtomicU64,
}

/// The outcome of one operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As expected, having moved this many bytes of values.
    Good(usize),
    /// A valid answer, but older than the last acknowledged write.
    Stale,
    Wrong(String),
    /// Refused for overload (429 or 503), with the seconds to wait, if the answer named them.
    Refused(u16, Option<u64>),
    Status(u16),
    Broken(&'static str),
}

/// One connection and its buffers.
pub(crate) struct Worker<'a> {
    job: &'a Job,
    /// The index of its node.
    node: usize,
    client: Client,
    dice: Dice,
    path: String,
    value: Vec<u8>,
    /// The index entries of a value, as a header.
    entries: String,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(job: &'a Job, place: usize) -> Self {
        // `measure` made sure that there is a node.
        let node = place % job.nodes.len();
        Worker {
            job,
            node,
            client: Client::new(job.nodes[node].clone(), OPERATION_TIMEOUT, BODY_BYTES_MAX),
            dice: Dice::new(job.sequence_base ^ ((place as u64) << 48)),
            path: String::new(),
            value: Vec::new(),
            entries: String::new(),
        }
    }

    /// Performs the next operation of the plan; returns its outcome.
    pub(crate) async fn operate(&mut self) -> (Op, Ended) {
        let job = self.job;
        let op = match job.args.op {
            Op::Mixed => job.args.mix.draw(&mut self.dice),
            op @ (Op::Put | Op::Get | Op::Delete | Op::Increment | Op::Add) => op,
        };
        let key = match job.args.op {
            // Each key is deleted once.
            Op::Delete => job.chooser.next_in_turn(),
            Op::Put | Op::Get | Op::Mixed | Op::Increment | Op::Add => self.next_key(),
        };
        let ended = match op {
            Op::Put => self.put(key).await,
            Op::Delete => self.delete(key).await,
            Op::Get | Op::Mixed => self.get(key).await,
            Op::Increment => self.change(key, r#"{"increment":1}"#).await,
            Op::Add => {
                let element = self.dice.below(ELEMENTS);
                self.change(key, &format!(r#"{{"add":["element {element}"]}}"#)).await
            }
        };
        (op, ended)
    }

    /// The next key; if requests go to home replicas, one that this connection's node holds.
    fn next_key(&mut self) -> u64 {
        let job = self.job;
        let mut key = job.chooser.key(&mut self.dice);
        if let Some(homes) = &job.homes {
            for _ in 0..DRAWS_MAX {
                if homes.contain(self.node, &KeyName(key).to_string()) {
                    break;
                }
                key = job.chooser.key(&mut self.dice);
            }
        }
        key
    }

    /// Writes a key.
    pub(crate) async fn put(&mut self, key: u64) -> Ended {
        let context = match self.context_for(key).await {
            Ok(context) => context,
            Err(ended) => return ended,
        };
        let job = self.job;
        let sequence = job.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let value_bytes = job.args.value_bytes.draw(&mut self.dice);
        job.value_gen.generate(key, job.sequence_base + sequence, value_bytes, &mut self.value);
        self.set_path(key);
        self.draw_entries();
        let headers = [
            ("Content-Type", "application/octet-stream"),
            ("Quorate-Context", context.as_deref().unwrap_or_default()),
            ("Quorate-Index-bench_i", &self.entries),
        ];
        let headers = match (context.is_some(), self.entries.is_empty()) {
            (true, true) => &headers[..2],
            (false, true) => &headers[..1],
            (true, false) => &headers[..],
            (false, false) => &[headers[0], headers[2]],
        };
        let put = Request { method: "PUT", path: &self.path, headers, body: &self.value };
        let history = job.histories.get(key as usize);
        history.inspect(|it| it.begin(false));
        let answer = self.client.send(&put).await;
        let good = matches!(&answer, Ok(answer) if answer.status == 204);
        history.inspect(|it| it.end(sequence, if good { Wrote::Put } else { Wrote::Unknown }));
        let context = answer.as_ref().ok().and_then(|it| it.header("quorate-context"));
        if let Some(kept) = job.contexts.get(key as usize) {
            *lock(kept) = context.map(Box::from);
        }
        ended(answer, |answer| answer.status == 204, |_| Ended::Good(value_bytes))
    }

    /// Draws the index entries of the next value.
    fn draw_entries(&mut self) {
        self.entries.clear();
        for number in 0..self.job.args.index_entries {
            let mark = if number > 0 { "," } else { "" };
            let entry = self.dice.below(u64::from(u32::MAX));
            let _ = write!(self.entries, "{mark}{entry}"); // a string takes all
        }
    }

    /// Changes a typed value.
    async fn change(&mut self, key: u64, operation: &str) -> Ended {
        self.set_path_in("types", key);
        let headers = [("Content-Type", "application/json")];
        let body = operation.as_bytes();
        let post = Request { method: "POST", path: &self.path, headers: &headers, body };
        let answer = self.client.send(&post).await;
        ended(answer, |answer| answer.status == 204, |_| Ended::Good(operation.len()))
    }

    /// The context for a PUT: none in an `lww` bucket, none for the share of the PUTs that is to
    /// cause conflicts, otherwise the key's current context, which is read if necessary.
    async fn context_for(&mut self, key: u64) -> Result<Option<Box<str>>, Ended> {
        let job = self.job;
        let (Some(kept), Some(percent)) = (job.contexts.get(key as usize), job.args.conflicts)
        else {
            return Ok(None);
        };
        if self.dice.fraction() * 100.0 < percent {
            return Ok(None);
        }
        let context = lock(kept).take();
        if context.is_some() {
            return Ok(context);
        }
        self.set_path(key);
        let get = Request { method: "GET", path: &self.path, headers: &[], body: b"" };
        match self.client.send(&get).await {
            Ok(answer) if matches!(answer.status, 200 | 300 | 404) => {
                Ok(answer.header("quorate-context").map(Box::from))
            }
            answer => Err(ended(answer, |_| false, |_| Ended::Good(0))),
        }
    }

    /// Deletes a key, whether or not it exists.
    async fn delete(&mut self, key: u64) -> Ended {
        let job = self.job;
        let sequence = job.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        self.set_path(key);
        let delete = Request { method: "DELETE", path: &self.path, headers: &[], body: b"" };
        let history = job.histories.get(key as usize);
        history.inspect(|it| it.begin(true));
        let answer = self.client.send(&delete).await;
        let good = matches!(&answer, Ok(answer) if answer.status == 204);
        history.inspect(|it| it.end(sequence, if good { Wrote::Delete } else { Wrote::Unknown }));
        if let Some(kept) = job.contexts.get(key as usize) {
            *lock(kept) = None;
        }
        ended(answer, |answer| answer.status == 204, |_| Ended::Good(0))
    }

    /// Reads a key, and checks the answer.
    async fn get(&mut self, key: u64) -> Ended {
        let job = self.job;
        let history = job.histories.get(key as usize);
        let last = history.map_or(0, KeyHistory::sequence);
        // What this run has not written may be of any age.
        let acknowledged = if last > 0 { job.sequence_base + last } else { 0 };
        let absent_before = history.is_some_and(KeyHistory::may_be_absent);
        self.set_path(key);
        let get = Request { method: "GET", path: &self.path, headers: &[], body: b"" };
        let answer = self.client.send(&get).await;
        let absent = || absent_before || history.is_some_and(KeyHistory::may_be_absent);
        let expected = |answer: &Response<'_>| match answer.status {
            200 => true,
            300 => job.args.conflicts.is_some(),
            404 => absent(),
            _ => false,
        };
        ended(answer, expected, |answer| match answer.status {
            404 => Ended::Good(0),
            200 if job.args.any_value => Ended::Good(answer.body.len()),
            300 => match siblings::check(key, answer.body) {
                Ok((sequence, _)) if sequence < acknowledged => Ended::Stale,
                Ok((_, bytes)) => Ended::Good(bytes),
                Err(wrong) => Ended::Wrong(format!("key {key}: {wrong}")),
            },
            _ => judge(key, answer.body, acknowledged),
        })
    }

    fn set_path(&mut self, key: u64) {
        self.set_path_in("kv", key);
    }

    fn set_path_in(&mut self, route: &str, key: u64) {
        let args = &self.job.args;
        let mark = if args.query.is_empty() { "" } else { "?" };
        self.path.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "/{route}/{}/{}{mark}{}", args.bucket, KeyName(key), args.query);
    }
}

/// The name of a key by its number; formatted in place, since whatever the generator spends on an
/// operation distorts the measurement.
pub(crate) struct KeyName(pub(crate) u64);

impl Display for KeyName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "k{:09}", self.0)
    }
}

/// The outcome of an operation, where an answer that is `expected` is judged by `judge`.
fn ended(
    answer: Result<Response<'_>, Error>,
    expected: impl Fn(&Response<'_>) -> bool,
    judge: impl Fn(&Response<'_>) -> Ended,
) -> Ended {
    match answer {
        Ok(answer) if expected(&answer) => judge(&answer),
        Ok(answer) if matches!(answer.status, 429 | 503) => {
            let after = answer.header("retry-after").and_then(|it| it.parse::<u64>().ok());
            Ended::Refused(answer.status, after.map(|it| it.min(RETRY_AFTER_S_MAX)))
        }
        Ok(answer) => Ended::Status(answer.status),
        Err(error) => Ended::Broken(error.kind()),
    }
}

/// Judges a value that was read, where `acknowledged` was the key's last acknowledged sequence
/// number when the read started.
fn judge(key: u64, value: &[u8], acknowledged: u64) -> Ended {
    match value::check(key, value) {
        Ok(sequence) if sequence < acknowledged => Ended::Stale,
        Ok(_) => Ended::Good(value.len()),
        Err(wrong) => Ended::Wrong(format!("key {key}: {wrong}")),
    }
}

fn lock(kept: &Mutex<Option<Box<str>>>) -> MutexGuard<'_, Option<Box<str>>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_key_checksum_and_sequence() {
        let mut value = Vec::new();
        ValueGen::new(64).generate(3, 10, 64, &mut value);
        assert_eq!(judge(3, &value, 0), Ended::Good(64));
        assert_eq!(judge(3, &value, 10), Ended::Good(64));
        assert_eq!(judge(3, &value, 11), Ended::Stale);
        assert!(matches!(judge(4, &value, 0), Ended::Wrong(_)));
    }
}
