//! What can be done to a node through its hooks: links that are cut, clocks that are wrong, disks that fail.

use std::time::Duration;

use quorate_protocol::name::NodeId;

use super::{Cluster, eventually, name_of};
use crate::http::{Answer, Ask, Node};

impl Cluster {
    /// Cuts two groups of nodes off from each other; nodes in neither are not affected. Every cut
    /// replaces the previous one of the same nodes.
    pub(crate) async fn cut(&self, these: &[usize], those: &[usize]) {
        for (ours, theirs) in [(these, those), (those, these)] {
            for number in ours {
                self.set_cuts(*number, theirs, theirs).await;
            }
        }
    }

    /// Drops what one group sends to the other.
    pub(crate) async fn cut_one_way(&self, from: &[usize], to: &[usize]) {
        for number in from {
            self.set_cuts(*number, &[], to).await;
        }
        for number in to {
            self.set_cuts(*number, from, &[]).await;
        }
    }

    /// Ends all cuts. A node that does not run has forgotten its own.
    pub(crate) async fn heal(&self) {
        for number in self.all() {
            self.set_cuts(number, &[], &[]).await;
        }
    }

    /// Sets a node's clock wrong, and ends its cuts.
    pub(crate) async fn set_clock(&self, number: usize, ahead_ms: i64) {
        let base = format!("http://{}", self.process(number).peer_addr);
        let hook = Node::new(self.http.clone(), base);
        let fault = serde_json::json!({"clock_ahead_ms": ahead_ms}).to_string();
        let obeys = async || obeyed(hook.put("/fault").value(fault.clone())).await;
        let answer = eventually(&format!("n{number}'s clock is wrong"), obeys).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// Makes a node's disk fail until its process is replaced.
    pub(crate) async fn set_disk_fault(&self, number: usize, fault: &str) {
        assert!(self.try_disk_fault(number, fault).await, "n{number} takes no {fault}");
    }

    /// The same for a node that may not answer. Returns whether it did.
    pub(crate) async fn try_disk_fault(&self, number: usize, fault: &str) -> bool {
        let base = format!("http://{}", self.process(number).peer_addr);
        let hook = Node::new(self.http.clone(), base).with_timeout(Duration::from_secs(2));
        let answer = hook.put("/fault/disk").value(fault.to_owned()).try_answer().await;
        answer.is_ok_and(|answer| answer.status == 204)
    }

    /// A node that is not running is skipped: the other end of a cut is told too, which suffices.
    async fn set_cuts(&self, number: usize, cut_in: &[usize], cut_out: &[usize]) {
        if !self.is_awake(number) {
            return;
        }
        let names =
            |nodes: &[usize]| -> Vec<NodeId> { nodes.iter().copied().map(name_of).collect() };
        let cuts = serde_json::json!({"cut_in": names(cut_in), "cut_out": names(cut_out)});
        let base = format!("http://{}", self.process(number).peer_addr);
        let hook = Node::new(self.http.clone(), base);
        let obeys = async || {
            let ended = self.ended(number);
            assert!(ended.is_none(), "n{number} ended: {ended:?}\n{}", self.log(number));
            obeyed(hook.put("/fault").value(cuts.to_string())).await
        };
        let answer = eventually(&format!("n{number} is cut"), obeys).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// The answer to a fault. A node that was just launched may not listen yet, and one that was just added to
/// the cluster may still show that it waits.
async fn obeyed(ask: Ask) -> Option<Answer> {
    ask.try_answer().await.ok().filter(|answer| answer.status != 503)
}
