//! Boot by PVH (`Documentation/arch/x86/boot.rst`, Xen's `docs/misc/pvh.pandoc`): the kernel's 32-bit entry point is
//! called with a pointer to a few structures that describe what memory holds.

use std::fs::File;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability, start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{layout, memory};

/// Magic number of the start info, `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// Type of ordinary memory, `XEN_HVM_MEMMAP_TYPE_RAM`.
const TYPE_RAM: u32 = 1;
/// Size of a page, at which modules are aligned.
const PAGE_BYTES: u64 = 4096;

/// Reason why there is nothing to boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The size of the kernel cannot be read.
    #[error("cannot read the size of the kernel")]
    KernelSize(#[source] std::io::Error),
    /// The kernel is not an ELF kernel, or too large for the memory.
    #[error("cannot load the kernel")]
    Load(#[source] linux_loader::loader::Error),
    /// The kernel has no `XEN_ELFNOTE_PHYS32_ENTRY`.
    #[error("the kernel has no PVH entry point (CONFIG_PVH)")]
    NoPvhEntry,
    /// The size of the initramfs cannot be read.
    #[error("cannot read the size of the initramfs")]
    InitramfsSize(#[source] std::io::Error),
    /// Kernel and initramfs need more memory than there is.
    #[error("the initramfs of {bytes} bytes does not fit between the kernel and the end of low memory")]
    InitramfsTooLarge {
        /// Size of the initramfs in bytes.
        bytes: u64,
    },
    /// The initramfs cannot be read.
    #[error("cannot load the initramfs")]
    LoadInitramfs(#[source] vm_memory::GuestMemoryError),
    /// The command line is longer than the kernel's buffer.
    #[error("the kernel command line has {bytes} bytes, the kernel takes {}", layout::COMMAND_LINE_BYTES - 1)]
    CommandLineTooLong {
        /// Length of the command line in bytes, with the devices appended.
        bytes: usize,
    },
    /// A structure cannot be written.
    #[error("cannot write the boot structures")]
    WriteStructures(#[source] vm_memory::GuestMemoryError),
}

/// Reads kernel and initramfs straight into guest memory, and writes the structures; returns the entry point.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    kernel: &mut File,
    initramfs: &mut File,
    command_line: &str,
) -> Result<u64, KernelError> {
    let kernel_bytes = kernel.metadata().map_err(KernelError::KernelSize)?.len();
    memory::expect_filled(memory, layout::KERNEL, kernel_bytes);
    let above = Some(GuestAddress(layout::HIGH_MEMORY));
    let kernel = Elf::load(memory, None, kernel, above).map_err(KernelError::Load)?;
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err(KernelError::NoPvhEntry);
    };
    let module = load_initramfs(memory, initramfs, kernel.kernel_end)?;
    write_structures(memory, command_line, module)?;
    Ok(entry.0)
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    initramfs: &mut File,
    kernel_end: u64,
) -> Result<start_info::hvm_modlist_entry, KernelError> {
    let bytes = initramfs.metadata().map_err(KernelError::InitramfsSize)?.len();
    let low_end = memory.last_addr().0.saturating_add(1).min(layout::HOLE_START);
    let too_large = KernelError::InitramfsTooLarge { bytes };
    let Some(start) = low_end.checked_sub(bytes).map(|start| start & !(PAGE_BYTES - 1)) else {
        return Err(too_large);
    };
    if start < kernel_end {
        return Err(too_large);
    }
    memory
        .read_exact_volatile_from(GuestAddress(start), initramfs, bytes as usize)
        .map_err(KernelError::LoadInitramfs)?;
    Ok(start_info::hvm_modlist_entry {
        paddr: start,
        size: bytes,
        ..Default::default()
    })
}

fn write_structures(
    memory: &GuestMemoryMmap,
    command_line: &str,
    module: start_info::hvm_modlist_entry,
) -> Result<(), KernelError> {
    if command_line.len() >= layout::COMMAND_LINE_BYTES {
        return Err(KernelError::CommandLineTooLong {
            bytes: command_line.len(),
        });
    }
    let write = KernelError::WriteStructures;
    memory
        .write_slice(command_line.as_bytes(), GuestAddress(layout::COMMAND_LINE))
        .map_err(write)?;
    let end = GuestAddress(layout::COMMAND_LINE + command_line.len() as u64);
    memory.write_obj(0u8, end).map_err(write)?;
    memory.write_obj(module, GuestAddress(layout::MODULES)).map_err(write)?;
    let map = memory_map(memory);
    for (index, entry) in map.iter().enumerate() {
        let at = layout::MEMORY_MAP + (index * size_of_val(entry)) as u64;
        memory.write_obj(*entry, GuestAddress(at)).map_err(write)?;
    }
    let info = start_info::hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: layout::MODULES,
        cmdline_paddr: layout::COMMAND_LINE,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write_obj(info, GuestAddress(layout::START_INFO)).map_err(write)
}

/// Memory map of the guest: conventional memory up to the MP table, then everything above 1 MiB.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<start_info::hvm_memmap_table_entry> {
    let ram = |addr, size| start_info::hvm_memmap_table_entry {
        addr,
        size,
        type_: TYPE_RAM,
        reserved: 0,
    };
    let mut map = vec![ram(0, layout::MP_TABLE)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(layout::HIGH_MEMORY);
        map.push(ram(start, region.start_addr().0 + region.len() - start));
    }
    map
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_memory_map_covers_all_but_the_legacy_area() {
        let memory = memory::allocate(4096, false).expect("memory");
        let map: Vec<_> = memory_map(&memory)
            .iter()
            .map(|entry| (entry.addr, entry.size))
            .collect();
        assert_eq!(map, [(0, 0x9_fc00), (0x10_0000, 0xbff0_0000), (1 << 32, 1 << 30)]);
    }

    #[test]
    fn an_initramfs_ends_below_the_hole() {
        let memory = memory::allocate(64, false).expect("memory");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 5000]).expect("room");
        std::io::Seek::rewind(&mut file).expect("a file");
        let module = load_initramfs(&memory, &mut file, 0x20_0000).expect("it fits");
        assert_eq!((module.paddr, module.size), ((64 << 20) - 8192, 5000));
        assert_eq!(
            memory
                .read_obj::<u8>(GuestAddress(module.paddr + 4999))
                .expect("memory"),
            7
        );
    }

    #[test]
    fn too_large_an_initramfs_is_an_error() {
        let memory = memory::allocate(32, false).expect("memory");
        let mut file = tempfile::tempfile().expect("a file");
        file.set_len(31 << 20).expect("room");
        let error = load_initramfs(&memory, &mut file, 0x20_0000).expect_err("no room");
        assert!(matches!(error, KernelError::InitramfsTooLarge { bytes } if bytes == 31 << 20));
        file.set_len(1 << 40).expect("room");
        assert!(load_initramfs(&memory, &mut file, 0x20_0000).is_err());
    }

    #[test]
    fn a_long_command_line_is_an_error() {
        let memory = memory::allocate(32, false).expect("memory");
        let line = "x".repeat(layout::COMMAND_LINE_BYTES);
        let error = write_structures(&memory, &line, Default::default()).expect_err("too long");
        assert!(matches!(error, KernelError::CommandLineTooLong { .. }));
    }
}
