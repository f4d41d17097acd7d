//! Tasks that the agent performs in a container itself, in place of a program: `cp`, `export`, `diff`, and the
//! preparation of volumes.
//!
//! The process that performs a task is a container's init, or one that joined: single-threaded, in the container's
//! namespaces, with the container's root as root. The container is hostile and may run: every path is resolved
//! [`beneath`](crate::beneath) the root, and from there on a name at a time without following links.

mod compare;
mod target;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use capsid_archive::{PackError, Packer, UnpackError, Unpacking};
use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::task::Kind;
use capsid_protocol::spec::{Pack, Unpack};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::beneath::Root;
use crate::disk::DiskError;
use crate::{log, sys};
use compare::{CompareError, Disks};
use target::TargetError;

/// Task with the parts of the agent's folders that it needs.
pub(crate) enum Prepared {
    Pack(Pack),
    Unpack(Unpack),
    Export,
    Compare(Disks),
    Mount,
}

/// Error of a task. The messages reach the user.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    /// A path cannot be opened.
    #[error("{path}: {}", said(*.errno))]
    Path { path: String, errno: Errno },
    /// The files cannot be packed.
    #[error(transparent)]
    Pack(PackError),
    /// The archive cannot be unpacked.
    #[error(transparent)]
    Unpack(UnpackError),
    /// The target of the archive is refused.
    #[error(transparent)]
    Target(TargetError),
    /// The root cannot be opened.
    #[error("cannot open the container's root")]
    Root(#[source] Errno),
    /// The differences cannot be listed.
    #[error(transparent)]
    Compare(CompareError),
    /// The streams cannot be used.
    #[error("cannot use the streams")]
    Streams(#[source] Errno),
    /// The data after the archive cannot be read.
    #[error("cannot read the rest of the archive")]
    Drain(#[source] io::Error),
}

/// Formats an error in the words that docker's users know.
fn said(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".into(),
        Errno::NOTDIR => "not a directory".into(),
        errno => io::Error::from(errno).to_string(),
    }
}

/// Opens what the task cannot reach from within the container.
pub(crate) fn prepare(kind: Kind, spec: &ContainerSpec) -> Result<Prepared, DiskError> {
    Ok(match kind {
        Kind::Pack(pack) => Prepared::Pack(pack),
        Kind::Unpack(unpack) => Prepared::Unpack(unpack),
        Kind::Export(_) => Prepared::Export,
        Kind::Compare(_) => Prepared::Compare(Disks::open(spec)?),
        Kind::Mount(_) => Prepared::Mount,
    })
}

/// Performs the task. Returns the exit code.
pub(crate) fn execute(root: &Root, task: Prepared) -> i32 {
    match run(root, task) {
        Ok(()) => 0,
        Err(error) => {
            // Nobody can be notified if the host is gone.
            let _ = writeln!(io::stderr(), "{}", log::chain(&error));
            1
        }
    }
}

fn run(root: &Root, task: Prepared) -> Result<(), TaskError> {
    let stream = |number| {
        sys::take_standard_stream(number)
            .map(File::from)
            .map_err(TaskError::Streams)
    };
    match task {
        Prepared::Pack(pack) => {
            let mut packer = Packer::new(io::BufWriter::new(stream(1)?));
            pack_path(root, &pack, &mut packer)?;
            packer.finish().map(drop).map_err(TaskError::Pack)
        }
        Prepared::Export => {
            let mut packer = Packer::new(io::BufWriter::new(stream(1)?));
            packer.add_opened(bare_root(root)?, b"").map_err(TaskError::Pack)?;
            packer.finish().map(drop).map_err(TaskError::Pack)
        }
        Prepared::Unpack(unpack) => {
            let mut input = stream(0)?;
            let (folder, placing) = target::find(root, &unpack).map_err(TaskError::Target)?;
            let unpacking = Unpacking {
                placing,
                keep_owners: unpack.keep_owners,
                keep_privileges: true,
                make_devices: true,
            };
            unpacking.unpack(&mut input, folder).map_err(TaskError::Unpack)?;
            // The sender must not see a broken stream because of the zeros after the archive's end.
            io::copy(&mut input, &mut io::sink())
                .map(drop)
                .map_err(TaskError::Drain)
        }
        Prepared::Compare(disks) => {
            let mut output = io::BufWriter::new(stream(1)?);
            disks.compare(&mut output).map_err(TaskError::Compare)
        }
        Prepared::Mount => Ok(()),
    }
}

/// Opens the root's own filesystem, without the mounts over it.
fn bare_root(root: &Root) -> Result<OwnedFd, TaskError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(root.folder(), ".", flags).map_err(TaskError::Root)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&tree, ".", flags, rustix::fs::Mode::empty()).map_err(TaskError::Root)
}

fn pack_path(root: &Root, pack: &Pack, packer: &mut Packer<impl Write>) -> Result<(), TaskError> {
    let path = Path::new(OsStr::from_bytes(&pack.path));
    let failed = |errno| TaskError::Path {
        path: path.display().to_string(),
        errno,
    };
    // NONBLOCK: a FIFO must not hang us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let wants_content = pack.path.ends_with(b"/") || pack.path.ends_with(b"/.");
    // `..` at the end has no name of its own either.
    let Some(name) = path.file_name().filter(|_| !wants_content) else {
        let folder = root.open(path, flags | OFlags::DIRECTORY).map_err(failed)?;
        return packer.add_opened(folder, b".").map_err(TaskError::Pack);
    };
    if pack.follow {
        let file = root.open(path, flags).map_err(failed)?;
        return packer.add_opened(file, name.as_bytes()).map_err(TaskError::Pack);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let folder = root.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
    match packer.add(folder, name, name.as_bytes()) {
        Err(PackError::Read {
            source: Errno::NOENT, ..
        }) => Err(failed(Errno::NOENT)),
        packed => packed.map_err(TaskError::Pack),
    }
}
