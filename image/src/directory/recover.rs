//! Recovery of a directory whose marker or databases are lost. Nothing is deleted: unusable files, and files that no
//! database describes any more, are moved to a directory `recovered-TIME` beside it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::database::{SIDE_FILES, Soundness, judge, side_file};
use super::marker::{self, Marker};
use super::{DatabaseSpec, Directory, DirectoryError, DirectorySpec, Links, enter, lock};
use crate::own_file::Fault;

/// Result of a recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Directory that files were moved to, if any were.
    pub moved_to: Option<PathBuf>,
    /// Old paths of the files and directories that were moved.
    pub moved: Vec<PathBuf>,
    /// Names of the databases that were lost or unusable.
    pub lost: Vec<&'static str>,
}

impl Directory {
    /// Makes a directory usable again that [`Directory::open`] or [`Directory::open_database`] refuses: lost databases
    /// start empty, sound ones are kept. The caller ensures that no process uses the directory.
    ///
    /// # Errors
    /// [`DirectoryError`]; files that belong to another user, cannot be read or were written by a newer version stay
    /// unchanged.
    pub fn recover(wanted: &Path, spec: &DirectorySpec, links: Links) -> Result<Recovered, DirectoryError> {
        let (path, file) = enter(wanted, links)?;
        let failed = |source| DirectoryError::Use {
            path: path.clone(),
            source,
        };
        let _lock = lock(&file).map_err(failed)?;
        let (marker, marker_fault) = match Marker::read(&path) {
            Ok(marker) => (marker, None),
            Err(DirectoryError::Fault { fault, .. }) if is_replaceable(&fault) => (None, Some(fault)),
            Err(error) => return Err(error),
        };
        let judged = judge_all(&path, spec, marker.as_ref())?;
        let sound = judged.iter().find_map(|(_, soundness)| soundness.identity());
        let is_ours = marker.is_some() || marker_fault.is_some() || sound.is_some() || (spec.is_older)(&path);
        if !is_ours {
            return Err(DirectoryError::NotOurs { path });
        }
        let identity = marker
            .as_ref()
            .map(|marker| marker.identity.clone())
            .or(sound.flatten());
        let mut anew = Marker::new(spec.kind, identity).map_err(failed)?;
        let mut attic = Attic::new(&path);
        for (database, soundness) in judged {
            match soundness {
                Soundness::Lost => attic.take_database(database).map_err(failed)?,
                Soundness::Listable(_) => anew.databases.push(database.name.into()),
                Soundness::Older | Soundness::Absent => {}
            }
        }
        if marker_fault.is_some() {
            attic.take(Path::new(marker::NAME)).map_err(failed)?;
        }
        if marker.as_ref() != Some(&anew) {
            anew.write(&path, &file).map_err(failed)?;
        }
        Ok(attic.recovered)
    }
}

fn judge_all<'a>(
    path: &Path,
    spec: &'a DirectorySpec,
    marker: Option<&Marker>,
) -> Result<Vec<(&'a DatabaseSpec, Soundness)>, DirectoryError> {
    let judge_one = |database| match judge(path, database, marker) {
        Ok(soundness) => Ok((database, soundness)),
        Err(DirectoryError::Fault { fault, .. }) if is_replaceable(&fault) => Ok((database, Soundness::Lost)),
        Err(error) => Err(error),
    };
    spec.databases.iter().map(judge_one).collect()
}

/// Whether a file with such a fault may be replaced. The other faults have a cure of their own.
fn is_replaceable(fault: &Fault) -> bool {
    !matches!(fault, Fault::Owner(_) | Fault::Unreadable(_))
}

/// Directory that unusable files are moved to; created for the first of them.
struct Attic<'a> {
    directory: &'a Path,
    recovered: Recovered,
}

impl<'a> Attic<'a> {
    fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            recovered: Recovered::default(),
        }
    }

    /// Moves a lost database away, with everything that only it described.
    fn take_database(&mut self, spec: &DatabaseSpec) -> io::Result<()> {
        self.take(Path::new(spec.name))?;
        for end in SIDE_FILES {
            self.take(&side_file(Path::new(spec.name), end))?;
        }
        for name in spec.describes {
            let Ok(entries) = std::fs::read_dir(self.directory.join(name)) else {
                continue;
            };
            for entry in entries {
                self.take(&Path::new(name).join(entry?.file_name()))?;
            }
        }
        self.recovered.lost.push(spec.name);
        Ok(())
    }

    /// Moves the entry of this name away, whatever it is; a link as a link.
    fn take(&mut self, name: &Path) -> io::Result<()> {
        let from = self.directory.join(name);
        if std::fs::symlink_metadata(&from).is_err() {
            return Ok(());
        }
        let to = self.place()?.join(name);
        if let Some(parent) = to.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        std::fs::rename(&from, to)?;
        File::open(self.directory)?.sync_all()?;
        self.recovered.moved.push(from);
        Ok(())
    }

    fn place(&mut self) -> io::Result<&Path> {
        if self.recovered.moved_to.is_none() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let place = self.directory.join(format!("recovered-{}", since.as_nanos()));
            DirBuilder::new().mode(0o700).create(&place)?;
            self.recovered.moved_to = Some(place);
        }
        Ok(self.recovered.moved_to.as_deref().unwrap_or(self.directory))
    }
}
