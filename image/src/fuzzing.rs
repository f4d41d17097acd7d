//! Entry points of the fuzz targets (`tests/fuzz`) to functions that are otherwise private.

use std::fs::File;
use std::io::Seek;

use crate::layer::convert::convert_layer;
use crate::limits::LAYER_EXPANDED_BYTES_MAX;
use crate::manifest::Document;
use crate::pull::fuzzing as pull;
use crate::rootfs::{Stack, merge};

/// Parses a manifest or an index of images.
pub fn manifest(bytes: &[u8]) {
    let _ = Document::parse(bytes, None);
}

/// Parses a challenge, and decides for some registries whether its token service may be asked.
///
/// # Panics
/// If the decision differs from that of a second, simpler parser.
pub fn challenge(header: &str) {
    pull::challenge(header);
}

/// Converts a layer, and makes a rootfs of the result, twice over itself.
///
/// # Panics
/// If an accepted layer cannot be made into a rootfs for another reason than its content.
pub fn layer(bytes: &[u8], data: File, mut index: File, out: &File) {
    let handed = index.try_clone().expect("an fd");
    if convert_layer(bytes, data, handed, LAYER_EXPANDED_BYTES_MAX).is_err() {
        return;
    }
    index.rewind().expect("a file");
    let again = index.try_clone().expect("an fd");
    let stack = Stack {
        blobs: vec![0, 1],
        blob_blocks: vec![1 << 20, 1 << 20],
    };
    let _ = merge(&stack, vec![index, again], out);
}
