//! Layout of guest-physical memory.
//!
//! ```text
//! 0x0000_6000  PVH start info, modules, memory map          0x000f_ffff  end of what the boot structures may use
//! 0x0002_0000  kernel command line                          0x0010_0000  kernel; initramfs at the end below 3 GiB
//! 0x0009_fc00  MP table (last KiB of conventional memory)   0xc000_0000  end of low memory
//! 0xd000_0000  virtio-mmio windows, 4 KiB each              0x1_0000_0000  high memory
//! ```

use crate::config::DISKS_MAX;

/// End of low memory: the range from here to 4 GiB is for devices.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// Start of high memory.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// Address of the `struct hvm_start_info`.
pub(crate) const START_INFO: u64 = 0x6000;
/// Address of the one `struct hvm_modlist_entry`.
pub(crate) const MODULES: u64 = 0x6040;
/// Address of the few `struct hvm_memmap_table_entry`.
pub(crate) const MEMORY_MAP: u64 = 0x7000;
/// Address of the kernel command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Size of the kernel command line in bytes, including the final zero byte: `COMMAND_LINE_SIZE` of Linux on x86.
pub(crate) const COMMAND_LINE_BYTES: usize = 2048;
/// Address of the MP table: Linux looks for it in the last KiB of conventional memory (`find_mptable`).
pub(crate) const MP_TABLE: u64 = 0x9_fc00;
/// First byte of ordinary memory above the boot structures and the legacy area.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// Address that Linux is linked to (`CONFIG_PHYSICAL_START`); only a hint, the ELF file determines the load address.
pub(crate) const KERNEL: u64 = 0x100_0000;

/// Address of the first virtio-mmio window.
pub(crate) const MMIO_START: u64 = 0xd000_0000;
/// Size of a virtio-mmio window: registers up to 0x100, followed by the configuration.
pub(crate) const MMIO_BYTES: u64 = 0x1000;
/// First interrupt of a virtio device; below are timer, keyboard, cascade and serial.
pub(crate) const FIRST_IRQ: u32 = 5;
/// Last pin of the I/O APIC.
const LAST_IRQ: u32 = 23;
/// Maximum number of devices: one window and one interrupt for each.
const DEVICES_MAX: usize = (LAST_IRQ - FIRST_IRQ + 1) as usize;
/// Disks and shares; network, sockets, entropy, balloon.
const _: () = assert!(DISKS_MAX + 4 <= DEVICES_MAX);

/// Interrupt of the first serial port.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// Address of the I/O APIC, where the in-kernel interrupt controller places it.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Address of the local APIC; see [`IO_APIC`].
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Address of the three pages that Intel's virtual real mode needs (`KVM_SET_TSS_ADDR`), inside the hole.
pub(crate) const TSS: usize = 0xfffb_d000;

/// Start and size of each range of a memory of `bytes`.
pub(crate) fn memory_ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(HOLE_START);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((HOLE_END, bytes - low));
    }
    ranges
}

/// Window of the `index`th device.
pub(crate) fn mmio_window(index: usize) -> u64 {
    MMIO_START + index as u64 * MMIO_BYTES
}

/// Interrupt of the `index`th device.
pub(crate) fn irq(index: usize) -> u32 {
    FIRST_IRQ + index as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_hole() {
        assert_eq!(memory_ranges(512 << 20), [(0, 512 << 20)]);
        assert_eq!(memory_ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(memory_ranges((3 << 30) + 4096), [(0, 3 << 30), (1 << 32, 4096)]);
        assert_eq!(memory_ranges(8 << 30), [(0, 3 << 30), (1 << 32, 5 << 30)]);
    }

    #[test]
    fn every_device_fits_the_hole_and_the_io_apic() {
        assert!(mmio_window(DEVICES_MAX) < u64::from(IO_APIC));
        assert_eq!(irq(DEVICES_MAX - 1), LAST_IRQ);
    }
}
