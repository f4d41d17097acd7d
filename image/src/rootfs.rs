//! Merge of layers: indexes of a stack of layers in, the EROFS metadata image of the rootfs out.

use std::fs::File;
use std::io::{self, BufReader, Seek};

use serde::{Deserialize, Serialize};

use crate::erofs::{self, BLOCK_BYTES};
use crate::layer::entry::Action;
use crate::layer::fault::LayerFault;
use crate::layer::index::{IndexReader, ReadIndexError};
use crate::limits::IMAGE_ENTRIES_MAX;
use crate::tree::Tree;

/// Assignment of data blobs to the layers of a stack: layers without contents have none, a layer that occurs twice has
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stack {
    /// Blob of each layer, bottom first: a number below `blob_blocks.len()`.
    pub blobs: Vec<u16>,
    /// Number of blocks of each data blob.
    pub blob_blocks: Vec<u32>,
}

/// Error of a merge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("layer {layer} is at fault")]
    Fault {
        /// Number of the layer in the stack.
        layer: usize,
        #[source]
        fault: LayerFault,
    },
    #[error("cannot read a layer's index")]
    ReadIndex(#[source] io::Error),
    #[error("cannot write the rootfs metadata")]
    Write(#[source] io::Error),
}

/// Error of one layer.
enum LayerError {
    Fault(LayerFault),
    Read(io::Error),
}

impl From<LayerFault> for LayerError {
    fn from(fault: LayerFault) -> Self {
        Self::Fault(fault)
    }
}

/// Writes the metadata image of the layers to `out` and returns its length.
pub(crate) fn merge(stack: &Stack, mut indexes: Vec<File>, out: &File) -> Result<u64, MergeError> {
    let (mut tree, mut entries_left) = (Tree::new(), IMAGE_ENTRIES_MAX);
    for (layer, (index, &blob)) in indexes.iter_mut().zip(&stack.blobs).enumerate() {
        let applied = apply_layer(&mut tree, index, blob, stack, &mut entries_left);
        applied.map_err(|error| match error {
            LayerError::Fault(fault) => MergeError::Fault { layer, fault },
            LayerError::Read(error) => MergeError::ReadIndex(error),
        })?;
    }
    erofs::write_image(&tree, &stack.blob_blocks, out).map_err(MergeError::Write)
}

/// Applies the entries of a layer's index, and counts them.
fn apply_layer(
    tree: &mut Tree,
    index: &mut File,
    blob: u16,
    stack: &Stack,
    entries_left: &mut u64,
) -> Result<(), LayerError> {
    let blocks = stack.blob_blocks.get(usize::from(blob)).copied().unwrap_or(0);
    index.rewind().map_err(LayerError::Read)?;
    let mut reader = IndexReader::new(BufReader::with_capacity(256 << 10, &mut *index)).map_err(index_error)?;
    tree.begin_layer();
    while let Some(entry) = reader.next().map_err(index_error)? {
        *entries_left = entries_left.checked_sub(1).ok_or(LayerFault::TooManyImageEntries)?;
        // A file beyond its blob would read another blob.
        if let Action::Make(_, crate::layer::entry::Node::File { block, size }) = entry.action
            && u64::from(block).saturating_add(size.div_ceil(BLOCK_BYTES)) > u64::from(blocks)
        {
            return Err(LayerFault::Index.into());
        }
        tree.apply(entry, blob)?;
    }
    Ok(())
}

fn index_error(error: ReadIndexError) -> LayerError {
    match error {
        ReadIndexError::Read(error) => LayerError::Read(error),
        ReadIndexError::Damaged => LayerFault::Index.into(),
    }
}
