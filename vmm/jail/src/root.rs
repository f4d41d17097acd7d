//! Step: a root directory that is empty and stays so.

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, pivot_root};

use crate::JailError;

/// Directory that every host has; the new root covers it for a moment.
const COVERED: &str = "/proc";

/// Replaces the root by an empty, read-only tmpfs and detaches everything else.
pub(crate) fn empty() -> Result<(), JailError> {
    // Nothing may propagate back to the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(fail("make mounts private"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", COVERED, "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=0555"))
        .map_err(fail("mount the new root"))?;
    chdir(COVERED).map_err(fail("enter the new root"))?;
    // With both names the same the old root ends up on top of the new one (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(fail("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(fail("detach the old root"))?;
    chdir("/").map_err(fail("enter the root"))?;
    debug_assert!(
        rustix::fs::statat(CWD, "proc", rustix::fs::AtFlags::empty()).is_err(),
        "the root is not empty"
    );
    Ok(())
}

fn fail(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Root {
        step,
        source: errno.into(),
    }
}
