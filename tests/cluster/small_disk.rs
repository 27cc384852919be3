//! A disk that can be filled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file system of a node's data directory: a small one, in memory. Unmounted when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts it in a node's directory, which only root can do.
    pub(crate) fn mount(directory: &Path, mib: u32) -> Option<Self> {
        let data = directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let size = format!("size={mib}m");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&data).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(data))
    }

    /// Fills it to the last block.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        for piece in [1 << 20, 1 << 12] {
            while std::io::Write::write_all(&mut filler, &vec![0; piece]).is_ok() {}
        }
    }

    /// Frees the space again.
    pub(crate) fn empty(&self) {
        drop(std::fs::remove_file(self.0.join("filler")));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
