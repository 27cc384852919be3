//! Building a client.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;

use crate::client::Client;
use crate::error::Error;
use crate::retry::{Retries, TIME_MAX};
use crate::tls::TlsSettings;
use crate::token::Token;

/// The most nodes a client knows.
pub(crate) const NODES_MAX: usize = 1024;

/// The settings of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How long a whole call may take.
    pub(crate) timeout: Duration,
    /// How long a node may take for one attempt.
    pub(crate) attempt_timeout: Duration,
    pub(crate) retries: Retries,
    /// Whether nodes that were not named are found through `GET /cluster`.
    pub(crate) discovers: bool,
    /// Whether requests go to a home replica.
    pub(crate) routes: bool,
    /// How often nodes and ring are looked at again while the client is in use.
    pub(crate) refresh_every: Duration,
    /// The longest answer that is held in memory, in bytes.
    pub(crate) answer_bytes_max: usize,
}

/// Makes a [`Client`]; see [`Client::builder`].
#[derive(Debug)]
pub struct ClientBuilder {
    nodes: Vec<String>,
    token: Token,
    tls: TlsSettings,
    connect_timeout: Duration,
    settings: Settings,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        let settings = Settings {
            timeout: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(5),
            retries: Retries::default(),
            discovers: true,
            routes: true,
            refresh_every: Duration::from_secs(30),
            answer_bytes_max: 128 << 20,
        };
        let (nodes, tls) = (Vec::new(), TlsSettings::default());
        Self { nodes, token: Token::None, tls, connect_timeout: Duration::from_secs(1), settings }
    }
}

impl ClientBuilder {
    /// The URLs of some nodes, such as `http://127.0.0.1:7401` or `https://n1.example.org:7401`; at least
    /// one. The others are discovered, and asked over TLS if the node that told of them was.
    #[must_use]
    pub fn nodes<I>(mut self, urls: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.nodes.extend(urls.into_iter().map(Into::into));
        self
    }

    /// A token, sent as `Authorization: Bearer` to every node, discovered ones too: one that
    /// [`Admin::make_token`](crate::Admin::make_token) gave, for nodes that check tokens. Finding the other
    /// nodes needs the action `look`; without it the client goes on with those that were named.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Fixed(token.into());
        self
    }

    /// Likewise, a fresh one for every attempt: for tokens that are good for minutes only, such as an
    /// operator's signature. `None` sends none; what it gives is sent if it is visible ASCII.
    #[must_use]
    pub fn token_maker(
        mut self,
        make: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.token = Token::Made(std::sync::Arc::new(make));
        self
    }

    /// An authority that signs the certificates of nodes, in PEM; several if it is called again or if
    /// there are several in it. The system's authorities are believed only if none is given.
    #[must_use]
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authorities.push(pem.into());
        self
    }

    /// A certificate chain to show to nodes that ask for one, and its private key, both in PEM.
    #[must_use]
    pub fn identity(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.identity = Some((chain.into(), key.into()));
        self
    }

    /// How long a whole call may take, with all retries. Default 15 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long a node may take for one attempt, before another is asked. An upload that moves is not
    /// counted. Not less than the cluster's `timeouts.request_ms`, or nodes are left before they can say
    /// what became of a write. Default 5 s, as that.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt_timeout = timeout;
        self
    }

    /// How long a connection may take to be made. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How often and after which pauses a request is tried again.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.settings.retries = retries;
        self
    }

    /// Whether nodes that were not named are found by asking those that were. Default true. Turn it off
    /// where nodes advertise addresses that cannot be reached from here.
    #[must_use]
    pub fn discover(mut self, discover: bool) -> Self {
        self.settings.discovers = discover;
        self
    }

    /// Whether a request goes to a home replica of its key, which saves a hop. Default true.
    #[must_use]
    pub fn route(mut self, route: bool) -> Self {
        self.settings.routes = route;
        self
    }

    /// How often nodes and ring are looked at again while the client is in use; also after errors.
    /// Default 30 s.
    #[must_use]
    pub fn refresh_every(mut self, every: Duration) -> Self {
        self.settings.refresh_every = every;
        self
    }

    /// The longest answer that is held in memory, in bytes. Default 128 MiB: what all siblings of a key
    /// can have as JSON. Streams are not counted.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.answer_bytes_max = bytes;
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the setting.
    pub fn build(self) -> Result<Client, Error> {
        let mut urls = BTreeSet::new();
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let url = base_url(node)?;
            if urls.insert(url.clone()) {
                nodes.push(url);
            }
        }
        if nodes.is_empty() {
            return Err(Error::invalid("nodes", "give the URL of at least one node"));
        }
        if nodes.len() > NODES_MAX {
            return Err(Error::invalid("nodes", format!("at most {NODES_MAX}")));
        }
        let retries = &self.settings.retries;
        if !(1..=100).contains(&retries.attempts_max) {
            let detail = format!("attempts_max must be 1 to 100, not {}", retries.attempts_max);
            return Err(Error::invalid("retries", detail));
        }
        for (what, time) in
            [("timeout", self.settings.timeout), ("attempt timeout", self.settings.attempt_timeout)]
        {
            if time < Duration::from_millis(1) || time > TIME_MAX {
                return Err(Error::invalid(what, "must be from 1 ms to one day"));
            }
        }
        self.token.check()?;
        let is_secure = nodes.iter().any(|url| url.starts_with("https:"));
        if self.tls.is_any() && !is_secure {
            return Err(Error::invalid(
                "nodes",
                "authorities and identity are for https:// URLs alone",
            ));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.config(is_secure)?)
            .connect_timeout(self.connect_timeout)
            .redirect(reqwest::redirect::Policy::none()) // 300 is an answer, and nodes redirect nowhere
            .retry(reqwest::retry::never()) // see `call.rs`
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::invalid("settings", error.to_string()))?;
        Ok(Client::new(http, self.token, nodes, self.settings))
    }
}

