//! Limits on what an image, a registry or a converter may make this crate spend, with the reason for each figure.
//!
//! Exceeding a limit is an error that names it; nothing of the object stays behind.

/// Longest manifest or index, bytes: containerd's and Docker Hub's own ceiling. Real ones are below 100 KiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Longest image config, bytes. History lines make them long; 4 MiB holds thousands.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Largest number of levels in which an index may name another index: more than any tool writes.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Largest number of entries of one index, and of images of one archive. Multi-platform images have about a dozen.
pub const INDEX_ENTRIES_MAX: usize = 1024;

/// Deepest nesting of JSON arrays and objects. The documents of the image specification need five.
pub const JSON_DEPTH_MAX: usize = 32;

/// Largest number of values of one JSON document, nested ones included. A config of 127 layers with a long history has
/// about 1 000; each takes up to 700 bytes of memory, whatever its length in the document.
pub const JSON_VALUES_MAX: usize = 64 << 10;

/// Largest number of entries of one list of an image config: arguments, variables, labels, volumes, exposed ports. Real
/// lists have dozens.
pub const CONFIG_LIST_MAX: usize = 4096;

/// Longest argument, variable, path or port of an image config, bytes: Linux's `MAX_ARG_STRLEN`.
pub const CONFIG_STRING_BYTES_MAX: usize = 128 << 10;

/// Longest label of an image config, bytes. Buildpacks keep a bill of materials of some 100 KiB in one.
pub const CONFIG_LABEL_BYTES_MAX: usize = 1 << 20;

/// Largest number of layers of an image: the limit of docker's overlay driver; also the number of EROFS device slots.
pub const LAYERS_MAX: usize = 128;

/// Largest size of one layer as downloaded, bytes.
pub const LAYER_BYTES_MAX: u64 = 10 << 30;

/// Largest size of one layer's tar after decompression, bytes.
pub const LAYER_EXPANDED_BYTES_MAX: u64 = 10 << 30;

/// Largest size of all layers of an image after decompression, bytes.
pub const IMAGE_EXPANDED_BYTES_MAX: u64 = 20 << 30;

/// Number of times that all new layers of an archive may be longer than its own layers, beyond what one image may have:
/// several times what compression does to files of programs.
pub(crate) const ARCHIVE_EXPANSION_RATIO_MAX: u64 = 20;

/// Largest number of output bytes per input byte that is accepted once a layer has expanded to more than
/// [`RATIO_FREE_BYTES`]. Deflate cannot exceed 1032:1, honest trees stay below 20:1; zstd of zeros reaches 30 000:1.
pub const EXPANSION_RATIO_MAX: u64 = 1000;

/// Number of expanded bytes below which the ratio is not checked: a few sparse files are not an attack.
pub const RATIO_FREE_BYTES: u64 = 100 << 20;

/// Largest number of entries of one layer's tar. A full desktop root has about 400 000.
pub const LAYER_ENTRIES_MAX: u64 = 1_000_000;

/// Largest number of entries of all layers of an image, where a layer that occurs twice counts twice: a merge reads
/// them in some ten seconds. Layers seldom replace each other's files, so real images have about as many entries as
/// files.
pub const IMAGE_ENTRIES_MAX: u64 = 4 * LAYER_ENTRIES_MAX;

/// Largest number of files, links and directories of a merged rootfs. Limits the memory of the merge (about 200 bytes
/// each).
pub const ROOTFS_ENTRIES_MAX: u32 = 1_000_000;

/// Longest total of the names, link targets and extended attributes of a merged rootfs, bytes: the merge holds them in
/// memory besides the inodes.
pub const ROOTFS_NAME_BYTES_MAX: u64 = 96 << 20;

/// Longest path, bytes: Linux's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;

/// Longest path component, bytes: Linux's `NAME_MAX`.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Largest number of components of a path. The deepest trees of real images (nested node_modules) stay near 40.
pub const PATH_DEPTH_MAX: usize = 128;

/// Largest number of symbolic links followed while one path is resolved: Linux's limit is 40, containerd's 255.
pub const LINKS_FOLLOWED_MAX: usize = 255;

/// Longest extended attributes of one inode, bytes: Linux's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
pub const XATTR_BYTES_MAX: usize = 64 << 10;

pub use capsid_archive::limits::{SPARSE_FRAGMENTS_MAX, TAR_HEADER_BYTES_MAX};

/// Longest seal of a converted object, bytes. A seal holds a digest and a stamp for each of two files.
pub const SEAL_BYTES_MAX: u64 = 16 << 10;

/// Largest window that a zstd frame may ask for, as a power of two: 128 MiB, which `zstd -d` allows without `--long`.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Largest memory that an xz block may ask for, KiB: the dictionary of `xz -9`, and as much again.
pub const XZ_MEMORY_KIB_MAX: u32 = 128 << 10;

