//! One connection of a measurement: the keys that it writes, its buffers, and the judgement of what
//! it reads.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::http::{Client, Node, Request};
use crate::plan::{Args, Op};
use crate::value::{self, Maker};

/// How long one operation may take before it counts as a timeout.
pub(crate) const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything that the connections share.
pub(crate) struct Job {
    pub(crate) args: Args,
    pub(crate) nodes: Vec<Node>,
    pub(crate) maker: Maker,
    /// The last acknowledged sequence number of each key; 0 where this run wrote none.
    pub(crate) acknowledged: Vec<AtomicU64>,
    /// Sequence numbers begin here: later runs begin higher.
    pub(crate) sequence_base: u64,
}

/// How one operation ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Good,
    /// A true value, but not the last acknowledged one.
    Stale,
    Wrong(String),
    Status(u16),
    Broken(&'static str),
}

/// One connection, the keys it writes, and its buffers.
pub(crate) struct Hand<'a> {
    job: &'a Job,
    client: Client,
    place: u64,
    pub(crate) own_keys: u64,
    turn: u64,
    path: String,
    value: Vec<u8>,
}

impl<'a> Hand<'a> {
    pub(crate) fn new(job: &'a Job, place: usize) -> Self {
        // `measure` made sure that there is a node, and a key for each connection.
        let node = job.nodes[place % job.nodes.len()].clone();
        let (place, connections) = (place as u64, u64::from(job.args.connections));
        Hand {
            job,
            client: Client::new(node, OPERATION_TIMEOUT, BODY_BYTES_MAX),
            place,
            own_keys: (job.args.keys - place).div_ceil(connections),
            turn: 0,
            path: String::new(),
            value: Vec::new(),
        }
    }

    /// The next operation of the plan.
    pub(crate) async fn operate(&mut self) -> Ended {
        match self.job.args.op {
            Op::Put => self.put().await,
            Op::Get => self.get().await,
            Op::Mixed if value::mix(self.turn ^ (self.place << 48)) & 1 == 0 => self.put().await,
            Op::Mixed => self.get().await,
        }
    }

    /// Writes the next of its own keys.
    pub(crate) async fn put(&mut self) -> Ended {
        let connections = u64::from(self.job.args.connections);
        let key = self.place + connections * (self.turn % self.own_keys);
        self.turn += 1;
        let sequence = self.job.sequence_base + self.turn;
        self.job.maker.make(key, sequence, &mut self.value);
        self.set_path(key);
        let headers = [("Content-Type", "application/octet-stream")];
        let put = Request { method: "PUT", path: &self.path, headers: &headers, body: &self.value };
        match self.client.send(&put).await {
            Ok(answer) if answer.status == 204 => {
                if let Some(last) = self.job.acknowledged.get(key as usize) {
                    last.store(sequence, Ordering::Relaxed);
                }
                Ended::Good
            }
            Ok(answer) => Ended::Status(answer.status),
            Err(error) => Ended::Broken(error.kind()),
        }
    }

    /// Reads any key, and judges the answer.
    async fn get(&mut self) -> Ended {
        self.turn += 1;
        let key = value::mix(self.turn ^ (self.place << 40)) % self.job.args.keys;
        let last = self.job.acknowledged.get(key as usize);
        let acknowledged = last.map_or(0, |it| it.load(Ordering::Relaxed));
        self.set_path(key);
        let get = Request { method: "GET", path: &self.path, headers: &[], body: b"" };
        match self.client.send(&get).await {
            Ok(answer) if answer.status == 200 && self.job.args.any_value => Ended::Good,
            Ok(answer) if answer.status == 200 => judge(key, answer.body, acknowledged),
            Ok(answer) => Ended::Status(answer.status),
            Err(error) => Ended::Broken(error.kind()),
        }
    }

    fn set_path(&mut self, key: u64) {
        let args = &self.job.args;
        let mark = if args.query.is_empty() { "" } else { "?" };
        self.path.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "/kv/{}/k{key:09}{mark}{}", args.bucket, args.query);
    }
}

/// Judges a value that was read, when `acknowledged` was the key's last acknowledged sequence
/// number as the read began.
fn judge(key: u64, value: &[u8], acknowledged: u64) -> Ended {
    match value::check(key, value) {
        Ok(sequence) if sequence < acknowledged => Ended::Stale,
        Ok(_) => Ended::Good,
        Err(wrong) => Ended::Wrong(format!("key {key}: {wrong}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_key_checksum_and_sequence() {
        let mut value = Vec::new();
        Maker::new(64).make(3, 10, &mut value);
        assert_eq!(judge(3, &value, 0), Ended::Good);
        assert_eq!(judge(3, &value, 10), Ended::Good);
        assert_eq!(judge(3, &value, 11), Ended::Stale);
        assert!(matches!(judge(4, &value, 0), Ended::Wrong(_)));
    }
}
