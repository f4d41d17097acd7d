//! Folders and files of the host that containers have: which may be shared, and which are served to a machine.
//!
//! A share may be read by the guest's root and, unless it is read-only, changed. So nothing is shared on which others
//! than this container rely: not the whole host, not Capsid's own folders, not the kernel's.

mod secrets;
mod sockets;

use std::fs::{self, DirBuilder, FileType};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::accelerator::{Share, StartError, serve_files};
use crate::container_lock;
use crate::ephemeral_socket;
use crate::folders::Folders;
use crate::model::ShareMount;
use crate::mounts::{Mount, MountTable, Relation};
use crate::plan::{Bind, FoundSource};
use crate::process::Sidecar;

/// Folders of the kernel.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Filesystems of the kernel, which may be mounted anywhere.
const KERNELS_KINDS: [&str; 14] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// Reason why a folder or file cannot be shared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("cannot share {path}: it does not exist (only -v makes missing folders)")]
    Absent { path: String },
    #[error("cannot make the folder {path} to share")]
    Make {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot look at {path} to share it")]
    Look {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot share {path}: its name is not UTF-8")]
    Name { path: PathBuf },
    #[error("cannot share {path}: it is neither a folder nor a regular file")]
    Kind { path: String },
    #[error(
        "cannot share {path}: it is a socket, and a container, which has a kernel of its own, cannot connect to what listens there; let that listen at a TCP port too, and reach it with --network host or --egress"
    )]
    IsSocket { path: String },
    #[error("cannot share {path}: {holds} {what}, which no container may have")]
    Refused {
        path: String,
        /// Relation in words: `it is` or `it holds` or `it is in`.
        holds: &'static str,
        what: String,
    },
    #[error("cannot share {path}: it was a {was} when the mount was asked for, and is none now")]
    Changed { path: String, was: &'static str },
    #[error("cannot make a socket for the file server of {path}")]
    Socket {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the file server of {path}")]
    Start {
        path: String,
        #[source]
        source: StartError,
    },
}

/// Finds the sources of a new container's bind mounts, and creates none: one that [`find`] would create is reported as
/// an empty folder.
pub(crate) fn look(binds: &[Bind], folders: &Folders) -> Result<Vec<FoundSource>, ShareError> {
    let look_one = |bind: &Bind| match fs::metadata(&bind.source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && bind.create => Ok(FoundSource {
            path: makeable(&bind.source, folders)?.display().to_string(),
            is_file: false,
        }),
        _ => found(bind, folders).map(|(source, _)| source),
    };
    binds.iter().map(look_one).collect()
}

/// Finds the sources of a new container's bind mounts, and creates those that `-v` creates.
pub(crate) fn find(binds: &[Bind], folders: &Folders) -> Result<Vec<FoundSource>, ShareError> {
    binds.iter().map(|bind| find_one(bind, folders)).collect()
}

fn find_one(bind: &Bind, folders: &Folders) -> Result<FoundSource, ShareError> {
    if bind.create && fs::metadata(&bind.source).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        make(&bind.source, folders)?;
    }
    let (source, real) = found(bind, folders)?;
    secrets::warn(&real);
    sockets::warn(&real);
    Ok(source)
}

/// Returns an existing source and its path without links.
fn found(bind: &Bind, folders: &Folders) -> Result<(FoundSource, PathBuf), ShareError> {
    let path = &bind.source;
    if let Err(source) = fs::metadata(path) {
        let path = path.clone();
        return Err(match source.kind() {
            io::ErrorKind::NotFound => ShareError::Absent { path },
            _ => ShareError::Look { path, source },
        });
    }
    let (real, metadata) = examine(Path::new(path), folders)?;
    let path = real.clone().into_os_string().into_string();
    let source = FoundSource {
        path: path.map_err(|path| ShareError::Name { path: path.into() })?,
        is_file: metadata.is_file(),
    };
    Ok((source, real))
}

