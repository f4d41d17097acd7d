//! Removal of names, images, and objects that no image needs.

use std::path::{Path, PathBuf};

use super::database::StoreDirectory;
use super::error::RemoveImageError;
use super::layers::LayerName;
use super::{FindImageError, Image, ObjectLock, Removed, Store, StoreError, shown};
use crate::digest::Digest;
use crate::reference::Reference;

impl Store {
    /// Removes the name, and deletes the image with its last name. An id means the image with all its names, which
    /// `force` must confirm if there are several tags.
    ///
    /// # Errors
    /// [`FindImageError::NoSuchImage`] if there is no such image; [`RemoveImageError::SeveralNames`] without `force`.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removed>, RemoveImageError> {
        let missing = || FindImageError::NoSuchImage { name: shown(name) };
        let id = self.find_id(name)?.ok_or_else(missing)?;
        let row = self.database().image(id)?.ok_or_else(missing)?;
        let named = name
            .parse::<Reference>()
            .ok()
            .filter(|reference| row.references.contains(reference));
        let (tags, digests): (Vec<_>, Vec<_>) = row.references.into_iter().partition(|name| name.tag().is_some());
        if named.is_none() && tags.len() > 1 && !force {
            let names = tags.iter().map(Reference::to_string).collect();
            return Err(RemoveImageError::SeveralNames { id: id.short(), names });
        }
        let mut removed = Vec::new();
        let keeps_tag = |name: &Reference| tags.iter().any(|tag| tag != name);
        if let Some(name) = named.filter(keeps_tag) {
            self.database().delete_name(&name)?;
            removed.push(Removed::Untagged(name));
            return Ok(removed);
        }
        self.database().delete_image(id)?;
        removed.extend(tags.into_iter().chain(digests).map(Removed::Untagged));
        removed.push(Removed::Deleted(id));
        removed.extend(self.collect()?.into_iter().map(|layer| Removed::Deleted(layer.diff)));
        Ok(removed)
    }

    /// Removes all names of an image that is still needed: the image stays without a name.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be changed.
    pub fn untag(&self, image: &Image) -> Result<Vec<Removed>, StoreError> {
        for name in &image.references {
            self.database().delete_name(name)?;
        }
        Ok(image.references.iter().cloned().map(Removed::Untagged).collect())
    }

    /// Removes remains of killed processes: unfinished objects, and finished ones that no image needs. Only objects
    /// that were recorded in the database before they were made or given up are removed, never unknown files.
    pub(super) fn recover(&self) -> Result<(), StoreError> {
        self.remove_dead_workspaces()?;
        self.collect()?;
        self.remove_idle_locks()
    }

    /// Removes locks without an object, which killed or refused makers have left. Locks are empty: nothing is lost with
    /// one.
    fn remove_idle_locks(&self) -> Result<(), StoreError> {
        for name in self.names_in("locks")? {
            if !is_object(&name) || self.is_known(&name)? || !is_empty_file(&self.lock_path(&name)) {
                continue;
            }
            if let Some(lock) = ObjectLock::try_exclusive(&self.lock_path(&name))?
                && !self.is_known(&name)?
            {
                lock.retire();
            }
        }
        Ok(())
    }

    /// Whether an object of this name exists, or should.
    fn is_known(&self, name: &str) -> Result<bool, StoreError> {
        for kind in StoreDirectory::OBJECTS {
            if std::fs::symlink_metadata(self.object_path(kind, name)).is_ok() || self.database().needs(kind, name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what a failed command has stored for an unfinished image. If this fails, the next opening of the store
    /// does it.
    pub(crate) fn forget_unfinished(&self) {
        let _ = self.recover();
    }

    /// Removes every recorded object that no image needs and nobody holds, and returns the layers among them.
    fn collect(&self) -> Result<Vec<LayerName>, StoreError> {
        let mut layers = Vec::new();
        for kind in StoreDirectory::OBJECTS {
            let recorded = self.database().pending(kind)?;
            let (mut done, mut locks) = (Vec::new(), Vec::new());
            for name in recorded.into_iter().filter(|name| is_object(name)) {
                if self.database().needs(kind, &name)? {
                    done.push(name);
                    continue;
                }
                let Some(lock) = ObjectLock::try_exclusive(&self.lock_path(&name))? else {
                    continue;
                };
                // An image that needs it may have been stored before the lock was taken.
                if !self.database().needs(kind, &name)? {
                    self.discard(&self.object_path(kind, &name))?;
                    layers.extend(LayerName::parse(&name));
                    locks.push(lock);
                }
                done.push(name);
            }
            // Done while the locks are held, so that no record of a new maker is lost. A record that stays does no
            // harm: the next command checks it again.
            let _ = self.database().forget(kind, &done);
            locks.into_iter().for_each(ObjectLock::retire);
        }
        Ok(layers)
    }

    /// Path of an object of this kind.
    pub(super) fn object_path(&self, kind: StoreDirectory, name: &str) -> PathBuf {
        self.root.join(kind.as_str()).join(name)
    }

    fn names_in(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let path = self.root.join(directory);
        let list_error = |source| StoreError::File {
            action: "list",
            path: path.clone(),
            source,
        };
        let entries = std::fs::read_dir(&path).map_err(list_error)?;
        entries
            .map(|entry| Ok(entry.map_err(list_error)?.file_name().into_string().unwrap_or_default()))
            .collect()
    }

    /// Moves the object away in one step, then deletes it.
    pub(super) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        if std::fs::symlink_metadata(path).is_err() {
            // Recorded, but never made.
            return Ok(());
        }
        let workspace = self.workspace()?;
        let away = workspace.path().join("removed");
        match std::fs::rename(path, away) {
            // Another process collected it before the lock was taken.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| StoreError::File {
                action: "remove",
                path: path.to_owned(),
                source,
            }),
        }
    }
}

/// Whether a name has the form of an object's name.
fn is_object(name: &str) -> bool {
    Digest::from_hex(name).is_ok() || LayerName::parse(name).is_some()
}

fn is_empty_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}
