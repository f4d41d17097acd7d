//! System calls on guest memory itself: moving bytes between fds and it without a copy, and returning pages. The only
//! unsafe code of the devices.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::Epoll;

use super::chain::Buffers;
use crate::limits::CHAIN_SLICES_MAX;

fn vectors(buffers: &Buffers<'_>) -> Vec<libc::iovec> {
    let vector = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    buffers.slices().take(CHAIN_SLICES_MAX).map(vector).collect()
}

fn check(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Reads at `offset` of a file into guest memory; 0 at the end of the file.
pub(super) fn read_at(file: BorrowedFd<'_>, buffers: &Buffers<'_>, offset: u64) -> io::Result<usize> {
    let vectors = vectors(buffers);
    // SAFETY: each vector is a mapped piece of guest memory for as long as `buffers` borrows it (vm-memory); racing
    // writes by the guest are harmless because nothing in this process holds references to these bytes.
    check(unsafe {
        libc::preadv(
            file.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
            offset as libc::off_t,
        )
    })
}

/// Writes guest memory at `offset` of a file.
pub(super) fn write_at(file: BorrowedFd<'_>, buffers: &Buffers<'_>, offset: u64) -> io::Result<usize> {
    let vectors = vectors(buffers);
    // SAFETY: as in `read_at`.
    check(unsafe {
        libc::pwritev(
            file.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
            offset as libc::off_t,
        )
    })
}

/// Sends guest memory to a stream socket, as much as it accepts without waiting.
pub(super) fn send(socket: BorrowedFd<'_>, buffers: &Buffers<'_>) -> io::Result<usize> {
    let mut vectors = vectors(buffers);
    let message = message(&mut vectors);
    // SAFETY: as in `read_at`; `message` points to `vectors`, which outlives the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Receives available bytes from a stream socket into guest memory; 0 at the end of the stream.
pub(super) fn receive(socket: BorrowedFd<'_>, buffers: &Buffers<'_>) -> io::Result<usize> {
    let mut vectors = vectors(buffers);
    let mut message = message(&mut vectors);
    // SAFETY: as in `send`.
    check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })
}

fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data; all zeros mean: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

/// Kind of host memory that guest memory consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backing {
    /// Anonymous pages of this process alone.
    Private,
    /// A file in memory that other processes map too.
    Shared,
}

impl Backing {
    /// Advice that frees the pages (madvise(2)): with a shared file they must be removed from the file.
    pub(super) fn advice(self) -> libc::c_int {
        match self {
            Self::Private => libc::MADV_DONTNEED,
            Self::Shared => libc::MADV_REMOVE,
        }
    }
}

/// Gives the whole pages within `slice` back to the host; returns the number of their bytes. They read as zeros from
/// now on.
pub(super) fn discard(slice: &VolatileSlice<'_>, backing: Backing) -> io::Result<usize> {
    const PAGE_BYTES: usize = 4096;
    let start = slice.ptr_guard_mut().as_ptr() as usize;
    let (first, last) = (
        start.next_multiple_of(PAGE_BYTES),
        (start + slice.len()) / PAGE_BYTES * PAGE_BYTES,
    );
    if first >= last {
        return Ok(0);
    }
    // SAFETY: the pages lie within a mapped piece of guest memory that `slice` borrows; nothing in this process holds
    // references to guest bytes, so that zeroed pages are to it as if the guest had written them.
    let result = unsafe { libc::madvise(first as *mut libc::c_void, last - first, backing.advice()) };
    if result == 0 {
        Ok(last - first)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Borrows the fd of an epoll instance, which has no method for that.
pub(in crate::virtio) fn epoll_fd(epoll: &Epoll) -> BorrowedFd<'_> {
    // SAFETY: the instance owns the fd, and the result borrows the instance.
    unsafe { BorrowedFd::borrow_raw(epoll.as_raw_fd()) }
}
