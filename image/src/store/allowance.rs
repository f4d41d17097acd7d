//! Total number of bytes that the layers of one image, and of all images of one archive, may expand to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::AddLayerError;
use crate::limits::{ARCHIVE_EXPANSION_RATIO_MAX, IMAGE_EXPANDED_BYTES_MAX, LAYER_EXPANDED_BYTES_MAX};

/// Bytes that the new layers of an archive's images may still expand to.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveAllowance(Arc<AtomicU64>);

impl ArchiveAllowance {
    /// Creates the allowance of an archive whose layers are `bytes` long: as much as one image may have, or a multiple
    /// of that length. Without it, many images, each a small bomb, would fill any disk.
    pub(crate) fn of(bytes: u64) -> Self {
        let most = bytes.saturating_mul(ARCHIVE_EXPANSION_RATIO_MAX);
        Self(Arc::new(AtomicU64::new(most.max(IMAGE_EXPANDED_BYTES_MAX))))
    }
}

/// Bytes that the layers of one image may still expand to. Clones share one allowance.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    image: Arc<AtomicU64>,
    archive: Option<ArchiveAllowance>,
}

impl Allowance {
    /// Creates the allowance of an image without any layers yet; `archive` is that of the archive it comes from.
    pub(crate) fn of_an_image(archive: Option<ArchiveAllowance>) -> Self {
        Self {
            image: Arc::new(AtomicU64::new(IMAGE_EXPANDED_BYTES_MAX)),
            archive,
        }
    }

    /// Number of bytes that the next layer may expand to. Layers that are converted at once see the same rest, so they
    /// may exceed it together; the first layer that ends beyond it fails the image.
    pub(super) fn layer_bytes_max(&self) -> u64 {
        let of_image = self.image.load(Ordering::Relaxed).min(LAYER_EXPANDED_BYTES_MAX);
        let archive = self.archive.as_ref();
        archive.map_or(of_image, |ArchiveAllowance(left)| {
            of_image.min(left.load(Ordering::Relaxed))
        })
    }

    /// Subtracts a layer of `bytes` from the allowance, and from the archive's unless the layer was stored before.
    pub(super) fn charge(&self, bytes: u64, existed: bool) -> Result<(), AddLayerError> {
        if let Some(ArchiveAllowance(left)) = self.archive.as_ref().filter(|_| !existed) {
            subtract(left, bytes).ok_or(AddLayerError::ArchiveTooLarge)?;
        }
        subtract(&self.image, bytes).ok_or(AddLayerError::ImageTooLarge)
    }
}

fn subtract(left: &AtomicU64, bytes: u64) -> Option<()> {
    let subtracted = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
    subtracted.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_what_their_image_may_expand_to() {
        let allowance = Allowance::of_an_image(None);
        let other = allowance.clone();
        assert_eq!(allowance.layer_bytes_max(), LAYER_EXPANDED_BYTES_MAX);
        other.charge(LAYER_EXPANDED_BYTES_MAX, false).unwrap();
        allowance.charge(LAYER_EXPANDED_BYTES_MAX - 10, false).unwrap();
        assert_eq!(other.layer_bytes_max(), 10);
        let refused = allowance.charge(11, false);
        assert!(matches!(refused, Err(AddLayerError::ImageTooLarge)));
        other.charge(10, false).unwrap();
        assert_eq!(allowance.layer_bytes_max(), 0);
    }

    #[test]
    fn images_share_what_their_archive_may_expand_to() {
        let archive = ArchiveAllowance::of(1000);
        let image = || Allowance::of_an_image(Some(archive.clone()));
        let half = IMAGE_EXPANDED_BYTES_MAX / 2;
        image().charge(half, false).unwrap();
        // A layer that another image has is not made again.
        image().charge(half, true).unwrap();
        let last = image();
        last.charge(half - 10, false).unwrap();
        assert_eq!((last.layer_bytes_max(), image().layer_bytes_max()), (10, 10));
        let refused = image().charge(11, false);
        assert!(matches!(refused, Err(AddLayerError::ArchiveTooLarge)));
        // A long archive may hold many images.
        let long = Allowance::of_an_image(Some(ArchiveAllowance::of(IMAGE_EXPANDED_BYTES_MAX)));
        assert_eq!(long.layer_bytes_max(), LAYER_EXPANDED_BYTES_MAX);
    }
}
