//! The nodes that a command may ask: those of `--url`, and those that they tell of.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_client::{Admin, Client, ClientBuilder, Error, Retries};
use serde_json::Value;

use crate::args::Common;
use crate::exit::{Done, Failure};
use crate::refusal;
use crate::security::Security;

/// The default address: the first node of `quorate dev` and of `scripts/cluster.sh up`.
const URL: &str = "http://127.0.0.1:7401";
/// The most addresses in one list.
const URLS_MAX: usize = 256;
/// How long one command waits for one answer, unless `--timeout-ms` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take to coordinate a request: the nodes' own default.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long one node may take to tell of itself when many are asked.
pub(crate) const LOOK_WITHIN: Duration = Duration::from_secs(3);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The largest answer, in bytes: several siblings of the largest value, as JSON.
const ANSWER_BYTES_MAX: usize = 384 << 20;
/// The largest answer that holds no values, in bytes.
const LOOK_BYTES_MAX: usize = 8 << 20;

/// The nodes given, and how to reach them.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    /// Asks the nodes given, in turn, each once.
    pub(crate) client: Client,
    /// Likewise, for answers that hold no values.
    pub(crate) plain: Client,
    /// Asks one node about itself, once and not for long.
    look: Client,
    pub(crate) urls: Vec<String>,
    security: Security,
    /// `--timeout-ms`.
    pub(crate) timeout_ms: Option<u64>,
    /// Where the addresses are from, if that is worth a word.
    from_env: bool,
}

/// What the node's own code made of a configuration: who signs with its key is the operator.
pub struct Operator {
    /// Where its node listens for clients.
    pub client_addr: String,
    /// Makes a token that is good for everything, for some minutes. Called for every request, as commands
    /// can take longer than a token is good for.
    pub sign: MakeToken,
}

/// Makes tokens; `None` if there is no key for them.
pub type MakeToken = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Makes an operator of a node's configuration. The error says what is wrong with that.
pub type SignAsOperator<'a> = &'a dyn Fn(&Path) -> Result<Operator, String>;

/// A node of the cluster, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) zone: String,
    /// The URL of its client port, if it is known.
    pub(crate) url: Option<String>,
    /// What the node that was asked says about it.
    pub(crate) seen: Value,
}

/// The cluster, as one node sees it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    /// The answer to `GET /cluster`.
    pub(crate) view: Value,
}

impl Nodes {
    /// The nodes of `--url`, else of `QUORATE_URL`, else that of `--operator`, else the default. The token is
    /// that of `--token`, else what `operator` signs, else that of `QUORATE_TOKEN`.
    ///
    /// # Errors
    /// Which address or file is invalid, and where it stands.
    pub(crate) fn new(common: &Common, operator: SignAsOperator<'_>) -> Done<Self> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let set = env("QUORATE_URL");
        let from_env = common.url.is_none() && set.is_some();
        let place = if from_env { "the environment variable QUORATE_URL" } else { "--url" };
        let signed = common.operator.as_deref().map(operator).transpose();
        let signed = signed.map_err(|why| Failure::usage(format!("--operator: {why}")))?;
        let own = signed.as_ref().map(|signed| signed.client_addr.clone());
        let text = common.url.clone().or(set).or(own).unwrap_or_else(|| URL.to_owned());
        let mut urls: Vec<String> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let url = url(part).map_err(|why| Failure::usage(format!("{place}: {why}")))?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() || urls.len() > URLS_MAX {
            let why = format!("{place}: expected 1 to {URLS_MAX} addresses, separated by commas");
            return Err(Failure::usage(why).into());
        }
        let token_place = match (&common.token, &signed) {
            (Some(_), _) => "--token",
            (None, Some(_)) => "--operator",
            (None, None) => "the environment variable QUORATE_TOKEN",
        };
        let security = Security::new(common, signed.map(|signed| signed.sign))?;
        let asked = common.timeout_ms.map(Duration::from_millis);
        let once = Retries { attempts_max: (urls.len() as u32).min(100), ..Retries::default() };
        let as_given = |urls: &[String]| builder(urls, &security).discover(false).route(false);
        let given = |bytes_max: usize| {
            as_given(&urls)
                .retries(once)
                .attempt_timeout(asked.unwrap_or(ATTEMPT))
                .timeout(asked.map_or(TIMEOUT, |asked| asked + Duration::from_secs(1)))
                .answer_bytes_max(bytes_max)
                .build()
        };
        let (client, plain) = (given(ANSWER_BYTES_MAX), given(LOOK_BYTES_MAX));
        let look = as_given(&urls[..1])
            .retries(Retries::NONE)
            .attempt_timeout(LOOK_WITHIN)
            .timeout(LOOK_WITHIN)
            .answer_bytes_max(LOOK_BYTES_MAX)
            .build();
        let named = |error: Error| {
            let text = error.to_string();
            match text.starts_with("token") {
                true => Failure::usage(format!("{token_place}: {text}")),
                false => Failure::usage(text),
            }
        };
        let (client, plain) = (client.map_err(named)?, plain.map_err(named)?);
        let look = look.map_err(named)?;
        let timeout_ms = common.timeout_ms;
        Ok(Self { client, plain, look, urls, security, timeout_ms, from_env })
    }

