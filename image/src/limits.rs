//! Every bound on what an image, a registry or a converter may make this crate spend, with the reason for each figure.
//!
//! Going over a limit is an error that names it; nothing of the object stays behind.

/// Longest manifest or index, bytes: containerd's and Docker Hub's own ceiling. Real ones are below 100 KiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Longest image config, bytes. History lines make them long; 4 MiB holds thousands.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// An index may name an index: this many levels down, more than any tool writes.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Entries of one index, and images of one archive. Multi-platform images have about a dozen.
pub const INDEX_ENTRIES_MAX: usize = 1024;

/// Nesting of JSON arrays and objects. The documents of the image specification need five.
pub const JSON_DEPTH_MAX: usize = 32;

/// Values of one JSON document, nested ones counted. A config of 127 layers with a long history has about 1 000; each takes
/// up to 700 bytes of memory, whatever its length in the document.
pub const JSON_VALUES_MAX: usize = 64 << 10;

/// Entries of one list of an image config: arguments, variables, labels, volumes, exposed ports. Real ones have dozens.
pub const CONFIG_LIST_MAX: usize = 4096;

/// Longest argument, variable, path or port of an image config, bytes: Linux's `MAX_ARG_STRLEN`.
pub const CONFIG_STRING_BYTES_MAX: usize = 128 << 10;

/// Longest label of an image config, bytes. Build packs keep a bill of materials of some 100 KiB in one.
pub const CONFIG_LABEL_BYTES_MAX: usize = 1 << 20;

/// Layers of an image: what docker's overlay driver allows; also the number of EROFS device slots.
pub const LAYERS_MAX: usize = 128;

/// Bytes of one layer as downloaded.
pub const LAYER_BYTES_MAX: u64 = 10 << 30;

/// Bytes of one layer's tar after decompression.
pub const LAYER_EXPANDED_BYTES_MAX: u64 = 10 << 30;

/// Bytes of all layers of an image after decompression.
pub const IMAGE_EXPANDED_BYTES_MAX: u64 = 20 << 30;

/// Once a layer has expanded to more than [`RATIO_FREE_BYTES`], this many output bytes per input byte are the most that
/// is believed. Deflate cannot exceed 1032:1, honest trees stay below 20:1; zstd of zeros reaches 30 000:1.
pub const EXPANSION_RATIO_MAX: u64 = 1000;

/// Below this many expanded bytes the ratio is not looked at: a few sparse files are not an attack.
pub const RATIO_FREE_BYTES: u64 = 100 << 20;

/// Entries of one layer's tar. A full desktop root has about 400 000.
pub const LAYER_ENTRIES_MAX: u64 = 1_000_000;

/// Entries of all layers of an image, those of a layer that it has twice counted twice: what a merge reads, in some ten
/// seconds. Layers seldom replace each other's files, so that real images have about as many as files.
pub const IMAGE_ENTRIES_MAX: u64 = 4 * LAYER_ENTRIES_MAX;

/// Files, links and directories of a merged rootfs. Bounds the memory of the merge (about 200 bytes each).
pub const ROOTFS_ENTRIES_MAX: u32 = 1_000_000;

/// Names, link targets and extended attributes of a merged rootfs, bytes: what the merge holds in memory besides inodes.
pub const ROOTFS_NAME_BYTES_MAX: u64 = 96 << 20;

/// Longest path, bytes: Linux's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;

/// Longest path component, bytes: Linux's `NAME_MAX`.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Components of a path. The deepest trees of real images (nested node_modules) stay near 40.
pub const PATH_DEPTH_MAX: usize = 128;

/// Symbolic links followed while one path is resolved: Linux's limit is 40, containerd's 255.
pub const LINKS_FOLLOWED_MAX: usize = 255;

/// Extended attributes of one inode, bytes: Linux's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
pub const XATTR_BYTES_MAX: usize = 64 << 10;

pub use capsid_archive::limits::{SPARSE_FRAGMENTS_MAX, TAR_HEADER_BYTES_MAX};

/// Longest seal of a converted object, bytes. It holds a digest and a stamp for each of two files.
pub const SEAL_BYTES_MAX: u64 = 16 << 10;

/// Window that a zstd frame may ask for, as a power of two: 128 MiB, what `zstd -d` allows without `--long`.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Memory that an xz block may ask for, KiB: the dictionary of `xz -9`, and as much again.
pub const XZ_MEMORY_KIB_MAX: u32 = 128 << 10;

