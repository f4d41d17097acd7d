//! Tar archives: reading and writing with docker's semantics, and packing and unpacking of file trees.
//!
//! | file | noun |
//! |---|---|
//! | `reader` | an archive as a stream of members; every header bounded before it is read |
//! | `writer` | the same the other way: ustar, with PAX records where they are needed |
//! | `pack` | a tree of files becomes an archive |
//! | `unpack` | an archive becomes a tree of files |
//! | `destination` | where it goes, as docker has it |
//!
//! `pack` and `unpack` are used on both sides of `cp`, and one side is hostile each time: whoever changes the tree
//! while it is read, and whoever made the archive. So every file is opened from an open folder, one name at a time, and
//! no link is ever followed. A name that climbs is refused, and everything is created beneath the folder that the
//! caller opened.

pub mod limits;

mod destination;
mod pack;
mod pax;
mod reader;
mod sparse;
mod unpack;
mod writer;

pub use destination::{Copied, Destination, DestinationError, Found, destination};
pub use pack::{PackError, Packer};
pub use reader::{Member, ReadTarError, TarReader, Xattr};
pub use unpack::{Placing, UnpackError, Unpacked, Unpacking};
pub use writer::TarWriter;
