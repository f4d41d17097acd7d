//! Checks of everything that is stored.

use std::collections::BTreeMap;

use super::commit::{METADATA, rootfs_key};
use super::database::ImageRow;
use super::layers::LayerName;
use super::seal::{Check, OpenSealedError};
use super::{Image, RootfsError, Store, StoreError};
use crate::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};

/// Part of an image that does not hold its original content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the image, or its id if it has none.
    pub image: String,
    /// Name of the damaged part.
    pub part: String,
}

impl Store {
    /// Checks the layers and the rootfs of an image, as [`Store::rootfs`] does. Reads everything that was not used
    /// since the host's last boot, which takes a second or so for each gigabyte. [`Store::cancel`] ends the check.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn check_image(&self, image: &Image) -> Result<(), RootfsError> {
        self.rootfs(image).map(drop)
    }

    /// Reads everything that is stored, and returns what is damaged. [`Store::cancel`] ends the check.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read for another reason.
    pub fn verify(&self) -> Result<Vec<Damage>, StoreError> {
        let rows = self.database().images()?;
        let (mut damage, mut layers) = (Vec::new(), BTreeMap::new());
        for row in rows {
            let image = row
                .references
                .first()
                .map_or_else(|| row.id.to_string(), ToString::to_string);
            let parts = self.damaged_parts(&row, &mut layers)?;
            damage.extend(parts.into_iter().map(|part| Damage {
                image: image.clone(),
                part,
            }));
        }
        Ok(damage)
    }

    /// Lists the damaged parts of an image. `layers` are those that were checked for other images, and whether they are
    /// intact.
    fn damaged_parts(&self, row: &ImageRow, layers: &mut BTreeMap<LayerName, bool>) -> Result<Vec<String>, StoreError> {
        let mut parts = Vec::new();
        for (part, digest, bytes_max) in [
            ("config", row.id, CONFIG_BYTES_MAX),
            ("manifest", row.manifest, MANIFEST_BYTES_MAX),
        ] {
            if self.read_blob(digest, bytes_max).is_err() {
                parts.push(format!("{part} {digest}"));
            }
        }
        for layer in &row.layers {
            let whole = match layers.get(layer) {
                Some(whole) => *whole,
                None => self.is_layer_whole(*layer)?,
            };
            layers.insert(*layer, whole);
            if !whole {
                parts.push(format!("layer {}", layer.blob));
            }
        }
        let rootfs = self.rootfs_path(rootfs_key(&row.layers));
        match self.open_sealed(&rootfs, METADATA, Check::Content) {
            Err(OpenSealedError::Store(error)) => return Err(error),
            // A missing rootfs is made when it is needed.
            Err(OpenSealedError::Damaged { .. }) if rootfs.exists() => parts.push("rootfs".into()),
            _ => {}
        }
        Ok(parts)
    }
}
