//! A container's root, made by executing a [`plan`](crate::plan): every target is a descriptor resolved
//! [`beneath`](crate::beneath) the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use capsid_protocol::ContainerSpec;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::disk::STAGING;
use crate::limits::TMPFS_BOUNDS;
use crate::mount::{MountError, attach, bind, clone_mount, filesystem};
use crate::plan::{Step, attribute};
use crate::pod;
use crate::populate::{PopulateError, populate};
use crate::share::{self, ShareError};
use crate::sys;
use crate::terminal::{Terminal, TerminalError};
use crate::volume::{self, VolumeError};

/// Error of a step of the plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The target cannot be resolved or made.
    #[error("cannot make the target {path}")]
    Target { path: PathBuf, source: Errno },
    /// A filesystem could not be mounted.
    #[error("cannot mount {path}")]
    Mount { path: PathBuf, source: MountError },
    /// A volume could not be mounted.
    #[error("cannot mount the volume at {path}")]
    Volume { path: PathBuf, source: VolumeError },
    /// A folder or file of the host could not be mounted.
    #[error("cannot mount what the host shares at {path}")]
    Share { path: PathBuf, source: ShareError },
    /// The image's files could not be copied into a tmpfs.
    #[error("cannot copy the image's files into {path}")]
    Populate { path: PathBuf, source: PopulateError },
    /// A device node could not be made.
    #[error("cannot make the device {path}")]
    Device { path: PathBuf, source: Errno },
    /// A link could not be made.
    #[error("cannot make the link {path}")]
    Link { path: PathBuf, source: Errno },
    /// A path could not be bound or made read-only.
    #[error("cannot bind {path}")]
    Bind { path: PathBuf, source: Errno },
    /// A small file could not be written.
    #[error("cannot write the file for {path}")]
    File { path: PathBuf, source: Errno },
    /// The working directory could not be made.
    #[error("cannot make the working directory {path}")]
    WorkingDirectory { path: PathBuf, source: Errno },
    /// The terminal could not be opened.
    #[error("cannot open the terminal")]
    Terminal(#[source] TerminalError),
}

/// Executes `steps` in `root`. Returns the terminal if one was opened.
pub(crate) fn execute(root: &Root, steps: &[Step], spec: &ContainerSpec) -> Result<Option<Terminal>, StepError> {
    let mut terminal = None;
    for step in steps {
        match step {
            Step::Mount {
                target,
                filesystem,
                options,
                attributes,
                populate,
            } => {
                mount_one(root, target, (filesystem, options, *attributes), *populate)?;
            }
            Step::Volume {
                target,
                serial,
                attributes,
                populate,
            } => {
                mount_volume(root, target, serial, *attributes, *populate)?;
            }
            Step::Shm { target, attributes } => bind_shm(root, target, *attributes)?,
            Step::Share {
                target,
                tag,
                is_file,
                attributes,
            } => {
                let place = if *is_file {
                    root.file_at(target)
                } else {
                    root.folder_at(target)
                };
                let place = place.map_err(target_failed(target))?;
                let mounted = share::mount(tag, &place, *is_file, *attributes);
                mounted.map_err(|source| StepError::Share {
                    path: target.clone(),
                    source,
                })?;
            }
            Step::Device {
                path,
                block,
                major,
                minor,
                mode,
            } => make_device(root, path, *block, (*major, *minor), *mode)?,
            Step::Link { path, to } => make_link(root, path, to)?,
            Step::Terminal => terminal = Some(open_terminal(root)?),
            Step::File { path, index } => bind_file(root, path, *index, &spec.files[*index])?,
            Step::WorkingDirectory { path } => {
                let failed = |source| StepError::WorkingDirectory {
                    path: path.clone(),
                    source,
                };
                root.folder_at(path).map_err(failed)?;
            }
            Step::Mask { path } => mask(root, path)?,
            Step::ReadOnly { path } => make_readonly(root, path)?,
            Step::ReadOnlyRoot => {
                sys::set_mount_attributes(root.folder(), attribute::READONLY, false).map_err(bind_failed("/"))?;
            }
        }
    }
    Ok(terminal)
}

fn target_failed(path: impl AsRef<Path>) -> impl Fn(Errno) -> StepError {
    move |source| StepError::Target {
        path: path.as_ref().to_owned(),
        source,
    }
}

fn bind_failed(path: impl AsRef<Path>) -> impl Fn(Errno) -> StepError {
    move |source| StepError::Bind {
        path: path.as_ref().to_owned(),
        source,
    }
}

/// Mounts one volume of the plan.
fn mount_volume(root: &Root, target: &Path, serial: &str, attributes: u64, populate: bool) -> Result<(), StepError> {
    let place = root.folder_at(target).map_err(target_failed(target))?;
    let content = image_folder(root, target, populate).map_err(target_failed(target))?;
    let mounted = volume::mount(serial, &place, attributes, content.as_ref());
    mounted.map_err(|source| StepError::Volume {
        path: target.to_owned(),
        source,
    })
}

