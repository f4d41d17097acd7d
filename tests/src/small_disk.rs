//! Data folder that fills up.

use std::fs;
use std::path::PathBuf;

use crate::capsid::Capsid;

/// Data folder with a size limit of its own, as long as the value lives.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts the folder; `None` if this process may not mount.
    pub fn mount(capsid: &Capsid, bytes: u64) -> Option<Self> {
        let folder = capsid.folder("data");
        let options = format!("size={bytes},mode=0700");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), &folder, Some("tmpfs"), flags, Some(options.as_str())).ok()?;
        Some(Self(folder))
    }

    /// Fills the folder so that only `left` bytes remain.
    pub fn fill(&self, left: u64) {
        self.empty();
        let free = nix::sys::statvfs::statvfs(&self.0).expect("a small disk");
        let bytes = (free.blocks_available() * free.fragment_size()).saturating_sub(left);
        let file = fs::File::create(self.filler()).expect("a small disk");
        // Fills less than requested if the last page does not fit.
        let _ = nix::fcntl::posix_fallocate(&file, 0, i64::try_from(bytes).expect("a small disk"));
    }

    /// Fills the folder after using up the room that Capsid holds back for a full disk.
    pub fn exhaust(&self, left: u64) {
        let _ = fs::remove_file(self.0.join("reserve"));
        self.fill(left);
    }

    /// Frees everything that filled the folder.
    pub fn empty(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Pods that a failed test left behind may use it.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