    /// A client for many requests: it finds all nodes, goes to home replicas, avoids dead nodes, and
    /// retries each request for as long as `patience`.
    ///
    /// # Errors
    /// Usage.
    pub(crate) fn bulk(&self, patience: Duration) -> Done<Client> {
        let retries = Retries { attempts_max: 100, ..Retries::default() };
        let client = builder(&self.urls, &self.security)
            .retries(retries)
            .attempt_timeout(ATTEMPT.min(patience))
            .timeout(patience)
            .answer_bytes_max(ANSWER_BYTES_MAX);
        Ok(client.build()?)
    }

    /// A client that asks only one node, and retries for as long as `patience`.
    ///
    /// # Errors
    /// Usage: its URL is invalid.
    pub(crate) fn only(&self, node: &str, patience: Duration) -> Done<Client> {
        let node = url(node).map_err(Failure::usage)?;
        let client = builder(&[node], &self.security)
            .discover(false)
            .route(false)
            .retries(Retries { attempts_max: 100, ..Retries::default() })
            .attempt_timeout(ATTEMPT.min(patience))
            .timeout(patience)
            .answer_bytes_max(ANSWER_BYTES_MAX);
        Ok(client.build()?)
    }

    /// Calls to the nodes given, in turn, whose answers hold no values.
    pub(crate) fn admin(&self) -> Admin {
        self.plain.admin()
    }

    /// Calls to one node, once and not for long.
    ///
    /// # Errors
    /// If its URL is invalid.
    pub(crate) fn look_at(&self, url: &str) -> Result<Admin, Error> {
        self.look.admin_of(url)
    }

    /// Tells where the address is from, if the node at it did not answer.
    pub(crate) fn place(&self, mut failure: Failure) -> Failure {
        if self.from_env {
            failure.message += " (from QUORATE_URL)";
        }
        failure
    }

