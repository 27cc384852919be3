//! Processes that join a running cluster, and those that have left it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use quorate_protocol::layout::{Layout, Member};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::DiskId;
use serde_json::Value;

use crate::harness::Cluster;

impl Cluster {
    /// The nodes that are spare: neither members nor on their way.
    pub(crate) fn spares(&self) -> Vec<usize> {
        let present: Vec<usize> = self.all().collect();
        (1..=self.process_count()).filter(|number| !present.contains(number)).collect()
    }

    /// Starts a spare node with an empty disk, which asks the others to be added. It is spare until it is.
    pub(crate) fn launch_newcomer(&self, number: usize, zone: &str) {
        let process = self.process(number);
        std::fs::create_dir_all(process.data_dir()).unwrap();
        process.wipe();
        // A copy of another disk must not come back as this one.
        drop(std::fs::remove_dir_all(self.copy_dir(number)));
        let members: Vec<String> =
            self.all().map(|at| format!("\"{}\"", self.peer_addr(at))).collect();
        let text = self.configuration(number);
        // A node that was a member before, or joined before, asks anew.
        let (settings, _) = text.split_once("[layout]").unwrap_or((&text, ""));
        let settings: Vec<&str> = settings
            .lines()
            .filter(|line| !line.starts_with("join =") && !line.starts_with("zone ="))
            .collect();
        let join = format!("join = [{}]\nzone = {zone:?}\n", members.join(", "));
        self.configure(number, &(join + &settings.join("\n") + "\n"));
        self.launch(number);
    }

    /// Whether a node joined, other than those that the cluster was formed of.
    pub(crate) fn has_joined(&self, number: usize) -> bool {
        self.configuration(number).starts_with("join =")
    }

    /// Where a copy of a node's disk is kept.
    pub(crate) fn copy_dir(&self, number: usize) -> PathBuf {
        self.data_dir(number).with_file_name("copy")
    }

    /// The id of a node's disk, if it was drawn.
    pub(crate) fn disk_of(&self, number: usize) -> Option<String> {
        let bytes = std::fs::read(self.data_dir(number).join("disk-id")).ok()?;
        Some(DiskId(u128::from_le_bytes(bytes.try_into().ok()?)).to_string())
    }

    /// Takes a node that was added for one of [`Cluster::all`].
    pub(crate) fn admit(&self, number: usize) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    }

    /// kill -9 of a node that will not come back. Its disk stays until it joins again.
    pub(crate) fn bury(&self, number: usize) {
        // First, so that nobody restores it.
        self.present.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.kill(number);
    }

    /// `GET /layout` of the node that knows the newest record, of those that answer.
    pub(crate) async fn newest_layout(&self) -> Option<Value> {
        let mut newest: Option<(u64, Value)> = None;
        for number in self.all().filter(|number| self.is_awake(*number)) {
            let Some(shown) = self.layout_at(number).await else { continue };
            let epoch = epoch_of(&shown);
            if newest.as_ref().is_none_or(|(known, _)| epoch > *known) {
                newest = Some((epoch, shown));
            }
        }
        newest.map(|(_, shown)| shown)
    }

    /// `GET /layout` of a node, if it answers as a member.
    pub(crate) async fn layout_at(&self, number: usize) -> Option<Value> {
        let node = self.at(number).with_timeout(std::time::Duration::from_secs(2));
        let answer = node.get("/layout").try_answer().await.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// From now on keys are looked for where this record, of `GET /layout`, has them.
    pub(crate) fn follow(&self, shown: &Value) {
        let member = |it: &Value| Member {
            node: node_in(&it["name"]),
            seat: node_in(&it["seat"]),
            zone: it["zone"].as_str().unwrap().to_owned(),
            weight: it["weight"].as_u64().unwrap() as u16,
        };
        let members = shown["members"].as_array().unwrap().iter().map(member).collect();
        let partitions = shown["partitions"].as_u64().unwrap() as u32;
        let layout = Layout::new(epoch_of(shown), partitions, members).unwrap();
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(layout);
    }
}

/// The epoch that `GET /layout` shows.
pub(crate) fn epoch_of(shown: &Value) -> u64 {
    shown["epoch"].as_str().unwrap().parse().unwrap()
}

/// The numbers of the nodes in a list of `GET /layout`; none if there is no list.
pub(crate) fn numbers_in(list: &Value) -> Vec<usize> {
    let members = list.as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().map(|it| it["name"].as_str().unwrap()[1..].parse().unwrap()).collect()
}

fn node_in(name: &Value) -> NodeId {
    NodeId::parse(name.as_str().unwrap()).unwrap()
}
