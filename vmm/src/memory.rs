//! Guest memory: anonymous, private, empty until touched. One of the two places with unsafe code.
#![allow(unsafe_code)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::layout;

/// Why a machine has no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host gave no address space.
    #[error("cannot map {mib} MiB")]
    Map {
        /// How much.
        mib: u32,
        /// Cause.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// A region has no host address.
    #[error("a memory region has no address")]
    Address(#[source] vm_memory::GuestMemoryError),
    /// KVM refused a region.
    #[error("KVM refuses the memory region at {guest_address:#x}")]
    Register {
        /// Where.
        guest_address: u64,
        /// Cause.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Reserves the memory of a machine. No page exists before it is touched, so this costs nothing.
pub(crate) fn allocate(mib: u32) -> Result<GuestMemoryMmap, MemoryError> {
    let ranges: Vec<_> = layout::memory_ranges(u64::from(mib) << 20)
        .into_iter()
        .map(|(start, bytes)| (GuestAddress(start), bytes as usize))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| MemoryError::Map { mib, source })
}

/// Gives `memory` to `vm`, which must be dropped no later than `memory`.
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

/// Asks for huge pages where `bytes` are about to be written at `start`: a kernel fills its memory anyway, and thousands
/// of small page faults were most of the time that loading it took. A hint: a host without huge pages ignores it.
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