/// Creates a folder and its parents.
fn make(path: &str, folders: &Folders) -> Result<(), ShareError> {
    let absolute = makeable(path, folders)?;
    let mut builder = DirBuilder::new();
    let made = builder.mode(0o755).recursive(true).create(&absolute);
    made.map_err(|source| ShareError::Make {
        path: path.into(),
        source,
    })
}

/// Returns the absolute path of a folder that may be created, unless it would lie where nothing is shared from.
fn makeable(path: &str, folders: &Folders) -> Result<PathBuf, ShareError> {
    let failed = |source| ShareError::Make {
        path: path.into(),
        source,
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    refuse(&absolute, folders)?;
    // A link on the way, or a bind mount, may lead into such a folder too.
    let existing = absolute.ancestors().find(|folder| folder.exists());
    if let Some(existing) = existing
        && let Ok(absent) = absolute.strip_prefix(existing)
    {
        refuse(&fs::canonicalize(existing).map_err(failed)?.join(absent), folders)?;
    }
    Ok(absolute)
}

/// Resolves the links of a source, if it may be shared.
fn examine(path: &Path, folders: &Folders) -> Result<(PathBuf, fs::Metadata), ShareError> {
    let failed = |source| ShareError::Look {
        path: path.display().to_string(),
        source,
    };
    let real = fs::canonicalize(path).map_err(failed)?;
    refuse(&real, folders)?;
    let metadata = fs::symlink_metadata(&real).map_err(failed)?;
    if metadata.file_type().is_socket() {
        return Err(ShareError::IsSocket {
            path: path.display().to_string(),
        });
    }
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(ShareError::Kind {
            path: path.display().to_string(),
        });
    }
    Ok((real, metadata))
}

/// Refuses the host's root, the kernel's and Capsid's own folders, and every path that contains one or lies in one,
/// whatever path leads to it.
///
/// Cases that the mount table does not show stay unnoticed: hard links to single files, and filesystems that show
/// another one's files as their own (overlayfs, bindfs, a network filesystem of this host).
fn refuse(path: &Path, folders: &Folders) -> Result<(), ShareError> {
    let refused = |relation: Relation, what: String| ShareError::Refused {
        path: path.display().to_string(),
        holds: match relation {
            Relation::Is => "it is",
            Relation::Holds => "it holds",
            Relation::In => "it is in",
        },
        what,
    };
    let reserved = reserved(folders);
    for (folder, what) in &reserved {
        if let Some(relation) = Relation::of_paths(path, folder) {
            return Err(refused(relation, what.clone()));
        }
    }
    let look = |source| ShareError::Look {
        path: path.display().to_string(),
        source,
    };
    let table = MountTable::read().map_err(look)?;
    let kernels = |mount: &Mount| KERNELS_KINDS.contains(&mount.kind.as_str());
    if let Some(mount) = table.below(path).find(|mount| kernels(mount)) {
        return Err(refused(Relation::Holds, format!("a mounted {}", mount.kind)));
    }
    let Some((mount, place)) = table.find(path).map_err(look)? else {
        return Err(look(io::Error::other("its mount is not in /proc/self/mountinfo")));
    };
    if kernels(mount) {
        return Err(refused(Relation::In, format!("a mounted {}", mount.kind)));
    }
    for (folder, what) in &reserved {
        let found = table.find(folder).map_err(look)?;
        let inner = table.below(folder).map(|mount| &mount.place);
        for own in found.iter().map(|(_, place)| place).chain(inner) {
            let below = || table.below(path).find_map(|mount| mount.place.relation_to(own));
            let relation = place.relation_to(own).or_else(|| below().map(|_| Relation::Holds));
            if let Some(relation) = relation {
                return Err(refused(
                    relation,
                    format!("{what} ({}) by another path", folder.display()),
                ));
            }
        }
    }
    Ok(())
}

/// Returns the folders that no container may have, without links, and their descriptions.
fn reserved(folders: &Folders) -> Vec<(PathBuf, String)> {
    let own = [
        (&folders.data, "Capsid's data"),
        (&folders.run, "the run folders of Capsid's pods"),
    ];
    // Both may have links in them.
    let own = own.map(|(folder, what)| {
        let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        (real, what.to_owned())
    });
    let kernels = KERNELS.map(|folder| (PathBuf::from(folder), folder.to_owned()));
    own.into_iter().chain(kernels).collect()
}

