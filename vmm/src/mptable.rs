//! MP table: processors and interrupt lines, for a guest without ACPI.
//!
//! Intel, MultiProcessor Specification 1.4, chapter 4: a floating pointer, a header, then entries of 20 bytes
//! (processors) or 8 bytes (the rest), in the order of their types.

use crate::layout;

/// Number of the ISA bus; with no other bus there are no PCI interrupts to describe.
const ISA_BUS: u8 = 0;
/// Version of a local APIC that is integrated (`APIC_VERSION` of KVM's).
const APIC_VERSION: u8 = 0x14;
/// Number of pins of the I/O APIC.
const PINS: u8 = 24;
/// Id that stands for all local APICs.
const ALL_APICS: u8 = 0xff;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;
const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTERNAL: u8 = 3;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
const IO_APIC_USABLE: u8 = 1;

/// Builds the table for `vcpus` processors, to be placed at [`layout::MP_TABLE`].
pub(crate) fn build(vcpus: u8) -> Vec<u8> {
    let entries = entries(vcpus);
    let count = entries.len() as u16;
    let body: Vec<u8> = entries.concat();
    let header = header(count, &body);
    let mut table = floating_pointer();
    table.extend_from_slice(&header);
    table.extend_from_slice(&body);
    table
}

fn floating_pointer() -> Vec<u8> {
    let header = layout::MP_TABLE as u32 + 16;
    let mut pointer = b"_MP_".to_vec();
    pointer.extend_from_slice(&header.to_le_bytes());
    // Length in paragraphs, revision 1.4, checksum, then five feature bytes: a table, no PIC mode.
    pointer.extend_from_slice(&[1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer
}

fn header(count: u16, body: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: u16 = 44;
    let mut header = b"PCMP".to_vec();
    header.extend_from_slice(&(HEADER_BYTES + body.len() as u16).to_le_bytes());
    header.extend_from_slice(&[4, 0]);
    header.extend_from_slice(b"CAPSID  MACHINE     ");
    // No OEM table.
    header.extend_from_slice(&[0; 6]);
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    // No extended table.
    header.extend_from_slice(&[0; 4]);
    header[7] = checksum(&[&header, body].concat());
    header
}

fn entries(vcpus: u8) -> Vec<Vec<u8>> {
    let io_apic = vcpus;
    let mut entries: Vec<Vec<u8>> = (0..vcpus).map(processor).collect();
    let mut bus = vec![ENTRY_BUS, ISA_BUS];
    bus.extend_from_slice(b"ISA   ");
    entries.push(bus);
    let mut chip = vec![ENTRY_IO_APIC, io_apic, APIC_VERSION, IO_APIC_USABLE];
    chip.extend_from_slice(&layout::IO_APIC.to_le_bytes());
    entries.push(chip);
    // Flags 0: edge, active high, as on the ISA bus, and as irqfd raises it.
    entries.extend((0..PINS).map(|pin| vec![ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, 0, 0, ISA_BUS, pin, io_apic, pin]));
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![
        ENTRY_LOCAL_INTERRUPT,
        INTERRUPT_NMI,
        0,
        0,
        ISA_BUS,
        0,
        ALL_APICS,
        1,
    ]);
    entries
}

fn processor(index: u8) -> Vec<u8> {
    let flags = if index == 0 {
        CPU_ENABLED | CPU_BOOT
    } else {
        CPU_ENABLED
    };
    let mut entry = vec![ENTRY_PROCESSOR, index, APIC_VERSION, flags];
    // Signature and features are looked up by CPUID; these say "family 6, with FPU and APIC".
    entry.extend_from_slice(&0x600u32.to_le_bytes());
    entry.extend_from_slice(&0x201u32.to_le_bytes());
    entry.extend_from_slice(&[0; 8]);
    entry
}

/// Checksum: the byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VCPUS_MAX;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn the_largest_table_fits_the_kibibyte_that_is_searched() {
        assert!(build(VCPUS_MAX).len() <= 1024);
    }

    #[test]
    fn both_checksums_hold() {
        for vcpus in 1..=VCPUS_MAX {
            let table = build(vcpus);
            assert_eq!(sum(&table[..16]), 0);
            assert_eq!(sum(&table[16..]), 0);
        }
    }

    #[test]
    fn lengths_and_counts_are_those_of_the_entries() {
        let table = build(3);
        assert_eq!(&table[..4], b"_MP_");
        let header = &table[16..];
        assert_eq!(&header[..4], b"PCMP");
        assert_eq!(usize::from(u16::from_le_bytes([header[4], header[5]])), header.len());
        let mut count = 0;
        let mut rest = &header[44..];
        while let Some(&kind) = rest.first() {
            rest = &rest[if kind == ENTRY_PROCESSOR { 20 } else { 8 }..];
            count += 1;
        }
        assert_eq!(u16::from_le_bytes([header[34], header[35]]), count);
        assert_eq!(count, 3 + 2 + 24 + 2);
    }
}
