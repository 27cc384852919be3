//! The client: shared by all handles that come from it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use reqwest::{Method, RequestBuilder};

use crate::bucket::Bucket;
use crate::nodes::{Node, View};
use crate::settings::{ClientBuilder, Settings};
use crate::token::Token;
use crate::upkeep::Upkeep;

/// A client of one cluster. Cheap to clone; all clones share connections and what they know of the
/// nodes.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    http: reqwest::Client,
    token: Token,
    pub(crate) settings: Settings,
    view: RwLock<Arc<View>>,
    turn: AtomicUsize,
    pub(crate) upkeep: Upkeep,
}

impl Client {
    /// Begins a client. Only [`ClientBuilder::nodes`] is needed.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client with default settings, of a cluster of which these nodes are known.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if a URL is none.
    pub fn connect<I>(urls: I) -> Result<Self, crate::Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::builder().nodes(urls).build()
    }

    pub(crate) fn new(
        http: reqwest::Client,
        token: Token,
        urls: Vec<String>,
        settings: Settings,
    ) -> Self {
        let nodes = urls.into_iter().map(|url| Node::new(url, true)).collect();
        let view = View { nodes, names: BTreeMap::new(), ring: None };
        let inner = Inner {
            http,
            token,
            settings,
            view: RwLock::new(Arc::new(view)),
            turn: AtomicUsize::new(rand::random::<u16>().into()),
            upkeep: Upkeep::new(Instant::now()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A bucket. Its name is checked with the first request.
    pub fn bucket(&self, name: impl Into<String>) -> Bucket {
        Bucket::new(self.clone(), name.into())
    }

    /// The URLs of the nodes that the client knows, and whether each answers.
    pub fn known_nodes(&self) -> Vec<KnownNode> {
        let view = self.inner.view();
        let now = Instant::now();
        let name_of = |node: &Arc<Node>| {
            view.names.iter().find(|(_, it)| Arc::ptr_eq(it, node)).map(|(name, _)| name.clone())
        };
        let of = |node: &Arc<Node>| KnownNode {
            url: node.url.clone(),
            name: name_of(node),
            given: node.given,
            up: node.state(now) != crate::nodes::State::Down,
        };
        view.nodes.iter().map(of).collect()
    }
}

/// A node that a client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Its URL.
    pub url: String,
    /// Its name, once it is known.
    pub name: Option<String>,
    /// Whether it was given to the builder; else it was discovered.
    pub given: bool,
    /// Whether it answered when it was last asked.
    pub up: bool,
}

impl Inner {
    /// Begins a request to a node, with the token.
    pub(crate) fn request(&self, method: Method, url: String) -> RequestBuilder {
        self.token.sent_with(self.http.request(method, url))
    }

    /// What is known of the cluster.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what is known.
    pub(crate) fn set_view(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// A number that differs from call to call, to spread them.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Relaxed)
    }
}