/// Starts a file server for each share of a machine, which is that of the container or pod `id`. The present file or
/// folder at the source must be permitted now.
pub(crate) fn serve(
    mounts: &[ShareMount],
    id: &str,
    folders: &Folders,
) -> Result<(Vec<Share>, Vec<Sidecar>), ShareError> {
    let mut shares = Vec::new();
    let mut servers = Vec::new();
    for mount in mounts {
        let (socket, server) = serve_one(mount, id, folders)?;
        shares.push(Share {
            tag: mount.tag.clone(),
            socket,
        });
        servers.push(server);
    }
    Ok((shares, servers))
}

fn serve_one(mount: &ShareMount, id: &str, folders: &Folders) -> Result<(UnixStream, Sidecar), ShareError> {
    let path = || mount.source.clone();
    let (real, metadata) = examine(Path::new(&mount.source), folders)?;
    if is_expected(metadata.file_type(), mount.is_file) {
        let (listener, socket) = ephemeral_socket::connection(&container_lock::folder(&folders.run, id))
            .map_err(|source| ShareError::Socket { path: path(), source })?;
        let identity = (metadata.dev(), metadata.ino());
        let server = serve_files(mount, &real, identity, listener)
            .map_err(|source| ShareError::Start { path: path(), source })?;
        return Ok((socket, server));
    }
    Err(ShareError::Changed {
        path: path(),
        was: if mount.is_file { "file" } else { "folder" },
    })
}

fn is_expected(kind: FileType, is_file: bool) -> bool {
    if is_file { kind.is_file() } else { kind.is_dir() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn bind(source: &Path, create: bool) -> Bind {
        Bind {
            source: source.to_str().unwrap().into(),
            target: "/d".into(),
            readonly: false,
            create,
        }
    }

    /// Returns Capsid's folders, below a folder of the test's own.
    fn folders(parent: &Path) -> Folders {
        let folders = Folders {
            data: parent.join("own/data"),
            run: parent.join("own/run"),
        };
        for folder in [&folders.data, &folders.run] {
            fs::create_dir_all(folder).unwrap();
        }
        folders
    }

    #[test]
    fn what_others_rely_on_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folders = folders(parent.path());
        let inside = folders.data.join("volumes");
        fs::create_dir(&inside).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink("/proc/self", &link).unwrap();
        let refused = [
            Path::new("/"),
            Path::new("/proc"),
            Path::new("/proc/self/fd"),
            Path::new("/sys/kernel"),
            Path::new("/dev/shm"),
            Path::new("/dev/null"),
            Path::new("/usr/.."),
            parent.path(),
            &folders.data,
            &folders.run,
            &inside,
            &link,
        ];
        for path in refused {
            let error = find(&[bind(path, true)], &folders).unwrap_err();
            assert!(
                matches!(error, ShareError::Refused { .. }),
                "{}: {error}",
                path.display()
            );
        }
        // Refused before it is created.
        let absent = folders.data.join("absent");
        assert!(find(&[bind(&absent, true)], &folders).is_err());
        assert!(!absent.exists());
    }

    #[test]
    fn a_source_is_found_or_made() {
        let parent = tempfile::tempdir().unwrap();
        let folders = folders(parent.path());
        let absent = parent.path().join("absent/deep");
        assert!(matches!(
            find(&[bind(&absent, false)], &folders),
            Err(ShareError::Absent { .. })
        ));
        let found = find(&[bind(&absent, true)], &folders).unwrap();
        assert!(absent.is_dir() && !found[0].is_file);
        let file = absent.join("file");
        fs::write(&file, "").unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let found = find(&[bind(&link, false)], &folders).unwrap();
        assert!(found[0].is_file && found[0].path.ends_with("absent/deep/file"));
        let socket = parent.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(matches!(
            find(&[bind(&socket, false)], &folders),
            Err(ShareError::IsSocket { .. })
        ));
    }
}
