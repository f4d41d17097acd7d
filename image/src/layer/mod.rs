//! Layers: from the bytes of a registry or archive to a data blob and an index.

pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod entry;
pub(crate) mod expand;
pub(crate) mod fault;
pub(crate) mod index;
pub(crate) mod path;