    /// The cluster, as the first node that answers sees it. The other nodes given are asked for their
    /// names only if that node does not know their addresses.
    ///
    /// # Errors
    /// If none answers.
    pub(crate) async fn cluster(&self) -> Done<Cluster> {
        let mut failure = None;
        for url in &self.urls {
            let view = match self.look_at(url)?.cluster().await {
                Ok(view) => view,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            let scheme = url.split("://").next().unwrap_or_default();
            let mut members =
                members(&view, scheme).ok_or_else(|| refusal::incomplete("/cluster"))?;
            let own = view["node"].as_str().unwrap_or_default();
            for member in members.iter_mut().filter(|member| member.name == own) {
                member.url = Some(url.clone()); // this one works from here
            }
            self.find_rest(&mut members).await;
            return Ok(Cluster { members, view });
        }
        match failure {
            Some(error) => Err(self.place(refusal::of(&error)).into()),
            None => Err(Failure::usage("no address is given").into()),
        }
    }

    async fn find_rest(&self, members: &mut [Member]) {
        if members.iter().all(|member| member.url.is_some()) {
            return;
        }
        let asks = self.urls.iter().map(async |url| {
            let view = self.look_at(url).ok()?.cluster().await.ok()?;
            Some((view["node"].as_str()?.to_owned(), url.clone()))
        });
        for (name, url) in join_all(asks).await.into_iter().flatten() {
            let unknown = |it: &&mut Member| it.name == name && it.url.is_none();
            members.iter_mut().filter(unknown).for_each(|it| it.url = Some(url.clone()));
        }
    }

    /// Asks every member whose address is known, at the same time; the answers come in the order of
    /// the members.
    pub(crate) async fn everywhere<T>(
        &self,
        members: &[Member],
        ask: impl AsyncFn(Admin) -> Result<T, Error>,
    ) -> Vec<Result<T, String>> {
        let one = async |member: &Member| {
            let url = member.url.as_ref().ok_or("its address is unknown")?;
            let told = |error: Error| refusal::of(&error).message;
            ask(self.look_at(url).map_err(told)?).await.map_err(told)
        };
        join_all(members.iter().map(one)).await
    }
}

fn builder(urls: &[String], security: &Security) -> ClientBuilder {
    let builder = Client::builder().nodes(urls.iter().cloned()).connect_timeout(CONNECT_WITHIN);
    security.applied_to(builder, urls)
}

/// A node's URL: a scheme, which may be left out, a host and a port.
fn url(text: &str) -> Result<String, String> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let full = full.trim_end_matches('/').to_owned();
    match quorate_client::check_url(&full) {
        Ok(()) => Ok(full),
        Err(error) => Err(crate::out::short(&error.to_string(), 200)),
    }
}

/// The host and the port of a URL.
pub(crate) fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, authority)| authority)
}

/// The members, which are reached as the node is that told of them.
fn members(view: &Value, scheme: &str) -> Option<Vec<Member>> {
    let member = |seen: &Value| {
        let text = |name: &str| seen[name].as_str().map(str::to_owned);
        // Not one that is good only on the node itself.
        let usable = |addr: &String| !addr.starts_with("0.0.0.0:") && !addr.starts_with("[::]:");
        let url = text("http_addr")
            .filter(usable)
            .and_then(|addr| url(&format!("{scheme}://{addr}")).ok());
        let zone = text("zone").unwrap_or_default();
        Some(Member { name: text("node")?, zone, url, seen: seen.clone() })
    };
    view["nodes"].as_array()?.iter().map(member).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_read_from_any_answer() {
        let view = json!({"nodes": [
            {"node": "n1", "zone": "z", "state": "self"},
            {"node": "n2", "zone": "z", "http_addr": "127.0.0.1:2"},
            {"node": "n3", "http_addr": "0.0.0.0:3"},
            {"node": "n4", "http_addr": null},
        ]});
        let found = members(&view, "http").unwrap();
        let urls: Vec<_> = found.iter().map(|it| it.url.as_deref()).collect();
        assert_eq!(urls, [None, Some("http://127.0.0.1:2"), None, None]);
        for bad in [json!(null), json!({}), json!({"nodes": 7}), json!({"nodes": [{}]}), json!([])]
        {
            assert!(members(&bad, "http").is_none(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(url("node-1:7401").unwrap(), "http://node-1:7401");
        assert_eq!(url("http://[::1]:7401/").unwrap(), "http://[::1]:7401");
        for bad in ["http://", "https://", "ftp://h:1", "h:65536", "u@h:1", "h:1?x", "a b:1"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
