//! Paths of this machine that files are copied from or to.
//!
//! Links of the user's own are followed, as every program does. A container with a shared folder of the host may create
//! links in it, and change them between a check and the use, to make its user's `cp` read or overwrite what only the
//! user can (CVE-2026-103916 and GHSA-4vq3-cjpp-v7fg in other runtimes). So a link in such a folder is an error, and a
//! resolved path is opened without following any: nobody can put one there meanwhile.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::state::{State, StateError};

/// Maximum number of links in one path, the kernel's limit (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Flags that open a resolved path without following links.
const RESOLVE: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Error when a path cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum LocalError {
    #[error("cannot find out which folders containers have")]
    State(#[source] StateError),
    #[error("{path}")]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path}: {link} is a link in a folder that is shared with a container, which may have made it: \
         name the file that is meant without that link"
    )]
    Shared { path: PathBuf, link: PathBuf },
}

/// Resolver of local paths.
#[derive(Debug)]
pub(in crate::commands) struct Resolver {
    /// Device and inode of the folders that containers may write to.
    shared: Vec<(u64, u64)>,
}

/// Resolved components, each with whether it is a shared folder.
#[derive(Default)]
struct Walked(Vec<(OsString, bool)>);

impl Walked {
    fn path(&self) -> PathBuf {
        let names = self.0.iter().map(|(name, _)| name);
        Path::new("/").join(names.collect::<PathBuf>())
    }

    fn is_shared(&self) -> bool {
        self.0.iter().any(|(_, is_shared)| *is_shared)
    }
}

impl Resolver {
    /// Reads the shared folders of all containers and pods, also of those that do not run: their links still exist.
    pub(in crate::commands) fn new(state: &State) -> Result<Self, LocalError> {
        let containers = state.containers().map_err(LocalError::State)?;
        let pods = state.pods().map_err(LocalError::State)?;
        let shares = containers.iter().flat_map(|container| &container.pod.config.shares);
        let shares = shares.chain(pods.iter().flat_map(|pod| &pod.config.shares));
        let writable = shares.filter(|share| !share.readonly);
        // A folder that is gone has no links.
        let found = writable.filter_map(|share| std::fs::metadata(&share.source).ok());
        Ok(Self {
            shared: found.map(|metadata| identity(&metadata)).collect(),
        })
    }

    /// Returns the absolute path without links that `path` leads to. A link at its end is followed with `follow`. The
    /// end need not exist.
    pub(in crate::commands) fn resolve(&self, path: &Path, follow: bool) -> Result<PathBuf, LocalError> {
        let failed = |source| LocalError::Look {
            path: path.into(),
            source,
        };
        let mut links_left = LINKS_MAX;
        let mut walked = Walked::default();
        let mut pending = names(&std::path::absolute(path).map_err(failed)?);
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                walked.0.pop();
                continue;
            }
            let here = walked.path().join(&name);
            let is_last = pending.is_empty();
            let metadata = match std::fs::symlink_metadata(&here) {
                Ok(metadata) => metadata,
                Err(error) if is_last && error.kind() == io::ErrorKind::NotFound => return Ok(here),
                Err(error) => return Err(failed(error)),
            };
            if !metadata.is_symlink() || (is_last && !follow) {
                let is_shared = self.shared.contains(&identity(&metadata));
                walked.0.push((name, is_shared));
                continue;
            }
            if walked.is_shared() {
                return Err(LocalError::Shared {
                    path: path.into(),
                    link: here,
                });
            }
            links_left = links_left.checked_sub(1).ok_or_else(|| failed(Errno::LOOP.into()))?;
            let target = std::fs::read_link(&here).map_err(failed)?;
            if target.is_absolute() {
                walked.0.clear();
            }
            let mut names = names(&target);
            names.append(&mut pending);
            pending = names;
        }
        Ok(walked.path())
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Opens a resolved path.
pub(in crate::commands) fn open(resolved: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(CWD, resolved, flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
}

/// Creates the file of a resolved path, or truncates it.
pub(in crate::commands) fn create(resolved: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, resolved, flags, Mode::from_raw_mode(0o666), RESOLVE)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Creates a folder `home` with a shared folder `share`, a link to it, and a secret outside.
    fn home() -> (tempfile::TempDir, PathBuf, Resolver) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("share/sub")).unwrap();
        fs::create_dir(home.join("private")).unwrap();
        fs::write(home.join("private/file"), "secret").unwrap();
        fs::write(home.join("share/sub/file"), "shared").unwrap();
        symlink("share", home.join("own")).unwrap();
        let shared = vec![identity(&fs::metadata(home.join("share")).unwrap())];
        (dir, home, Resolver { shared })
    }

    #[test]
    fn own_links_are_followed_and_a_containers_are_not() {
        let (_dir, home, resolver) = home();
        symlink(home.join("private"), home.join("share/out")).unwrap();
        symlink("sub", home.join("share/in")).unwrap();
        symlink("own/out", home.join("through")).unwrap();
        let resolve = |path: &str, follow| resolver.resolve(&home.join(path), follow);
        assert_eq!(resolve("own/sub/file", true).unwrap(), home.join("share/sub/file"));
        assert_eq!(resolve("own/sub/../sub/new", true).unwrap(), home.join("share/sub/new"));
        assert_eq!(resolve("own/../private", true).unwrap(), home.join("private"));
        assert_eq!(resolve("own", false).unwrap(), home.join("own"));
        // A link itself does not lead out of the folder.
        assert_eq!(resolve("share/out", false).unwrap(), home.join("share/out"));
        for path in ["share/out", "share/out/file", "own/in/file", "through", "through/file"] {
            let refused = resolve(path, true);
            assert!(matches!(refused, Err(LocalError::Shared { .. })), "{path}: {refused:?}");
        }
        assert!(matches!(resolve("none/deep", true), Err(LocalError::Look { .. })));
        symlink("loop", home.join("loop")).unwrap();
        assert!(matches!(resolve("loop", true), Err(LocalError::Look { .. })));
    }

    /// Swaps a folder of the share for a link and back all the time: every file that is opened is in the share.
    #[test]
    fn a_thousand_races_with_a_link_are_won() {
        let (_dir, home, resolver) = home();
        let (place, link) = (home.join("share/sub"), home.join("share/link"));
        symlink(home.join("private"), &link).unwrap();
        let ended = AtomicBool::new(false);
        let (mut opened, mut refused, mut lost) = (0, 0, false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &place, CWD, &link, flags).unwrap();
                    std::thread::yield_now();
                }
            });
            let mut left = rounds(1_000);
            // On a busy machine the other thread may not have run by then.
            while (left > 0 || opened == 0 || refused == 0) && !other.is_finished() {
                left = left.saturating_sub(1);
                let resolved = resolver.resolve(&place.join("file"), true).ok();
                let Some(file) = resolved.and_then(|file| open(&file, OFlags::RDONLY).ok()) else {
                    refused += 1;
                    continue;
                };
                opened += 1;
                let content = io::read_to_string(fs::File::from(file));
                if content.is_ok_and(|content| content != "shared") {
                    lost = true;
                    break;
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(!lost, "a file outside was read");
    }

    /// Number of rounds of a race, or more for a soak run.
    fn rounds(usual: usize) -> usize {
        let asked = std::env::var("CAPSID_RACE_ROUNDS").ok();
        asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
    }
}
