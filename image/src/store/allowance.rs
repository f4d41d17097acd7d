//! Bytes and entries that the layers of one image, and of all images of one archive, may take up together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::AddLayerError;
use crate::digest::Digest;
use crate::layer::fault::LayerFault;
use crate::limits::{
    ARCHIVE_EXPANSION_RATIO_MAX, IMAGE_ENTRIES_MAX, IMAGE_EXPANDED_BYTES_MAX, LAYER_EXPANDED_BYTES_MAX,
};

/// Bytes that the new layers of an archive's images may still take up.
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

/// Bytes and entries that the layers of one image may still have. Clones share one allowance.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    image: Arc<AtomicU64>,
    entries: Arc<AtomicU64>,
    archive: Option<ArchiveAllowance>,
}

/// Part of an allowance that one layer takes up, which grows while the layer is made. It returns to the allowance when
/// this value is dropped, unless the layer is kept.
#[derive(Debug)]
pub(super) struct LayerCharge<'a> {
    allowance: &'a Allowance,
    bytes: u64,
}

impl Allowance {
    /// Creates the allowance of an image without any layers yet; `archive` is that of the archive it comes from.
    pub(crate) fn of_an_image(archive: Option<ArchiveAllowance>) -> Self {
        Self {
            image: Arc::new(AtomicU64::new(IMAGE_EXPANDED_BYTES_MAX)),
            entries: Arc::new(AtomicU64::new(IMAGE_ENTRIES_MAX)),
            archive,
        }
    }

    /// Begins a layer, which takes up nothing yet.
    pub(super) fn layer(&self) -> LayerCharge<'_> {
        LayerCharge {
            allowance: self,
            bytes: 0,
        }
    }

    /// Bytes of the archive that new layers may still take up.
    fn archive_bytes(&self) -> Option<&AtomicU64> {
        self.archive.as_ref().map(|ArchiveAllowance(left)| &**left)
    }
}

impl LayerCharge<'_> {
    /// Number of bytes that the layer may expand to. Layers that are made at once see the same rest; each is charged
    /// while it grows, so that they do not exceed it together.
    pub(super) fn bytes_max(&self) -> u64 {
        let image = self.allowance.image.load(Ordering::Relaxed);
        let archive = self.allowance.archive_bytes();
        let archive = archive.map_or(u64::MAX, |left| left.load(Ordering::Relaxed));
        image.min(archive).min(LAYER_EXPANDED_BYTES_MAX)
    }

    /// Charges a layer that is being made for what it takes up by now, `bytes` in total.
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<(), AddLayerError> {
        let more = bytes.saturating_sub(self.bytes);
        let archive = self.allowance.archive_bytes();
        subtract(&self.allowance.image, more).ok_or(AddLayerError::ImageTooLarge)?;
        if archive.is_some_and(|left| subtract(left, more).is_none()) {
            self.allowance.image.fetch_add(more, Ordering::Relaxed);
            return Err(AddLayerError::ArchiveTooLarge);
        }
        self.bytes += more;
        Ok(())
    }

    /// Charges the image for the entries of a new layer. Those of stored layers are counted when layers are merged.
    pub(super) fn add_entries(&self, layer: Digest, entries: u64) -> Result<(), AddLayerError> {
        subtract(&self.allowance.entries, entries).ok_or(AddLayerError::Fault {
            layer,
            source: LayerFault::TooManyImageEntries.into(),
        })
    }

    /// Keeps the layer, which takes up `bytes`. One that was stored before is free of charge for the archive.
    pub(super) fn keep(mut self, bytes: u64, existed: bool) -> Result<(), AddLayerError> {
        if existed {
            return subtract(&self.allowance.image, bytes).ok_or(AddLayerError::ImageTooLarge);
        }
        self.grow_to(bytes)?;
        self.bytes = 0;
        Ok(())
    }
}

