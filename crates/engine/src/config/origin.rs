//! Where a node's place in a cluster comes from: it is one of the nodes with which the cluster is formed
//! (`[layout]`), or it asks the members of one to be added (`join`).
//!
//! A node that has stored a cluster record takes its place from that, whatever its configuration says.

use quorate_protocol::layout::{Layout, Member};

use super::checks::is_host_and_port;
use super::{Config, ConfigError, LayoutConfig, NodeConfig, value};

/// The most addresses in `join`.
pub const JOIN_MAX: usize = 16;

/// Where a node without a stored cluster record takes its place from.
#[derive(Clone, Debug)]
pub enum Origin<'a> {
    /// From the layout with which the cluster is formed; it is one of its nodes.
    Layout(&'a LayoutConfig),
    /// From the members of a cluster, which it asks to add it.
    Join(Joining<'a>),
}

/// What a node that joins says of itself, and whom it asks.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The peer addresses of members, 1 to [`JOIN_MAX`].
    pub members: &'a [String],
    /// Its failure domain.
    pub zone: &'a str,
    /// Its share of the data.
    pub weight: u16,
}

impl Config {
    /// Where the node's place comes from, if it has stored no cluster record.
    ///
    /// # Errors
    /// [`ConfigError`] that says which setting is missing, or that the node is not in the layout.
    pub fn origin(&self) -> Result<Origin<'_>, ConfigError> {
        let wrong = |key, reason| Err(ConfigError::Origin { key, reason });
        match (&self.layout, &self.join[..]) {
            (Some(layout), []) => {
                if !self.layout()?.contains(self.node) {
                    return Err(value("node", "the name of a node in layout.nodes", self.node));
                }
                Ok(Origin::Layout(layout))
            }
            (None, members @ [_, ..]) => {
                self.peer_addr_for_others()?;
                let (zone, weight) = (self.zone.as_str(), self.weight);
                Ok(Origin::Join(Joining { members, zone, weight }))
            }
            (Some(_), [_, ..]) => wrong(
                "join",
                "there is a [layout] too, which is for the nodes that a cluster is formed of: remove \
                 [layout] to join a running cluster, or remove join to form a new one",
            ),
            (None, []) => wrong(
                "layout",
                "it is missing: list the nodes in [layout] to form a new cluster, or set join to the peer \
                 addresses of some members to join a running one",
            ),
        }
    }

    /// The nodes of the configured layout; none if there is no layout.
    pub fn layout_nodes(&self) -> &[NodeConfig] {
        self.layout.as_ref().map_or(&[], |layout| &layout.nodes)
    }

    /// The placement by the configured layout.
    ///
    /// # Errors
    /// [`ConfigError::Layout`] that names the invalid node or number, or [`ConfigError::Origin`] if there is
    /// no layout.
    pub fn layout(&self) -> Result<Layout, ConfigError> {
        let Some(layout) = &self.layout else {
            let reason = "it is missing: only a node that a cluster is formed of has one";
            return Err(ConfigError::Origin { key: "layout", reason });
        };
        let member = |node: &NodeConfig| Member::new(node.name, node.zone.clone(), node.weight);
        let members = layout.nodes.iter().map(member).collect();
        Ok(Layout::new(layout.version, layout.partitions, members)?)
    }

    /// The address at which others reach the peer port of a node that joins.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if `peer_addr` does not say it.
    pub fn peer_addr_for_others(&self) -> Result<String, ConfigError> {
        if let Some(addr) = &self.peer_addr_advertised {
            return Ok(addr.clone());
        }
        let addr = self.peer_addr.to_string();
        if self.peer_addr.ip().is_unspecified() || !is_host_and_port(&addr) {
            let allowed = "the host and port at which the members reach this node, since peer_addr does not \
                 say it";
            return Err(value("peer_addr_advertised", allowed, "missing"));
        }
        Ok(addr)
    }
}
