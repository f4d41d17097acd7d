//! System calls without a safe wrapper elsewhere. With `memory.rs` the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use kvm_bindings::kvm_run;
use kvm_ioctls::Kvm;

/// Makes all threads share the first heap. When the other heaps shrink, glibc reads `/proc/sys/vm/overcommit_memory`
/// (`shrink_heap`), which no filter permits; the first heap uses `brk` only.
pub(crate) fn use_one_heap() {
    // SAFETY: sets a number in the allocator; called before there are other threads. A refusal is no harm by itself.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Takes ownership of an inherited fd.
///
/// # Errors
/// `EBADF` when nothing is open under that number.
pub(crate) fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD touches no memory and fails on numbers that are not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and `Inherited`, the only caller, takes each number once and before this process opens
    // fds of its own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a KVM handle from an open fd of `/dev/kvm`.
pub(crate) fn kvm(fd: OwnedFd) -> Kvm {
    // SAFETY: ownership moves from the OwnedFd to the Kvm.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

/// Reason why KVM gave up (`KVM_EXIT_INTERNAL_ERROR`).
pub(crate) fn internal_suberror(run: &kvm_run) -> u32 {
    // SAFETY: every variant of the union is plain data; after this exit reason KVM has filled in this one.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}

/// Length of the regular file open as `number`; `None` for other files.
pub(crate) fn file_bytes(number: RawFd) -> Option<u64> {
    // SAFETY: zeros are a valid value of this plain structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: stat is a live structure of the right type; a number that is not open gives an error.
    let result = unsafe { libc::fstat(number, &raw mut stat) };
    (result == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_size.unsigned_abs())
}

/// Time of `CLOCK_MONOTONIC` in nanoseconds. Uses libc, which found the vDSO's clock before the filters were installed;
/// rustix looks for it at first use, with a call that the filters forbid.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: now is a live structure of the right type. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
