//! One worker's access to a cluster: asks one node, and on failure another, until there is an
//! answer or time is up. Safe for writes only because the caller sends the same `Idempotency-Key`
//! each time: a write id shows as at most one sibling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::http::{Client, Error, Node, Request, Response};

/// The timeout of one exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node that failed is used only as a last resort.
const AVOID: Duration = Duration::from_secs(2);
/// The longest `Retry-After` that is honoured, in milliseconds.
const RETRY_AFTER_MS_MAX: u64 = 5_000;
/// The wait when a node is busy but does not say for how long, or when every node failed.
const RETRY_AFTER_MS: u64 = 200;
/// The largest answer, in bytes: several siblings of the largest value.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What all workers know about the nodes.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// Until when to avoid each node, in milliseconds since `started`.
    avoid_until_ms: Vec<AtomicU64>,
    started: Instant,
    /// How long one operation is retried.
    patience: Duration,
    retries: AtomicU64,
}

impl Cluster {
    /// A cluster of these nodes; one operation is retried for `patience`.
    pub(crate) fn new(nodes: Vec<Node>, patience: Duration) -> Self {
        let avoid_until_ms = nodes.iter().map(|_| AtomicU64::new(0)).collect();
        let (started, retries) = (Instant::now(), AtomicU64::new(0));
        Cluster { nodes, avoid_until_ms, started, patience, retries }
    }

    /// How many retries all workers made.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn name(&self, node: usize) -> &str {
        self.nodes.get(node).map_or("?", |it| &it.name)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn avoid(&self, node: usize) {
        if let Some(until_ms) = self.avoid_until_ms.get(node) {
            until_ms.store(self.now_ms() + AVOID.as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// The candidate for this attempt: round robin, skipping nodes to avoid unless all are.
    fn choose(&self, candidates: &[usize], attempt: usize) -> usize {
        let now_ms = self.now_ms();
        let in_turn = || candidates.iter().cycle().skip(attempt % candidates.len().max(1));
        let well = |node: &&usize| {
            self.avoid_until_ms.get(**node).is_some_and(|it| it.load(Ordering::Relaxed) <= now_ms)
        };
        let mut one_round = in_turn().take(candidates.len());
        one_round.find(well).or_else(|| in_turn().next()).copied().unwrap_or(0)
    }
}

/// A worker's clients, one for each node.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    cluster: &'a Cluster,
    clients: Vec<Client>,
}

impl<'a> Asker<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let client = |node: &Node| Client::new(node.clone(), EXCHANGE_TIMEOUT, BODY_BYTES_MAX);
        Asker { cluster, clients: cluster.nodes.iter().map(client).collect() }
    }

    /// Asks the candidates (indices into the list of nodes) in turn until one answers, and returns
    /// what `take` makes of the answer; `take` is also told which node it came from. Retried are:
    /// no answer at all, and 429, 502, 503, 504, 507, after the pause that `Retry-After` asks for.
    ///
    /// # Errors
    ///
    /// The last failure in words, when time is up.
    pub(crate) async fn ask<T>(
        &mut self,
        candidates: &[usize],
        request: &Request<'_>,
        take: impl FnOnce(usize, &Response<'_>) -> T,
    ) -> Result<T, String> {
        let deadline = Instant::now() + self.cluster.patience;
        let mut attempt = 0;
        loop {
            let node = self.cluster.choose(candidates, attempt);
            let client = self.clients.get_mut(node).ok_or("no such node")?;
            let (problem, pause_ms) = match client.send(request).await {
                Ok(answer) => match pause_ms(&answer) {
                    None => return Ok(take(node, &answer)),
                    Some(pause_ms) => (describe(&answer), pause_ms),
                },
                Err(error) => {
                    self.cluster.avoid(node);
                    let each_failed = (attempt + 1) % candidates.len().max(1) == 0;
                    (after_error(&error), if each_failed { RETRY_AFTER_MS } else { 0 })
                }
            };
            let pause = Duration::from_millis(pause_ms + jitter_ms(pause_ms));
            if Instant::now() + pause >= deadline {
                let patience = self.cluster.patience;
                let name = self.cluster.name(node);
                return Err(format!("gave up after {patience:?}; last from {name}: {problem}"));
            }
            tokio::time::sleep(pause).await;
            self.cluster.retries.fetch_add(1, Ordering::Relaxed);
            attempt += 1;
        }
    }
}

fn after_error(error: &Error) -> String {
    format!("{}: {error}", error.kind())
}

/// How long to wait before a retry, if this answer calls for one.
fn pause_ms(answer: &Response<'_>) -> Option<u64> {
    if !matches!(answer.status, 429 | 502 | 503 | 504 | 507) {
        return None;
    }
    let seconds = answer.header("retry-after").and_then(|it| it.trim().parse::<u64>().ok());
    Some(seconds.map_or(RETRY_AFTER_MS, |it| it.saturating_mul(1000)).min(RETRY_AFTER_MS_MAX))
}

/// Up to half a pause more, so that workers do not retry in step.
fn jitter_ms(pause_ms: u64) -> u64 {
    rand::random_range(0..=pause_ms / 2)
}

/// An answer in one line, for reports.
pub(crate) fn describe(answer: &Response<'_>) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(answer.body);
    let line: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let shown: String = line.chars().take(SHOWN_MAX).collect();
    format!("{} {}", answer.status, shown.trim())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fake::Server;

    const GET: Request<'static> = Request { method: "GET", path: "/", headers: &[], body: b"" };

    fn cluster(servers: &[&Server], patience_ms: u64) -> Cluster {
        let nodes = servers.iter().map(|it| it.node()).collect();
        Cluster::new(nodes, Duration::from_millis(patience_ms))
    }

    async fn server(answers: &[&str]) -> Server {
        Server::start(answers.iter().map(|it| vec![it.to_string()]).collect()).await
    }

    #[tokio::test]
    async fn a_broken_answer_is_asked_again_elsewhere_and_the_node_avoided() {
        let bad = server(&["HTTP/1.1 2"]).await;
        let ok = "HTTP/1.1 204 No Content\r\n\r\n";
        let good = server(&[ok, ok]).await;
        let cluster = cluster(&[&bad, &good], 5000);
        let mut asker = Asker::new(&cluster);
        for _ in 0..2 {
            let (node, status) =
                asker.ask(&[0, 1], &GET, |node, it| (node, it.status)).await.unwrap();
            assert_eq!((node, status), (1, 204));
        }
        assert_eq!(cluster.retries(), 1);
        assert_eq!(bad.requests().len(), 1);
    }

    #[tokio::test]
    async fn busy_is_asked_again_after_the_pause_it_asked_for() {
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let one = server(&[busy, busy, "HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n"]).await;
        let cluster = cluster(&[&one], 5000);
        let status = Asker::new(&cluster).ask(&[0], &GET, |_, it| it.status).await.unwrap();
        assert_eq!((status, cluster.retries()), (404, 2));
    }

    #[tokio::test]
    async fn patience_ends_with_the_last_trouble() {
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 100\r\nContent-Length: 4\r\n\r\nfull";
        let one = server(&[busy]).await;
        let cluster = cluster(&[&one], 100);
        let error = Asker::new(&cluster).ask(&[0], &GET, |_, _| ()).await.unwrap_err();
        assert!(error.contains("503 full"), "{error}");
    }
}