/// Longest reply of a converter, bytes. A reply holds a digest and four numbers, or one error.
pub const CONVERTER_REPLY_BYTES_MAX: usize = 64 << 10;

/// Time limit for a converter's reply after its input has ended, seconds: the merge of a million entries takes five.
pub const CONVERTER_REPLY_SECONDS_MAX: u64 = 300;

/// Largest address space of a converter, bytes: for the merge of [`ROOTFS_ENTRIES_MAX`] entries, or a 128 MiB zstd
/// window.
pub const CONVERTER_MEMORY_BYTES_MAX: u64 = 768 << 20;

/// Longest file that a converter writes, bytes: a layer's data blob, where each file may add most of a block to what
/// the tar held, or an expanded archive.
pub const CONVERTER_FILE_BYTES_MAX: u64 = ARCHIVE_BYTES_MAX;

/// Limit on the CPU time of a converter, seconds: for the largest archive at 20 MB/s, a tenth of the usual speed.
pub const CONVERTER_CPU_SECONDS_MAX: u64 = ARCHIVE_BYTES_MAX / 20_000_000;

/// Longest error text of a registry that is shown, bytes.
pub const REGISTRY_TEXT_BYTES_MAX: usize = 512;

/// Longest error answer that is read, bytes. Real ones are below 1 KiB; a longer one is shown without its text.
pub const REGISTRY_ERROR_BYTES_MAX: u64 = 64 << 10;

/// Longest token answer of a registry, bytes. Real tokens are below 10 KiB.
pub const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// Longest docker config file that is read, bytes. Real ones are below 10 KiB; a longer one is cut, and so is no valid
/// JSON.
pub const DOCKER_CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Longest challenge of a registry (`WWW-Authenticate`), bytes. Real ones are below 400 bytes.
pub const CHALLENGE_BYTES_MAX: usize = 8 << 10;

/// Largest number of parameters of a challenge. Real challenges have three or four.
pub const CHALLENGE_PARAMETERS_MAX: usize = 16;

/// Time limit of a request for a token, seconds: more than a slow token service takes, and the end of one that drips
/// bytes.
pub const TOKEN_SECONDS_MAX: u64 = 30;

/// Longest output of a credential helper, bytes, which is also the limit for its errors: a name and a token of at most
/// [`TOKEN_BYTES_MAX`], with room to spare.
pub const HELPER_BYTES_MAX: u64 = 1 << 20;

/// Time limit of a credential helper, seconds: key rings and cloud services answer within one or two.
pub const HELPER_SECONDS_MAX: u64 = 10;

/// Longest name of a credential helper, bytes. Real ones are below 20.
pub const HELPER_NAME_BYTES_MAX: usize = 64;

/// Number of layers downloaded at once: docker's figure; more do not use a line better and keep more converters busy.
pub const DOWNLOADS_AT_ONCE: usize = 3;

/// Number of attempts for one request or blob; each broken connection counts as one unless bytes arrived since the
/// last.
pub const TRIES_MAX: u32 = 5;

/// Time without a byte after which a connection counts as broken, seconds.
pub const NO_PROGRESS_SECONDS: u64 = 30;

/// Largest number of redirects followed for one request.
pub const REDIRECTS_MAX: usize = 5;

/// Longest `Retry-After` of a registry for which a request is retried without an error, seconds: about the total of the
/// pauses between attempts.
pub const RETRY_SECONDS_MAX: u64 = 8;

/// Largest size of an archive given to `load`, bytes: an image and its manifests, twice for archives that hold both
/// layouts.
pub const ARCHIVE_BYTES_MAX: u64 = 2 * IMAGE_EXPANDED_BYTES_MAX;

/// Largest total of manifests, indexes and configs of an archive given to `load`, bytes: a thousand images have 20 MiB.
pub const ARCHIVE_DOCUMENTS_BYTES_MAX: u64 = 64 << 20;

/// Longest total of the names and link targets of an archive given to `load`, bytes: its reader holds them in memory.
pub const ARCHIVE_NAMES_BYTES_MAX: usize = 16 << 20;

/// Longest catalog of an archive given to `load`, bytes: a thousand images of a dozen layers, some 400 bytes each,
/// twice.
pub const CATALOG_BYTES_MAX: u64 = 16 << 20;

/// Largest number of files that the reader of a layout's folder may ask for: index, manifest and config of each image,
/// and its layers twice.
pub const CATALOG_FILES_MAX: usize = 2 * ARCHIVE_MEMBERS_MAX;

/// Largest number of members of an archive given to `load`: each image has a manifest, a config and its layers, in two
/// layouts.
pub const ARCHIVE_MEMBERS_MAX: usize = 64 << 10;
