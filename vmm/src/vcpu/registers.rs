//! Register values of a vCPU before its first instruction.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::layout;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
/// Bit that enables fast string operations, as firmware leaves it.
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Value that turns MTRRs on with default type write-back, because there is no firmware to do so.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets the model-specific registers that firmware would have set.
pub(super) fn set_msrs(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    if vcpu.set_msrs(&msrs)? == entries.len() {
        Ok(())
    } else {
        Err(kvm_ioctls::Error::new(libc::EINVAL))
    }
}

/// Offset of LINT0 in the local vector table (Intel SDM volume 3, table 11-1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_EXTERNAL: u32 = 0x700;

/// Wires the PIC to LINT0 and NMI to LINT1, as in the MP table.
pub(super) fn set_local_apic(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut apic = vcpu.get_lapic()?;
    set_delivery(&mut apic, LVT_LINT0, DELIVERY_EXTERNAL);
    set_delivery(&mut apic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&apic)
}

fn set_delivery(apic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    let old = u32::from_le_bytes(std::array::from_fn(|byte| apic.regs[offset + byte] as u8));
    let new = old & !DELIVERY_MODE | mode;
    for (byte, value) in new.to_le_bytes().into_iter().enumerate() {
        apic.regs[offset + byte] = value as _;
    }
}

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TASK: u8 = 0xb;

/// Sets up flat 32-bit protected mode without paging (PVH: "boot/initial state").
pub(super) fn set_pvh_special_registers(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut registers = vcpu.get_sregs()?;
    let flat = |type_, selector| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    registers.cs = flat(TYPE_CODE, 0x8);
    let data = flat(TYPE_DATA, 0x10);
    registers.ds = data;
    registers.es = data;
    registers.fs = data;
    registers.gs = data;
    registers.ss = data;
    registers.tr = kvm_segment {
        limit: 0x67,
        selector: 0x18,
        type_: TYPE_TASK,
        present: 1,
        ..Default::default()
    };
    registers.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    registers.cr4 = 0;
    registers.efer = 0;
    vcpu.set_sregs(&registers)
}

/// Sets the entry point, and the start info in `ebx`.
pub(super) fn set_pvh_registers(vcpu: &VcpuFd, entry: u64) -> Result<(), kvm_ioctls::Error> {
    // Bit 1 of rflags is always set.
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        rip: entry,
        rbx: layout::START_INFO,
        ..Default::default()
    })
}
