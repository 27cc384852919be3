//! `GET /events`: what an operator watches, live, as server-sent events.
//!
//! `cluster`, `hints`, `anti_entropy` and `jobs` carry exactly what the routes of these names answer,
//! sent at once and then when they changed; `rates` is sent with every look and thereby also keeps
//! the connection alive. Each stream has a task that looks once a second; it ends when its client is
//! gone or too slow, and when the node drains. Nothing is computed while no client listens.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::stream::poll_fn;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::rates::Sample;
use super::route::{Answer, Route};
use super::routes;
use quorate_engine::limits::bounds::EVENT_STREAMS;
use quorate_engine::node::{Node, Unavailable};

/// The time between two looks, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// How often to check whether the node drains, in milliseconds: a stop must not wait for streams.
const DRAIN_LOOK_MS: u64 = 100;
/// Looks that wait for a client that reads slowly; one more, and its stream ends.
const BACKLOG: usize = 4;
/// How long a look waits for the store, in milliseconds.
const HINTS_MS: u64 = 200;
/// How long a client should wait before it connects again, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// `GET /events`.
///
/// # Errors
/// 503 if all slots are taken, or the node is stopping.
pub(super) async fn open(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node.clone();
    if node.is_draining() {
        return Err(Unavailable::Stopping.into());
    }
    let slot = node.bounds.event_streams.clone().try_acquire_owned().map_err(|_| {
        let detail =
            format!("this node serves at most {EVENT_STREAMS} streams of events at a time");
        Problem::new(Kind::Overloaded, detail)
    })?;
    let (sender, receiver) = channel(BACKLOG);
    node.background.spawn(watch(Arc::new(gate), sender, slot));
    Ok(stream(receiver))
}

pub(super) fn stream(mut receiver: Receiver<Bytes>) -> Response {
    let sent = poll_fn(move |cx| receiver.poll_recv(cx).map(|it| it.map(Ok::<_, Infallible>)));
    let mut response = Response::new(Body::from_stream(sent));
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    response.headers_mut().extend([
        fixed(CONTENT_TYPE, "text/event-stream"),
        fixed(CACHE_CONTROL, "no-store"),
        fixed(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Some proxies keep back what is small.
        fixed(HeaderName::from_static("x-accel-buffering"), "no"),
    ]);
    response
}

/// Looks until the client is gone, reads too slowly or may not look any more, or the node drains.
async fn watch(gate: Arc<Gate>, sender: Sender<Bytes>, _slot: OwnedSemaphorePermit) {
    let mut looks = interval(Duration::from_millis(LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let node = &gate.node;
    let mut seen = Seen::default();
    let mut text = format!("retry: {RETRY_MS}\n\n");
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = sender.closed() => return,
            () = drained(node) => return,
        }
        if !gate.who.is_still_known(node) {
            return;
        }
        tokio::select! {
            () = seen.look(&gate, &mut text) => {}
            () = sender.closed() => return,
            () = drained(node) => return,
        }
        if sender.try_send(Bytes::from(std::mem::take(&mut text))).is_err() {
            return;
        }
    }
}

async fn drained(node: &Node) {
    while !node.is_draining() {
        sleep(Duration::from_millis(DRAIN_LOOK_MS)).await;
    }
}

/// What a stream has sent last.
#[derive(Default)]
struct Seen {
    answers: [Bytes; 4],
    sample: Option<Sample>,
    /// The hints are being read.
    hints: Option<JoinHandle<Option<Bytes>>>,
}

impl Seen {
    /// Adds the events of one look.
    async fn look(&mut self, gate: &Arc<Gate>, text: &mut String) {
        let now = [
            answer(gate, &routes::CLUSTER).await,
            self.hints(gate).await,
            answer(gate, &routes::ANTI_ENTROPY).await,
            answer(gate, &routes::JOBS).await,
        ];
        let names = ["cluster", "hints", "anti_entropy", "jobs"];
        for ((name, seen), now) in names.into_iter().zip(&mut self.answers).zip(now) {
            // A route that refuses (the node is overloaded, say) has no news.
            if let Some(now) = now.filter(|now| now != seen) {
                add(text, name, &String::from_utf8_lossy(&now));
                *seen = now;
            }
        }
        let sample = Sample::take(&gate.node);
        add(text, "rates", &sample.since(self.sample.as_ref()).to_string());
        self.sample = Some(sample);
    }

    /// The hints; `None` while the store that keeps them does not answer. Everything else goes on
    /// then, and no more than one question waits for it.
    async fn hints(&mut self, gate: &Arc<Gate>) -> Option<Bytes> {
        let asked = self.hints.get_or_insert_with(|| {
            let gate = gate.clone();
            tokio::spawn(async move { answer(&gate, &routes::HINTS).await })
        });
        let told = timeout(Duration::from_millis(HINTS_MS), asked).await.ok()?;
        self.hints = None;
        told.ok().flatten()
    }
}

/// The body of a route's answer, JSON on one line.
async fn answer(gate: &Gate, route: &'static Route) -> Option<Bytes> {
    let answer = (route.handler)(gate.within(route)?, Request::default()).await;
    let body = answer.ok()?.into_body().collect().await;
    Some(body.ok()?.to_bytes())
}

/// Adds one event.
pub(super) fn add(text: &mut String, name: &str, json: &str) {
    for part in ["event: ", name, "\ndata: ", json.trim_end(), "\n\n"] {
        text.push_str(part);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_two_lines_and_an_empty_one() {
        let mut text = String::new();
        add(&mut text, "hints", "{\"targets\":[]}\n");
        assert_eq!(text, "event: hints\ndata: {\"targets\":[]}\n\n");
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_task_and_the_task_sees_that_its_client_is_gone() {
        let (sender, receiver) = channel(BACKLOG);
        let mut body = stream(receiver).into_body();
        sender.try_send(Bytes::from("one")).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        drop(sender);
        assert!(body.frame().await.is_none());
        let (sender, receiver) = channel(BACKLOG);
        let body = stream(receiver).into_body();
        for _ in 0..BACKLOG {
            sender.try_send(Bytes::new()).unwrap();
        }
        assert!(sender.try_send(Bytes::new()).is_err(), "nobody reads");
        drop(body);
        sender.closed().await;
    }
}
