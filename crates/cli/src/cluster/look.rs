//! One look at every node: what it says about itself, and what the others say about it.

use quorate_client::Error;
use serde_json::Value;

use crate::app::{App, patiently};
use crate::exit::Done;
use crate::metrics::Metrics;
use crate::nodes::{Cluster, Member};
use crate::refusal;

/// What one node says.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) member: Member,
    /// Why the node did not answer, if it did not.
    pub(crate) silent: Option<String>,
    /// Its answer to `GET /cluster`.
    pub(crate) view: Option<Value>,
    /// Its answer to `GET /hints`.
    pub(crate) hints: Option<Value>,
    /// Its answer to `GET /anti-entropy`.
    pub(crate) anti_entropy: Option<Value>,
    pub(crate) metrics: Metrics,
}

/// What all nodes say.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) cluster: Cluster,
    /// In the order of the layout.
    pub(crate) nodes: Vec<Seen>,
}

/// Asks every node.
///
/// # Errors
/// If not even one answers.
pub(crate) async fn everywhere(app: &App) -> Done<Look> {
    let look = async {
        let cluster = app.nodes.cluster().await?;
        Ok(again(app, cluster).await)
    };
    patiently("asking every node", look).await
}

/// Asks every node of a cluster that is known.
pub(crate) async fn again(app: &App, cluster: Cluster) -> Look {
    let nodes = cluster.members.iter().map(|member| one(app, member));
    let nodes = futures_util::future::join_all(nodes).await;
    Look { nodes, cluster }
}

async fn one(app: &App, member: &Member) -> Seen {
    let mut seen = Seen {
        member: member.clone(),
        silent: None,
        view: None,
        hints: None,
        anti_entropy: None,
        metrics: Metrics::default(),
    };
    let Some(url) = &member.url else {
        seen.silent = Some("its client address is unknown".to_owned());
        return seen;
    };
    let told = |error: &Error| refusal::of(error).message;
    let admin = match app.nodes.look_at(url) {
        Ok(admin) => admin,
        Err(error) => {
            seen.silent = Some(told(&error));
            return seen;
        }
    };
    let (view, hints, anti_entropy, metrics) =
        tokio::join!(admin.cluster(), admin.hints(), admin.anti_entropy(), admin.metrics());
    seen.silent = view.as_ref().err().map(told);
    seen.view = view.ok();
    // Another node, or another program, may have taken the address since.
    if let Some(found) = seen.view.as_ref().map(|view| view["node"].as_str().unwrap_or_default())
        && found != member.name
    {
        seen.silent = Some(format!("{} answers there", crate::out::short(found, 20)));
        seen.view = None;
        return seen;
    }
    seen.hints = hints.ok();
    seen.anti_entropy = anti_entropy.ok();
    seen.metrics = metrics.map(|text| Metrics::parse(&text)).unwrap_or_default();
    seen
}

impl Look {
    /// What a node's peers say about it: how many of those that answered see it up, of how many.
    pub(crate) fn seen_up(&self, name: &str) -> (usize, usize) {
        let states: Vec<&str> =
            self.views_of(name).filter_map(|(_, peer)| peer["state"].as_str()).collect();
        (states.iter().filter(|state| **state == "up").count(), states.len())
    }

    /// What the other nodes say about a node.
    pub(crate) fn views_of<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.nodes.iter().filter(move |seen| seen.member.name != name).filter_map(move |seen| {
            let peers = seen.view.as_ref()?["nodes"].as_array()?;
            let peer = peers.iter().find(|peer| peer["node"].as_str() == Some(name))?;
            Some((seen.member.name.as_str(), peer))
        })
    }
}

impl Seen {
    /// The hints that this node keeps, as keys and bytes.
    pub(crate) fn hints_kept(&self) -> Option<(u64, u64)> {
        let hints = self.hints.as_ref()?;
        let keys = hints["targets"].as_array()?.iter().filter_map(|it| it["keys"].as_u64()).sum();
        Some((keys, hints["bytes"].as_u64().unwrap_or(0)))
    }

    /// A text of its own view of itself.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.view.as_ref()?[name].as_str()
    }

    /// A truth of its own view of itself.
    pub(crate) fn is(&self, name: &str) -> Option<bool> {
        self.view.as_ref()?[name].as_bool()
    }

    /// The hash of its layout.
    pub(crate) fn layout(&self) -> Option<(u64, &str)> {
        let layout = &self.view.as_ref()?["layout"];
        Some((layout["version"].as_u64()?, layout["hash"].as_str()?))
    }
}
