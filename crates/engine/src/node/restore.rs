//! Makes a data directory of the copy of a node that a backup holds: for the same node of the same cluster,
//! which has lost its disk, or for a node of a new cluster. The node is stopped, and the copy is in place;
//! whoever put it there keeps the node from starting until this has returned ([`RESTORING_FILE`]).

use std::sync::Arc;

use quorate_protocol::message::Formation;
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, DiskId, RecordHash, RecordMember};
use quorate_protocol::synod::{Acceptor, RestoreError as VotesError};
use quorate_protocol::time::WallTime;
use quorate_storage::{DataDir, OpenError, Options, Store};

use super::errors::StartError;
use super::start::FORMATION_RECORD;
use crate::backup::manifest::{Manifest, ManifestError};
use crate::cluster::generation::Generation;
use crate::cluster::{buckets, placement, tokens};
use crate::config::Config;
use crate::config::origin::Origin;
use crate::host::Files;
use crate::membership::{files, placement_of};
use crate::repair::fill_state::FillState;
use crate::repair::restored::Restored;
use crate::repair::set_aside;

/// In a data directory that is being restored: a node does not start with it.
pub const RESTORING_FILE: &str = "restoring";

/// A backup of a whole cluster, or what there is of it.
#[derive(Clone, Debug)]
pub struct Source {
    /// What tells it from all others.
    pub id: u128,
    /// The id of the cluster.
    pub cluster_id: String,
    /// The cluster record.
    pub record: ClusterRecord,
    /// `defaults.n`.
    pub default_n: u16,
    /// When the first copy was begun.
    pub began_at: WallTime,
}

