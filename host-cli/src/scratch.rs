//! Scratch disks, the writable half of a container's root, and the disks of volumes.
//!
//! Each is a sparse ext4 image copied from a template that `mkfs.ext4` formats once. A scratch disk stays with its
//! container, which starts again with everything that it had written; a volume stays until it is removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capsid_image::own_file;
use rustix::fs::{FlockOperation, SeekFrom};

/// Most bytes that a container can write: docker's storage drivers with a quota default to the same 10 GB.
pub(crate) const SCRATCH_BYTES: u64 = 10 << 30;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Most bytes that a volume can hold. The disk is sparse: only written data takes space.
const VOLUME_BYTES: u64 = 10 << 30;

/// Disk to copy, with its format options.
#[derive(Debug)]
struct Template {
    /// File name in the data folder. Changes together with the options, so that an old template is not used.
    name: &'static str,
    bytes: u64,
    /// Number of bytes of the disk for each inode.
    inode_ratio: &'static str,
    features: &'static str,
    more: &'static [&'static str],
}

/// Template for a container with `--rm`. No journal: the disk is deleted with its machine. Few inodes keep the first
/// mount short.
const TRANSIENT: Template = Template {
    name: "scratch-v1.ext4",
    bytes: SCRATCH_BYTES,
    inode_ratio: "65536",
    features: "^has_journal,^resize_inode,sparse_super2,flex_bg,uninit_bg,metadata_csum",
    more: &[],
};

/// Template for a container that stays. With a journal: after a machine was killed, the next one mounts the disk in the
/// state of its last `sync`. The journal's blocks are overwritten again and again, so a small one keeps the disk small
/// on the host.
const KEPT: Template = Template {
    name: "scratch-journal-v1.ext4",
    bytes: SCRATCH_BYTES,
    inode_ratio: "65536",
    features: "has_journal,^resize_inode,sparse_super2,flex_bg,uninit_bg,metadata_csum",
    more: &["-J", "size=16", "-E", "lazy_journal_init=1"],
};

/// Template for a volume: like [`KEPT`], for more and smaller files.
const VOLUME: Template = Template {
    name: "volume-v1.ext4",
    bytes: VOLUME_BYTES,
    inode_ratio: "16384",
    features: KEPT.features,
    more: &["-J", "size=32", "-E", "lazy_journal_init=1"],
};

/// Time limit for the processes of a machine whose supervisor was killed to end.
const LAST_MACHINE_WAIT: Duration = Duration::from_secs(5);
/// Interval between checks whether those processes have ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Reason why there is no disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    #[error("cannot prepare the disk template {path}")]
    Template {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the container's disk {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the container's disk {path} is still in use by a machine whose supervisor was killed")]
    InUse { path: PathBuf },
    #[error("cannot start mkfs.ext4 (install e2fsprogs)")]
    StartFormat(#[source] io::Error),
    #[error("mkfs.ext4 failed: {message}")]
    Format { message: String },
    #[error("cannot make the disk {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Creates a scratch disk at `path`, for one run of a container or for many.
pub(crate) fn create(data: &Path, path: &Path, is_transient: bool) -> Result<(), ScratchError> {
    copy(data, if is_transient { &TRANSIENT } else { &KEPT }, path).map(drop)
}

/// Creates a volume's disk at `path`, durable on return except for the folder's entry.
pub(crate) fn create_volume(data: &Path, path: &Path) -> Result<(), ScratchError> {
    let disk = copy(data, &VOLUME, path)?;
    disk.sync_all().map_err(|source| ScratchError::Make {
        path: path.into(),
        source,
    })
}

fn copy(data: &Path, template: &Template, path: &Path) -> Result<File, ScratchError> {
    let template = prepared(data, template)?;
    let make = || {
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        copy_sparse(&template, &disk)?;
        Ok(disk)
    };
    make().map_err(|source| ScratchError::Make {
        path: path.into(),
        source,
    })
}

/// Opens a scratch disk for a machine. Its lock belongs to the open file, which the machine's processes have too: a
/// machine whose supervisor was killed a moment ago still writes until it has ended, and two writers destroy a disk.
pub(crate) fn open(path: &Path) -> Result<File, ScratchError> {
    let failed = |source| ScratchError::Open {
        path: path.into(),
        source,
    };
    let mut options = OpenOptions::new();
    let file = own_file::open(path, options.read(true).write(true)).map_err(failed)?;
    let deadline = Instant::now() + LAST_MACHINE_WAIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ScratchError::InUse { path: path.into() }),
            Err(e) => return Err(failed(e.into())),
        }
    }
}

/// Returns the template, formatted when it does not exist yet. Only one process formats; the rename makes the complete
/// file visible.
fn prepared(data: &Path, template: &Template) -> Result<File, ScratchError> {
    let path = data.join(template.name);
    let failed = |source| ScratchError::Template {
        path: path.clone(),
        source,
    };
    match own_file::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        found => return found.map_err(failed),
    }
    let lock = own_file::lock_file(&data.join("scratch.lock")).map_err(failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    if let Ok(made_meanwhile) = own_file::read(&path) {
        return Ok(made_meanwhile);
    }
    let temporary = data.join("scratch.tmp");
    format(template, &temporary)?;
    let file = own_file::read(&temporary).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&temporary, &path).map_err(failed)?;
    Ok(file)
}

/// Formats `path`. Without reserved blocks, and with tables that are zero already, a template takes a few hundred KiB.
fn format(template: &Template, path: &Path) -> Result<(), ScratchError> {
    let failed = |source| ScratchError::Template {
        path: path.into(),
        source,
    };
    let file = own_file::create(path).map_err(failed)?;
    file.set_len(template.bytes).map_err(failed)?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-i", template.inode_ratio])
        .args(["-I", "256", "-b", "4096", "-O", template.features])
        .args(template.more)
        .args([
            "-E",
            "lazy_itable_init=1,assume_storage_prezeroed=1,packed_meta_blocks=1,root_owner=0:0,nodiscard",
        ])
        .arg(path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(ScratchError::StartFormat)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ScratchError::Format { message })
}

/// Copies the data of `from` and leaves its holes; shares the blocks where the filesystem can.
fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let bytes = from.metadata()?.len();
    to.set_len(bytes)?;
    let mut buffer = vec![0u8; COPY_BYTES];
    let mut offset = 0;
    while let Some(data) = seek(from, SeekFrom::Data(offset))? {
        let hole = seek(from, SeekFrom::Hole(data))?.unwrap_or(bytes);
        offset = data;
        while offset < hole {
            let chunk = buffer.len().min((hole - offset) as usize);
            from.read_exact_at(&mut buffer[..chunk], offset)?;
            to.write_all_at(&buffer[..chunk], offset)?;
            offset += chunk as u64;
        }
    }
    Ok(())
}

/// Calls `lseek`; "no more data" is `None`.
fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(offset) => Ok(Some(offset)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(io::Error::other(format!("lseek on fd {}: {e}", file.as_raw_fd()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let folder = tempfile::tempdir().unwrap();
        let from = tempfile::tempfile_in(&folder).unwrap();
        let to = tempfile::tempfile_in(&folder).unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"end", (64 << 20) - 3).unwrap();
        copy_sparse(&from, &to).unwrap();
        let mut tail = [0u8; 3];
        to.read_exact_at(&mut tail, (64 << 20) - 3).unwrap();
        assert_eq!(&tail, b"end");
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        use std::os::unix::fs::MetadataExt;
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "holes were filled");
    }
}