/// Longest answer of a converter, bytes. It holds a digest and four numbers, or one error.
pub const CONVERTER_REPLY_BYTES_MAX: usize = 64 << 10;

/// Wall time a converter may stay silent after its input has ended, seconds: the merge of a million entries takes five.
pub const CONVERTER_REPLY_SECONDS_MAX: u64 = 300;

/// Address space of a converter, bytes: the merge of [`ROOTFS_ENTRIES_MAX`] entries, or a 128 MiB zstd window.
pub const CONVERTER_MEMORY_BYTES_MAX: u64 = 768 << 20;

/// Length of a file that a converter writes, bytes: a layer's data blob, where each file may add most of a block to what
/// the tar held, or an expanded archive.
pub const CONVERTER_FILE_BYTES_MAX: u64 = ARCHIVE_BYTES_MAX;

/// CPU time of a converter, seconds: the largest archive at 20 MB/s, a tenth of what it does.
pub const CONVERTER_CPU_SECONDS_MAX: u64 = ARCHIVE_BYTES_MAX / 20_000_000;

/// Longest error text of a registry that is shown, bytes.
pub const REGISTRY_TEXT_BYTES_MAX: usize = 512;

/// Longest answer with an error that is read, bytes. Real ones are below 1 KiB; a longer one is shown without its text.
pub const REGISTRY_ERROR_BYTES_MAX: u64 = 64 << 10;

/// Longest token answer of a registry, bytes. Real tokens are below 10 KiB.
pub const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// Longest of docker's config files that is believed, bytes. Real ones are below 10 KiB; a longer one is cut, and so no JSON.
pub const DOCKER_CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Longest challenge of a registry (`WWW-Authenticate`), bytes. Real ones are below 400 bytes.
pub const CHALLENGE_BYTES_MAX: usize = 8 << 10;

/// Parameters of a challenge. Real ones have three or four.
pub const CHALLENGE_PARAMETERS_MAX: usize = 16;

/// Wall time of a request for a token, seconds: more than a slow token service takes, and the end of one that drips bytes.
pub const TOKEN_SECONDS_MAX: u64 = 30;

/// Longest output of a credential helper, bytes, and the same for its errors: a name and a token of at most
/// [`TOKEN_BYTES_MAX`], with room.
pub const HELPER_BYTES_MAX: u64 = 1 << 20;

/// Wall time of a credential helper, seconds: key rings and cloud services answer within one or two.
pub const HELPER_SECONDS_MAX: u64 = 10;

/// Longest name of a credential helper, bytes. Real ones are below 20.
pub const HELPER_NAME_BYTES_MAX: usize = 64;

/// Layers downloaded at once: docker's figure; more does not fill a line better and keeps more converters busy.
pub const DOWNLOADS_AT_ONCE: usize = 3;

/// Tries for one request or blob before giving up; each broken connection counts one unless bytes arrived since.
pub const TRIES_MAX: u32 = 5;

/// Seconds without a byte before a connection counts as broken.
pub const NO_PROGRESS_SECONDS: u64 = 30;

/// Redirects followed for one request.
pub const REDIRECTS_MAX: usize = 5;

/// Longest time after which a registry that wants fewer requests is asked again without a word, seconds: about what the
/// pauses between tries come to.
pub const RETRY_SECONDS_MAX: u64 = 8;

/// Bytes of a whole archive given to `load`: an image and its manifests, twice for archives that hold both layouts.
pub const ARCHIVE_BYTES_MAX: u64 = 2 * IMAGE_EXPANDED_BYTES_MAX;

/// Manifests, indexes and configs of an archive given to `load`, bytes together: a thousand images have 20 MiB.
pub const ARCHIVE_DOCUMENTS_BYTES_MAX: u64 = 64 << 20;

/// Names and link targets of all members of an archive given to `load`, bytes: what its reader holds in memory.
pub const ARCHIVE_NAMES_BYTES_MAX: usize = 16 << 20;

/// Longest catalog of an archive given to `load`, bytes: a thousand images of a dozen layers, some 400 bytes each, twice.
pub const CATALOG_BYTES_MAX: u64 = 16 << 20;

/// Files that the reader of a layout's folder may ask for: index, manifest and config of each image, and its layers twice.
pub const CATALOG_FILES_MAX: usize = 2 * ARCHIVE_MEMBERS_MAX;

/// Members of an archive given to `load`: each image has a manifest, a config and its layers, in two layouts.
pub const ARCHIVE_MEMBERS_MAX: usize = 64 << 10;