/// Mounts one filesystem of the plan.
fn mount_one(
    root: &Root,
    target: &Path,
    (kind, options, attributes): (&'static str, &[(&'static str, String)], u64),
    wants_copy: bool,
) -> Result<(), StepError> {
    let failed = |source| StepError::Mount {
        path: target.to_owned(),
        source,
    };
    let place = root.folder_at(target).map_err(target_failed(target))?;
    // `/proc/mounts` shows the source first.
    let options: Vec<(&str, &str)> = [("source", kind)]
        .into_iter()
        .chain(options.iter().map(|(k, v)| (*k, v.as_str())))
        .collect();
    // Writable while the files are copied.
    let first = if wants_copy {
        attributes & !attribute::READONLY
    } else {
        attributes
    };
    let mount = filesystem(kind, &options, &[], first).map_err(failed)?;
    if wants_copy {
        if let Some(content) = image_folder(root, target, true).map_err(target_failed(target))? {
            populate(&content, &mount, TMPFS_BOUNDS).map_err(|source| StepError::Populate {
                path: target.to_owned(),
                source,
            })?;
        }
        sys::set_mount_attributes(mount.as_fd(), attributes, false).map_err(bind_failed(target))?;
    }
    attach(&mount, &place, "").map_err(failed)
}

/// Opens the folder that the image itself has at `path`, if a copy of it is wanted and there is one. The path is
/// resolved in the root's own filesystem, without the mounts over it: a link of the image that leads into `/proc`,
/// `/sys` or another volume finds the image's own content there, mostly nothing, and never anything that is about to be
/// masked.
fn image_folder(root: &Root, path: &Path, is_wanted: bool) -> Result<Option<OwnedFd>, Errno> {
    if !is_wanted {
        return Ok(None);
    }
    let bare = Root::new(clone_mount(root.folder(), false)?);
    match bare.open(path, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes one device node; an existing file of the image at the path is removed.
fn make_device(root: &Root, path: &Path, block: bool, (major, minor): (u32, u32), mode: u32) -> Result<(), StepError> {
    let failed = |source| StepError::Device {
        path: path.to_owned(),
        source,
    };
    let (folder, name) = root.parent_of(path).map_err(target_failed(path))?;
    let kind = if block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(failed(e)),
    }
    // The umask of a container init is 0 until its program starts, so the mode arrives whole.
    let mode = Mode::from_raw_mode(mode & 0o7777);
    rustix::fs::mknodat(&folder, &name, kind, mode, rustix::fs::makedev(major, minor)).map_err(failed)
}

/// Makes one link, unless something is there.
fn make_link(root: &Root, path: &Path, to: &str) -> Result<(), StepError> {
    let (folder, name) = root.parent_of(path).map_err(target_failed(path))?;
    match rustix::fs::symlinkat(to, &folder, &name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(StepError::Link {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Binds the pod's shared memory.
fn bind_shm(root: &Root, target: &Path, attributes: u64) -> Result<(), StepError> {
    let place = root.folder_at(target).map_err(target_failed(target))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shm = rustix::fs::open(pod::SHM, flags, Mode::empty()).map_err(bind_failed(target))?;
    bind(&shm, &place, attributes, false).map_err(bind_failed(target))
}

/// Writes a small file to the staging tmpfs and binds it.
fn bind_file(root: &Root, path: &Path, index: usize, file: &capsid_protocol::spec::File) -> Result<(), StepError> {
    let failed = |source| StepError::File {
        path: path.to_owned(),
        source,
    };
    let staged = Path::new(STAGING).join(format!("file-{index}"));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let source = rustix::fs::openat(CWD, &staged, flags, Mode::from_raw_mode(file.mode & 0o777)).map_err(failed)?;
    let mut rest = file.content.as_slice();
    while !rest.is_empty() {
        let n = rustix::io::write(&source, rest).map_err(failed)?;
        rest = &rest[n..];
    }
    let place = root.file_at(path).map_err(target_failed(path))?;
    bind(&source, &place, 0, false).map_err(bind_failed(path))
}

/// Covers an existing `path`: a folder with an empty one, anything else with the null device.
fn mask(root: &Root, path: &Path) -> Result<(), StepError> {
    let Some(place) = root.find(path).map_err(target_failed(path))? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&place).map_err(target_failed(path))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let attributes = attribute::READONLY | attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;
        let failed = |source| StepError::Mount {
            path: path.to_owned(),
            source,
        };
        let empty = filesystem("tmpfs", &[("size", "0"), ("nr_inodes", "1")], &[], attributes).map_err(failed)?;
        return attach(&empty, &place, "").map_err(failed);
    }
    let null = null_device(OFlags::PATH).map_err(bind_failed(path))?;
    bind(&null, &place, attribute::NOSUID | attribute::NOEXEC, false).map_err(bind_failed(path))
}

/// Makes a null device in the staging tmpfs: the image's `/dev/null` might be anything, and the agent's own is not
/// lent.
pub(crate) fn null_device(flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = Path::new(STAGING).join("null");
    match rustix::fs::mknodat(
        CWD,
        &path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    ) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Makes an existing `path` and all mounts below it read-only.
fn make_readonly(root: &Root, path: &Path) -> Result<(), StepError> {
    let Some(place) = root.find(path).map_err(target_failed(path))? else {
        return Ok(());
    };
    bind(&place, &place, attribute::READONLY, true).map_err(bind_failed(path))
}

/// Opens the terminal in the container's devpts and binds it to `/dev/console`.
fn open_terminal(root: &Root) -> Result<Terminal, StepError> {
    let terminal = Terminal::open(root).map_err(StepError::Terminal)?;
    let console = Path::new("/dev/console");
    let place = root.file_at(console).map_err(target_failed(console))?;
    let pts = PathBuf::from(format!("/dev/pts/{}", terminal.number));
    let source = root.open(&pts, OFlags::PATH).map_err(target_failed(&pts))?;
    bind(&source, &place, 0, false).map_err(bind_failed(console))?;
    Ok(terminal)
}

/// Changes the owner of an open file to `uid`, keeping its group.
pub(crate) fn give_to(file: impl AsFd, uid: u32) -> Result<(), Errno> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), None::<Gid>)
}