/// Why nothing is restored. What was begun is to be deleted.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest cannot be used.
    #[error("the manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// It is of another cluster, and this one goes on.
    #[error(
        "the backup is of the cluster {backup:?}, and the configuration is of {configured:?}: a node goes on \
         as a seed only in its own cluster (--new-cluster makes a new one)"
    )]
    OtherCluster {
        /// The backup's.
        backup: String,
        /// The configured one.
        configured: String,
    },
    /// The new cluster would have the old one's id.
    #[error(
        "the backup is of the cluster {0:?}, and a restored cluster needs an id of its own: contexts and \
         nodes of the old one must not pass for its own. Give cluster_id another value in every configuration"
    )]
    SameCluster(String),
    /// It is of another node.
    #[error(
        "the copy is of {copy}, and the configuration is of {configured}: a node restores its own copy"
    )]
    OtherNode {
        /// The copy's.
        copy: NodeId,
        /// The configured one.
        configured: NodeId,
    },
    /// The new cluster has other nodes.
    #[error(
        "[layout] must be that of the backup, but for the addresses: {0}. Change it once the cluster is \
         restored (quorate layout)"
    )]
    OtherLayout(String),
    /// There is no layout.
    #[error(
        "a new cluster needs a [layout] with the nodes of the backup and their addresses, and no join"
    )]
    NoLayout,
    /// Something was changing.
    #[error("a change of the layout was under way when the backup was made: it cannot be restored")]
    Moving,
    /// The record of the new cluster would not be valid.
    #[error("the cluster record: {0}")]
    Record(#[from] quorate_protocol::record::RecordError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The copy is not as a node would find it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The copy cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] quorate_storage::Error),
    /// A file cannot be written.
    #[error("the data directory: {0}")]
    Files(#[from] std::io::Error),
    /// The votes cannot begin.
    #[error("the votes: {0}")]
    Votes(#[from] VotesError),
}

impl Source {
    /// The backup with this id, by the manifest of one of its nodes. `began_at`: when its first copy was
    /// begun.
    ///
    /// # Errors
    /// [`RestoreError::Manifest`].
    pub fn of(manifest: &Manifest, id: u128, began_at: WallTime) -> Result<Self, RestoreError> {
        Ok(Self {
            id,
            cluster_id: manifest.cluster_id.clone(),
            record: manifest.cluster_record()?,
            default_n: manifest.default_n,
            began_at,
        })
    }

    /// The formation of a new cluster that is restored from this: all its nodes come to the same.
    pub fn formation(&self, config: &Config) -> Formation {
        let digest = self.derive(&config.cluster_id, "formation", "");
        Formation(digest.to_le_bytes())
    }

    /// Nothing else is named by it: another backup, another cluster or another node gives another number.
    fn derive(&self, cluster_id: &str, what: &str, of: &str) -> u128 {
        let mut hasher = blake3::Hasher::new();
        for part in [&b"quorate restore"[..], &self.id.to_le_bytes(), cluster_id.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        for part in [what, of] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    /// Record 1 of the new cluster: the members of the backup's record, with new disks, at the addresses of
    /// the configuration. Its epoch is above all that the old cluster had until then.
    ///
    /// # Errors
    /// [`RestoreError`]: what of the configuration does not fit.
    pub fn first_record(&self, config: &Config) -> Result<ClusterRecord, RestoreError> {
        if config.cluster_id == self.cluster_id {
            return Err(RestoreError::SameCluster(self.cluster_id.clone()));
        }
        if self.record.next().is_some() || !self.record.leaving().is_empty() {
            return Err(RestoreError::Moving);
        }
        let Origin::Layout(layout) = config.origin()? else { return Err(RestoreError::NoLayout) };
        let differences = self.differences(layout.partitions, config);
        if !differences.is_empty() {
            return Err(RestoreError::OtherLayout(differences.join(", ")));
        }
        let member = |was: &RecordMember| {
            let configured = layout.nodes.iter().find(|node| node.name == was.node)?;
            let disk = DiskId(self.derive(&config.cluster_id, "disk", was.node.as_str()));
            let peer_addr = configured.peer_addr.clone();
            Some(RecordMember { disk, peer_addr, client_addr: None, ..was.clone() })
        };
        let members = self.record.stable().iter().filter_map(member).collect();
        let epoch = self.record.epoch().saturating_add(1);
        Ok(ClusterRecord::first(&config.cluster_id, epoch, self.record.partitions(), members)?)
    }

    /// What of the configured layout is not as in the backup, in words.
    fn differences(&self, partitions: u32, config: &Config) -> Vec<String> {
        let mut all = Vec::new();
        let was = self.record.partitions();
        if partitions != was {
            all.push(format!("partitions is {partitions} and was {was}"));
        }
        let n = config.defaults.properties().n;
        if n != self.default_n {
            all.push(format!("defaults.n is {n} and was {}", self.default_n));
        }
        for was in self.record.stable() {
            match config.layout_nodes().iter().find(|is| is.name == was.node) {
                None => all.push(format!("{} is missing", was.node)),
                Some(is) if is.zone != was.zone => {
                    all.push(format!(
                        "{} is in zone {:?} and was in {:?}",
                        is.name, is.zone, was.zone
                    ));
                }
                Some(is) if is.weight != was.weight => {
                    all.push(format!(
                        "{} has weight {} and had {}",
                        is.name, is.weight, was.weight
                    ));
                }
                Some(_) => {}
            }
        }
        let was_there = |is: &NodeId| self.record.stable().iter().any(|was| was.node == *is);
        let new = config.layout_nodes().iter().map(|node| node.name).filter(|is| !was_there(is));
        all.extend(new.map(|node| format!("{node} is new")));
        all
    }

    /// Checks that this is what the node of the configuration can go on with as a seed.
    ///
    /// # Errors
    /// [`RestoreError::OtherCluster`], [`RestoreError::OtherNode`].
    pub fn check_seed(&self, config: &Config, copy: NodeId) -> Result<(), RestoreError> {
        if config.cluster_id != self.cluster_id {
            let (backup, configured) = (self.cluster_id.clone(), config.cluster_id.clone());
            return Err(RestoreError::OtherCluster { backup, configured });
        }
        self.check_node(config, copy)
    }

    /// Checks that a copy is of the node of the configuration.
    ///
    /// # Errors
    /// [`RestoreError::OtherNode`].
    pub fn check_node(&self, config: &Config, copy: NodeId) -> Result<(), RestoreError> {
        match copy == config.node {
            true => Ok(()),
            false => Err(RestoreError::OtherNode { copy, configured: config.node }),
        }
    }

    /// Has the copy in the data directory go on as the same node of the same cluster: as one that was told
    /// by its peers that it is behind. They might not notice, as the numbers of changes count what a
    /// restore does as well. So it becomes another disk, without the votes that it forgot, and fills. Its
    /// rows save traffic; those that are too old to be believed are set aside, as ever. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn seed(
        &self,
        config: &Config,
        (files, dir): (&dyn Files, &DataDir),
    ) -> Result<(), RestoreError> {
        let store = self.open(config, &self.cluster_id, dir)?;
        Generation::begin_over(&store)?;
        files::forget_votes(files)?;
        // The first one follows from the configuration, as ever.
        if self.record.parent() != RecordHash::NONE {
            files::store_record(files, &self.record)?;
        }
        Ok(())
    }

    /// Makes a node of a new cluster of the copy in the data directory, or of nothing if there is none:
    /// then it fills from the others. Its disk is new, and so are its incarnation, and with that its
    /// actors. `now`: by the machine's clock. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn found(
        &self,
        config: &Config,
        (files, dir): (&dyn Files, &DataDir),
        (has_copy, now): (bool, WallTime),
    ) -> Result<ClusterRecord, RestoreError> {
        let record = self.first_record(config)?;
        let placement = Arc::new(placement_of(&record));
        let layout = placement.layout();
        let was = if has_copy { &self.cluster_id } else { &config.cluster_id };
        let store = self.open(config, was, dir)?;
        let n = config.defaults.properties().n;
        buckets::check_default_n(&store, (n, layout.node_count()), true)?;
        let filled = FillState::load(&store, record.partitions())?;
        filled.forget_move(&store)?;
        if !has_copy {
            filled.record_all(&store, false)?;
        }
        Generation::begin_anew(&store, record.epoch(), now, filled.is_complete())?;
        Restored::begin(&store, self.began_at)?;
        set_aside::forget_decision(&store)?;
        placement::remember(&store, layout)?;
        store.put_meta(FORMATION_RECORD, &self.formation(config).0)?;
        // Those of the old cluster open nothing in this one.
        tokens::forget_all(&store)?;
        if has_copy {
            store.give_to_cluster(&config.cluster_id)?;
        }
        drop(store);
        let disk = record.member(config.node).map(|member| member.disk).unwrap_or(DiskId(0));
        files::store_disk(files, disk)?;
        let votes = Acceptor::restore(disk, record.clone(), None)?.state();
        files::store_votes(files, &votes)?;
        files::store_record(files, &record)?;
        Ok(record)
    }

    fn open(&self, config: &Config, cluster_id: &str, dir: &DataDir) -> Result<Store, OpenError> {
        let options = Options {
            disk_free_bytes_min: 0, // it may be a disk that has room for little else
            ..Options::new(config.node, cluster_id, self.record.partitions())
        };
        Store::open_in(dir, options)
    }
}
