//! Total number of bytes that the layers of one image may expand to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::AddLayerError;
use crate::limits::{IMAGE_EXPANDED_BYTES_MAX, LAYER_EXPANDED_BYTES_MAX};

/// Bytes that the layers of one image may still expand to. Clones share one allowance.
#[derive(Debug, Clone)]
pub(crate) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    /// Creates the allowance of an image without any layers yet.
    pub(crate) fn of_an_image() -> Self {
        Self(Arc::new(AtomicU64::new(IMAGE_EXPANDED_BYTES_MAX)))
    }

    /// Number of bytes that the next layer may expand to. Layers that are converted at once see the same rest, so they
    /// may exceed it together; the first layer that ends beyond it fails the image.
    pub(super) fn layer_bytes_max(&self) -> u64 {
        self.0.load(Ordering::Relaxed).min(LAYER_EXPANDED_BYTES_MAX)
    }

    /// Subtracts a layer of `bytes` from the allowance.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), AddLayerError> {
        let charged = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        charged.map(drop).map_err(|_| AddLayerError::ImageTooLarge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_what_their_image_may_expand_to() {
        let allowance = Allowance::of_an_image();
        let other = allowance.clone();
        assert_eq!(allowance.layer_bytes_max(), LAYER_EXPANDED_BYTES_MAX);
        other.charge(LAYER_EXPANDED_BYTES_MAX).unwrap();
        allowance.charge(LAYER_EXPANDED_BYTES_MAX - 10).unwrap();
        assert_eq!(other.layer_bytes_max(), 10);
        assert!(matches!(allowance.charge(11), Err(AddLayerError::ImageTooLarge)));
        other.charge(10).unwrap();
        assert_eq!(allowance.layer_bytes_max(), 0);
    }
}
