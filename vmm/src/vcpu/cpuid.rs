//! CPUID of a guest: KVM's capabilities, minus nested virtualization and the PMU, plus this machine's topology (one
//! package, one thread per core, vCPU index = APIC id).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Bit of leaf 1 ECX: VMX.
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Bit of leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Bit of leaf 0x8000_0001 ECX: SVM.
const SVM: u32 = 1 << 2;
const CORE_PERFORMANCE_COUNTERS: u32 = 1 << 23;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;

/// CPUID of vCPU `index` of `count`.
pub(super) fn of_vcpu(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !is_left_out(entry.function))
        .copied()
        .collect();
    for entry in &mut entries {
        describe(entry, index, count);
    }
    entries.extend(topology(index, count));
    // At most as many entries as KVM returned, and the two of leaf 0xb in place of KVM's own: within the bound that
    // KVM_GET_SUPPORTED_CPUID was called with.
    CpuId::from_entries(&entries).unwrap_or_else(|_| supported.clone())
}

/// Whether a leaf is replaced (topology) or hidden (PMU, nested SVM).
fn is_left_out(function: u32) -> bool {
    matches!(function, 0xa | 0xb | 0x1f | 0x8000_000a | 0x8000_0022)
}

fn describe(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    match entry.function {
        0x1 => {
            entry.ecx = entry.ecx & !VMX | HYPERVISOR | X2APIC | TSC_DEADLINE;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
            // Brand index and CLFLUSH size stay.
            entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(index) << 24;
        }
        // Intel's caches: bits 14..25 logical processors that share one, bits 26..31 cores in the package, minus one.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharers = if level >= 3 { u32::from(count) - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharers << 14 | (u32::from(count) - 1) << 26;
        }
        0x8000_0001 => entry.ecx &= !(SVM | CORE_PERFORMANCE_COUNTERS | TOPOLOGY_EXTENSIONS),
        // AMD: cores in the package minus one; bits of the APIC id that number cores.
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | (u32::from(count) - 1) | id_bits(count) << 12,
        _ => {}
    }
}

/// Entries of leaf 0xb: one thread per core, `count` cores.
fn topology(index: u8, count: u8) -> [kvm_cpuid_entry2; 2] {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let level = |number, shift, processors, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index: number,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: number | kind << 8,
        edx: u32::from(index),
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, id_bits(count), u32::from(count), LEVEL_CORE),
    ]
}

/// Number of bits that APIC ids below `count` take.
fn id_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let entries = [
            leaf(0, 0x1f, 0, 0, 0),
            leaf(1, 0x600, 0x0001_0800, VMX, 0),
            leaf(4, 0x143, 0, 0, 0),
            leaf(0xa, 7, 7, 7, 7),
            leaf(0xb, 0, 0, 0, 99),
            leaf(0x1f, 0, 0, 0, 99),
            leaf(0x8000_0001, 0, 0, SVM | 1, 0),
            leaf(0x8000_0008, 0x3028, 0, 0x7007, 0),
            leaf(0x8000_000a, 1, 1, 1, 1),
        ];
        CpuId::from_entries(&entries).expect("few entries")
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = cpuid
            .as_slice()
            .iter()
            .filter(|entry| entry.function == function && entry.index == index);
        let entry = *found.next().expect("the leaf is there");
        assert!(found.next().is_none(), "leaf {function:#x} is there twice");
        entry
    }

    #[test]
    fn nested_virtualisation_is_hidden() {
        let cpuid = of_vcpu(&supported(), 0, 1);
        assert_eq!(leaf(&cpuid, 1, 0).ecx & VMX, 0);
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx, 1);
        assert!(
            cpuid
                .as_slice()
                .iter()
                .all(|entry| !is_left_out(entry.function) || entry.function == 0xb)
        );
    }

    #[test]
    fn each_vcpu_has_its_own_id() {
        for index in 0..32 {
            let cpuid = of_vcpu(&supported(), index, 32);
            assert_eq!(leaf(&cpuid, 1, 0).ebx, u32::from(index) << 24 | 32 << 16 | 0x0800);
            assert_eq!(leaf(&cpuid, 0xb, 0).edx, u32::from(index));
            assert_eq!(leaf(&cpuid, 0xb, 1).eax, 5);
            assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 0x501f);
        }
    }

    #[test]
    fn one_vcpu_is_no_hyperthread() {
        let cpuid = of_vcpu(&supported(), 0, 1);
        assert_eq!(leaf(&cpuid, 1, 0).edx & HTT, 0);
        assert_eq!(leaf(&cpuid, 0xb, 1).eax, 0);
        assert_eq!(leaf(&cpuid, 4, 0).eax, 0x143);
    }
}