/// Whether a text can be the URL of a node.
///
/// # Errors
/// [`Error::Invalid`] that says why not.
pub fn check_url(text: &str) -> Result<(), Error> {
    base_url(text).map(drop)
}

/// Checks a node's URL; returns it without a slash at the end.
pub(crate) fn base_url(text: &str) -> Result<String, Error> {
    let wrong = |detail: &str| Error::invalid("nodes", format!("{text:?} {detail}"));
    let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    match url.scheme() {
        "http" | "https" => {}
        _ => return Err(wrong("must start with http:// or https://")),
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(wrong("must be a scheme, a host, a port and perhaps a path, and nothing else"));
    }
    if url.password().is_some() {
        return Err(wrong("must not carry a password"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The URL of a node that advertises `addr` (host and port), reached as the node that told of it;
/// `None` if it is no address that a client can use.
pub(crate) fn base_url_of(told_by: &str, addr: &str) -> Option<String> {
    let scheme = told_by.split_once("://")?.0;
    let url = Url::parse(&format!("{scheme}://{addr}")).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let is_usable = host.parse().is_ok_and(|ip: IpAddr| !ip.is_unspecified())
        || host.parse::<IpAddr>().is_err();
    let is_bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    (is_usable && is_bare).then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(builder: ClientBuilder) -> String {
        builder.build().err().unwrap().to_string()
    }

    #[test]
    fn bad_settings_are_named() {
        let of = |url: &str| refused(ClientBuilder::default().nodes([url]));
        assert!(refused(ClientBuilder::default()).contains("at least one"));
        for (url, why) in [
            ("", "is no URL"),
            ("127.0.0.1:7401", "is no URL"),
            ("ftp://h", "must start with http://"),
            ("http://h/?a=1", "nothing else"),
            ("http://u@h/", "nothing else"),
            ("http://:p@h/", "password"),
        ] {
            assert!(of(url).contains(why), "{url}: {}", of(url));
        }
        let node = || ClientBuilder::default().nodes(["http://h:1"]);
        assert!(refused(node().token("a\nb")).starts_with("token"));
        assert!(!format!("{:?}", node().token("sesame")).contains("sesame"));
        assert!(refused(node().timeout(Duration::ZERO)).starts_with("timeout"));
        let none = Retries { attempts_max: 0, ..Retries::default() };
        assert!(refused(node().retries(none)).contains("1 to 100"));
        assert!(node().nodes(["http://h:1/", "http://h:2/sub/"]).build().is_ok());
        assert!(refused(node().authority("x")).contains("https://"));
        let secure = || ClientBuilder::default().nodes(["https://h:1"]);
        assert!(refused(secure().authority("x")).starts_with("authorities"));
        assert_eq!(base_url("http://h:2/sub/").unwrap(), "http://h:2/sub");
    }

    #[test]
    fn advertised_addresses_become_urls() {
        let of = |addr| base_url_of("http://a:1/x", addr);
        assert_eq!(of("127.0.0.1:7402").unwrap(), "http://127.0.0.1:7402");
        assert_eq!(of("n2.local:80").unwrap(), "http://n2.local");
        assert_eq!(base_url_of("https://a:1", "n2:7402").unwrap(), "https://n2:7402");
        assert_eq!(of("[::1]:7402").unwrap(), "http://[::1]:7402");
        for bad in ["0.0.0.0:7401", "[::]:7401", "", "h/x", "u@h", "h?x", "a b"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
