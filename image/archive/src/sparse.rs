//! Sparse files of GNU tar: the stretches of the file that the archive holds.
//!
//! Four encodings (tar manual, "Storing Sparse Files"): the old GNU header `S`, and 0.0, 0.1 and 1.0 in PAX records.

use crate::limits::SPARSE_FRAGMENTS_MAX;
use crate::pax::decimal;

/// Stretch of data; everything between fragments is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub offset: u64,
    pub length: u64,
}

/// Data fragments of a sparse file and the file's full size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    fragments: Vec<Fragment>,
    size: u64,
}

/// Sparse-file fields of PAX records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseFormat {
    major: u64,
    real_size: Option<u64>,
    numbers: Vec<u64>,
    mentioned: bool,
}

/// Location of the map of a sparse file.
pub(crate) enum SparseSource {
    /// No map: the file is not sparse.
    Dense,
    /// Map from the PAX records.
    Map(SparseMap),
    /// Map that precedes the data; the file is `size` bytes long.
    InData { size: u64 },
}

impl SparseMap {
    /// Checks and creates a map. It is valid if its fragments are in order, do not overlap, end within the file, and
    /// hold exactly the bytes that the archive stores.
    pub(crate) fn new(fragments: Vec<Fragment>, size: u64, stored_bytes: u64) -> Option<Self> {
        let mut end = 0u64;
        let mut data = 0u64;
        for fragment in &fragments {
            if fragment.offset < end {
                return None;
            }
            end = fragment.offset.checked_add(fragment.length)?;
            data += fragment.length;
        }
        (end <= size && data == stored_bytes && fragments.len() <= SPARSE_FRAGMENTS_MAX)
            .then_some(Self { fragments, size })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Number of bytes from `position` on that are of one kind, and whether they are data.
    pub(crate) fn stretch(&self, position: u64) -> (u64, bool) {
        let next = self
            .fragments
            .partition_point(|fragment| fragment.offset + fragment.length <= position);
        match self.fragments.get(next) {
            Some(fragment) if fragment.offset <= position => (fragment.offset + fragment.length - position, true),
            Some(fragment) => (fragment.offset - position, false),
            None => (self.size - position, false),
        }
    }
}

impl SparseFormat {
    /// Applies the record `GNU.sparse.FIELD`; `None` if its value is malformed.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8]) -> Option<()> {
        self.mentioned = true;
        match field {
            b"major" => self.major = decimal(value)?,
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" => self.numbers = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>()?,
            _ => {}
        }
        (self.numbers.len() <= 2 * SPARSE_FRAGMENTS_MAX).then_some(())
    }

    /// Location of the map; `None` if the records contradict each other or the stored size.
    pub(crate) fn source(self, stored_bytes: u64) -> Option<SparseSource> {
        if !self.mentioned {
            return Some(SparseSource::Dense);
        }
        let size = self.real_size?;
        match self.major {
            0 => SparseMap::new(pairs(&self.numbers)?, size, stored_bytes).map(SparseSource::Map),
            1 => Some(SparseSource::InData { size }),
            _ => None,
        }
    }
}

/// Converts alternating offsets and lengths to fragments.
pub(crate) fn pairs(numbers: &[u64]) -> Option<Vec<Fragment>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| {
        pairs
            .iter()
            .map(|&[offset, length]| Fragment { offset, length })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let fragment = |offset, length| Fragment { offset, length };
        let map = SparseMap::new(vec![fragment(0, 2), fragment(5, 3)], 10, 5).unwrap();
        assert_eq!(
            [0, 1, 2, 4, 5, 8].map(|at| map.stretch(at)),
            [(2, true), (1, true), (3, false), (1, false), (3, true), (2, false)]
        );
        assert_eq!(SparseMap::new(vec![fragment(5, 3), fragment(0, 2)], 10, 5), None);
        assert_eq!(SparseMap::new(vec![fragment(0, 2), fragment(1, 3)], 10, 5), None);
        assert_eq!(SparseMap::new(vec![fragment(0, 20)], 10, 20), None);
        assert_eq!(SparseMap::new(vec![fragment(u64::MAX, 2)], 10, 2), None);
        assert_eq!(SparseMap::new(vec![fragment(0, 2)], 10, 3), None);
    }
}