impl Drop for LayerCharge<'_> {
    fn drop(&mut self) {
        self.allowance.image.fetch_add(self.bytes, Ordering::Relaxed);
        if let Some(left) = self.allowance.archive_bytes() {
            left.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

fn subtract(left: &AtomicU64, count: u64) -> Option<()> {
    let subtracted = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
    subtracted.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_what_their_image_may_expand_to() {
        let allowance = Allowance::of_an_image(None);
        let other = allowance.clone();
        assert_eq!(allowance.layer().bytes_max(), LAYER_EXPANDED_BYTES_MAX);
        other.layer().keep(LAYER_EXPANDED_BYTES_MAX, false).unwrap();
        allowance.layer().keep(LAYER_EXPANDED_BYTES_MAX - 10, true).unwrap();
        assert_eq!(other.layer().bytes_max(), 10);
        for existed in [false, true] {
            let refused = allowance.layer().keep(11, existed);
            assert!(matches!(refused, Err(AddLayerError::ImageTooLarge)));
        }
        other.layer().keep(10, false).unwrap();
        assert_eq!(allowance.layer().bytes_max(), 0);
    }

    #[test]
    fn layers_that_are_made_at_once_do_not_exceed_the_image_together() {
        let allowance = Allowance::of_an_image(None);
        let third = IMAGE_EXPANDED_BYTES_MAX / 3;
        let mut layers = [allowance.layer(), allowance.layer(), allowance.layer()];
        for layer in &mut layers {
            layer.grow_to(third / 2).unwrap();
            layer.grow_to(third).unwrap();
            // A length that was seen before costs nothing.
            layer.grow_to(third / 2).unwrap();
        }
        let [mut first, second, third_layer] = layers;
        let rest = IMAGE_EXPANDED_BYTES_MAX - 3 * third;
        assert_eq!(first.bytes_max(), rest);
        let refused = first.grow_to(third + rest + 1);
        assert!(matches!(refused, Err(AddLayerError::ImageTooLarge)));
        // A layer that failed leaves its part to the others; a kept one does not.
        drop(second);
        first.grow_to(third + rest + 1).unwrap();
        first.keep(third + rest + 1, false).unwrap();
        drop(third_layer);
        let left = IMAGE_EXPANDED_BYTES_MAX - (third + rest + 1);
        assert_eq!(allowance.layer().bytes_max(), left.min(LAYER_EXPANDED_BYTES_MAX));
    }

    #[test]
    fn layers_share_the_entries_of_their_image() {
        let allowance = Allowance::of_an_image(None);
        let name = Digest::of(b"layer");
        allowance.layer().add_entries(name, IMAGE_ENTRIES_MAX - 1).unwrap();
        let error = allowance.layer().add_entries(name, 2).unwrap_err();
        let text = crate::text::chain(&error);
        assert!(
            text.contains("entries together") && text.contains(&name.hex()),
            "{text}"
        );
    }

    #[test]
    fn images_share_what_their_archive_may_expand_to() {
        let archive = ArchiveAllowance::of(1000);
        let image = || Allowance::of_an_image(Some(archive.clone()));
        let half = IMAGE_EXPANDED_BYTES_MAX / 2;
        image().layer().keep(half, false).unwrap();
        // A layer that another image has is not made again.
        image().layer().keep(half, true).unwrap();
        let last = image();
        last.layer().keep(half - 10, false).unwrap();
        assert_eq!((last.layer().bytes_max(), image().layer().bytes_max()), (10, 10));
        let new = image();
        let mut layer = new.layer();
        assert!(matches!(layer.grow_to(11), Err(AddLayerError::ArchiveTooLarge)));
        layer.grow_to(10).unwrap();
        drop(layer);
        assert_eq!(new.layer().bytes_max(), 10);
        // A long archive may hold many images.
        let long = Allowance::of_an_image(Some(ArchiveAllowance::of(IMAGE_EXPANDED_BYTES_MAX)));
        assert_eq!(long.layer().bytes_max(), LAYER_EXPANDED_BYTES_MAX);
    }
}
