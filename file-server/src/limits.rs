//! Limits on the resources that a guest can make this process hold.

/// Largest queue: QEMU's virtio-mmio offers this size to a guest (`VIRTQUEUE_MAX_SIZE`), whatever the device says.
pub(crate) const QUEUE_SIZE: usize = 1024;

/// Most bytes in one answer to a folder listing: the guest's kernel asks for at most `max_pages` (256 pages), and the
/// library allocates as much as the guest asks for.
pub(crate) const LISTING_BYTES: u32 = 1 << 20;

/// Most bytes of a request, and of the space for its answer: `max_pages` of data, and a page for the headers before
/// them.
pub(crate) const MESSAGE_BYTES: usize = (1 << 20) + 4096;

/// Most files that are open or known to the guest at a time, where the host permits as many. Each one is an fd, with an
/// inode and a name that stay in the host's memory, about 1.5 KiB together. So a hostile guest holds 400 MiB per share,
/// and a guest that walks a source tree or a folder of packages (a few ten thousand files) has room. Beyond the limit
/// the guest gets `EMFILE`, until its kernel forgets files that it has not used for long.
pub(crate) const FDS: u64 = 1 << 18;

/// Number of threads: main, requests, rings; and the relay outside the pid namespace, which counts for the same user.
pub(crate) const THREADS: u64 = 4;
