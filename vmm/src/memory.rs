//! Guest memory: empty until touched. One of the two modules with unsafe code.
//!
//! The memory is anonymous and private, unless file servers need access to it: then it is a file in memory, which they
//! map as well. It is not always a file, because such memory is more expensive: it gets huge pages only where the
//! host's administrator permits them for shared memory (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`), and what
//! the guest gives back must be punched out of the file (`MADV_REMOVE`; `MADV_DONTNEED` frees nothing of it).
#![allow(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

use crate::layout;

/// Reason why a machine has no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no address space.
    #[error("cannot map {mib} MiB")]
    Map {
        /// Size of the memory in MiB.
        mib: u32,
        /// Cause.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// The file in memory could not be made.
    #[error("cannot make a file of {mib} MiB in memory")]
    File {
        /// Size of the memory in MiB.
        mib: u32,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A region has no host address.
    #[error("a memory region has no address")]
    Address(#[source] vm_memory::GuestMemoryError),
    /// KVM refused a region.
    #[error("KVM refuses the memory region at {guest_address:#x}")]
    Register {
        /// Guest address of the region.
        guest_address: u64,
        /// Cause.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Reserves the memory of a machine. No page exists before it is touched, so this costs nothing. Memory that
/// `is_shared` can be passed to other processes.
pub(crate) fn allocate(mib: u32, is_shared: bool) -> Result<GuestMemoryMmap, MemoryError> {
    let bytes = u64::from(mib) << 20;
    let file = is_shared.then(|| file(bytes)).transpose();
    let file = file.map_err(|source| MemoryError::File { mib, source })?;
    let mut offset = 0;
    let ranges = layout::memory_ranges(bytes).into_iter().map(|(start, bytes)| {
        let place = file.clone().map(|file| FileOffset::from_arc(file, offset));
        offset += bytes;
        (GuestAddress(start), bytes as usize, place)
    });
    GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|source| MemoryError::Map { mib, source })
}

/// Makes a file in memory whose length is final: a process that gets it cannot take pages from under us.
fn file(bytes: u64) -> std::io::Result<Arc<File>> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("guest-memory", flags)?);
    file.set_len(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Arc::new(file))
}

/// Registers `memory` with `vm`, which must be dropped no later than `memory`.
pub(crate) fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for (slot, region) in memory.iter().enumerate() {
        let guest_address = region.start_addr().raw_value();
        let host_address = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(MemoryError::Address)?;
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: guest_address,
            memory_size: region.len(),
            userspace_addr: host_address as u64,
        };
        // SAFETY: the region is a mapping of this size that the machine keeps as long as the VM, and slots do not
        // overlap because the layout's ranges do not.
        unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Register { guest_address, source })?;
    }
    Ok(())
}

/// Requests huge pages where `bytes` are about to be written at `start`: a kernel fills its memory anyway, and
/// thousands of small page faults were most of the time that loading it took. This is a hint: a host without huge pages
/// ignores it.
pub(crate) fn expect_filled(memory: &GuestMemoryMmap, start: u64, bytes: u64) {
    const HUGE_PAGE_BYTES: u64 = 2 << 20;
    if bytes < HUGE_PAGE_BYTES {
        return;
    }
    let Ok(slice) = memory.get_slice(GuestAddress(start), bytes as usize) else {
        return;
    };
    let address = slice.ptr_guard_mut().as_ptr();
    // SAFETY: the slice is a mapped piece of guest memory, and this advice does not change what it holds.
    unsafe { libc::madvise(address.cast(), slice.len(), libc::MADV_HUGEPAGE) };
}
