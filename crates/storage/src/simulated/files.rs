//! The files beside the database on a simulated disk: the clean-stop marker, the reserve, the sets of
//! rows that were set aside, and backups.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::SimulatedDisk;
use crate::incarnation::Identity;

/// The free space of a disk until it is set, in bytes: more than any watermark.
const FREE_BYTES: u64 = 1 << 60;

impl SimulatedDisk {
    pub(crate) fn free_bytes(&self) -> u64 {
        self.lock().contents.files.free_bytes
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.lock().contents.database.log_bytes()
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.lock().contents.files.reserve_bytes
    }

    pub(crate) fn allocate_reserve(&self, bytes: u64) -> io::Result<()> {
        self.lock().contents.files.allocate_reserve(bytes)
    }

    pub(crate) fn release_reserve(&self) {
        self.lock().contents.files.release_reserve();
    }

    /// The manifests of the backups on it, by name.
    pub(crate) fn backups(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        let all = state.contents.files.backups.iter();
        all.filter_map(|(name, backup)| Some((name.clone(), backup.manifest.clone()?))).collect()
    }

    pub(crate) fn backup_disk(&self, name: &str) -> Option<Self> {
        let state = self.lock();
        let backup = state.contents.files.backups.get(name)?;
        backup.manifest.as_ref().map(|_| backup.disk.clone())
    }

    pub(crate) fn remove_unfinished_backups(&self) {
        self.lock().contents.files.backups.retain(|_, backup| backup.manifest.is_some());
    }

    /// Makes a copy a backup. Returns whether there is one.
    pub(crate) fn finish_backup(&self, name: &str, manifest: &[u8]) -> bool {
        let mut state = self.lock();
        let backup = state.contents.files.backups.get_mut(name);
        backup.map(|backup| backup.manifest = Some(manifest.to_owned())).is_some()
    }

    /// Removes a backup. Returns whether there was one.
    pub(crate) fn remove_backup(&self, name: &str) -> bool {
        self.lock().contents.files.backups.remove(name).is_some()
    }

    /// Writes the clean-stop marker durably.
    pub(crate) fn write_marker(&self, text: impl FnOnce(&Identity) -> String) {
        self.lock().contents.files.write_marker(text);
    }

    /// Removes the clean-stop marker durably. Returns whether it had the text that it would have if
    /// it were written now.
    pub(crate) fn take_marker(&self, text: impl FnOnce(&Identity) -> String) -> bool {
        self.lock().contents.files.take_marker(text)
    }
}

pub(super) struct Files {
    /// Identifies the directory: no copy has the same.
    directory: u64,
    /// How many identities have been given out, or taken from it by copies.
    identities: u64,
    /// How often the machine has restarted.
    restarts: u64,
    marker: Option<Marker>,
    pub(super) free_bytes: u64,
    reserve_bytes: u64,
    sets: BTreeMap<String, SimulatedDisk>,
    backups: BTreeMap<String, Backup>,
}

/// A backup, or one that is being made.
#[derive(Clone)]
struct Backup {
    disk: SimulatedDisk,
    /// Once it is whole.
    manifest: Option<Vec<u8>>,
}

/// The clean-stop marker.
#[derive(Clone)]
struct Marker {
    identity: u64,
    text: String,
}

impl Files {
    pub(super) fn new(directory: u64) -> Self {
        Self {
            directory,
            identities: 0,
            restarts: 0,
            marker: None,
            free_bytes: FREE_BYTES,
            reserve_bytes: 0,
            sets: BTreeMap::new(),
            backups: BTreeMap::new(),
        }
    }

    fn next_identity(&mut self) -> u64 {
        self.identities += 1;
        xxh3_64_with_seed(&self.directory.to_le_bytes(), self.identities)
    }

    pub(super) fn restart(&mut self) {
        self.restarts += 1;
    }

    pub(super) fn wipe(&mut self) {
        self.each_set(SimulatedDisk::wipe);
        let mut wiped = Self::new(self.next_identity());
        (wiped.restarts, wiped.free_bytes) = (self.restarts, self.free_bytes + self.reserve_bytes);
        *self = wiped;
    }

    /// The files of a copy, which have other identities. A copy of a reserve is sparse: it takes no
    /// space.
    pub(super) fn copy(&mut self) -> Self {
        let mut copy = Self::new(self.next_identity());
        copy.marker = self.marker.clone();
        if let Some(marker) = &mut copy.marker {
            marker.identity = copy.directory;
        }
        copy.sets = self.sets.iter().map(|(name, set)| (name.clone(), set.copy())).collect();
        copy
    }

    /// Replaces the files by those of a copy that nobody else uses.
    pub(super) fn restore(&mut self, copy: &Self) {
        self.wipe();
        let identity = self.next_identity();
        self.marker = copy.marker.as_ref().map(|from| Marker { identity, text: from.text.clone() });
        self.sets = copy.sets.clone();
    }

    fn write_marker(&mut self, text: impl FnOnce(&Identity) -> String) {
        let identity = self.next_identity();
        let text = text(&self.identity(identity));
        self.marker = Some(Marker { identity, text });
    }

    fn take_marker(&mut self, text: impl FnOnce(&Identity) -> String) -> bool {
        let marker = self.marker.take();
        marker.is_some_and(|marker| marker.text == text(&self.identity(marker.identity)))
    }

    fn identity(&self, marker: u64) -> Identity {
        Identity {
            directory: format!("{:016x}", self.directory),
            marker: format!("{marker:016x}"),
            boot: self.restarts.to_string(),
        }
    }

    fn allocate_reserve(&mut self, bytes: u64) -> io::Result<()> {
        let missing = bytes.saturating_sub(self.reserve_bytes);
        let left = self.free_bytes.checked_sub(missing).ok_or(ErrorKind::StorageFull)?;
        (self.free_bytes, self.reserve_bytes) = (left, self.reserve_bytes + missing);
        Ok(())
    }

    fn release_reserve(&mut self) {
        self.free_bytes += std::mem::take(&mut self.reserve_bytes);
    }

    pub(super) fn sets(&self) -> BTreeMap<String, SimulatedDisk> {
        self.sets.clone()
    }

    pub(super) fn add_set(&mut self, name: &str, set: SimulatedDisk) {
        self.sets.insert(name.to_owned(), set);
    }

    pub(super) fn remove_set(&mut self, name: &str) -> bool {
        self.sets.remove(name).is_some()
    }

    pub(super) fn begin_backup(&mut self, name: &str, disk: SimulatedDisk) {
        self.backups.insert(name.to_owned(), Backup { disk, manifest: None });
    }

    pub(super) fn each_set(&self, visit: impl Fn(&SimulatedDisk)) {
        self.sets.values().for_each(visit);
    }
}
