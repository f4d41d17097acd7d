//! Memory of the probe's guest: page tables, descriptor tables and a few dozen bytes of ring-0 code, written out.

/// Size of the guest's memory in bytes; everything below lies in it.
pub(super) const SIZE: usize = 0x1_0000;

// Physical addresses, equal to the virtual ones. Each table has a page of its own.
pub(super) const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
pub(super) const GDT: u64 = 0x4000;
pub(super) const IDT: u64 = 0x5000;
pub(super) const CODE: u64 = 0x7000;
const BREAKPOINT_HANDLER: u64 = 0x7800;
/// Address of the data that cmpxchg16b and the loop write to; at 0x8100 the area that xrstor reads (64-byte aligned,
/// all zero).
#[cfg(test)]
const DATA: u64 = 0x8000;
pub(super) const STACK_TOP: u64 = 0xa000;

/// Selectors of the descriptors in [`GDT_ENTRIES`].
pub(super) const CODE_SELECTOR: u16 = 0x08;
pub(super) const DATA_SELECTOR: u16 = 0x10;
/// Descriptors: null, 64-bit ring-0 code, ring-0 data (Intel SDM volume 3, 3.4.5).
const GDT_ENTRIES: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
pub(super) const GDT_LIMIT: u16 = 8 * 3 - 1;
/// Limit of the table with vectors 0 to 31, of which only [`BREAKPOINT`] is present.
pub(super) const IDT_LIMIT: u16 = 16 * 32 - 1;
const BREAKPOINT: usize = 3;

/// Number of rounds in one pass of the loop, each of [`INSTRUCTIONS_PER_ROUND`] instructions.
pub(super) const ROUNDS: u32 = 8000;
pub(super) const INSTRUCTIONS_PER_ROUND: u32 = 4;

// Each step ends with a write to the port of its number; the loop, the last step, writes to port 4 after every pass.
pub(super) const PORT_CMPXCHG16B: u16 = 1;
pub(super) const PORT_BREAKPOINT: u16 = 2;
pub(super) const PORT_XRSTOR: u16 = 3;

/// Code of the cmpxchg16b step. Starts with rax = rdx = 0, the content of the memory, so that the exchange takes place.
const CMPXCHG16B: &[u8] = &[
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x80, 0x00, 0x00, // lock cmpxchg16b [0x8000]
    0xe6, 0x01, // out 1, al
];
const INT3: &[u8] = &[
    0xcc, // int3
    0xe6, 0x02, // out 2, al
];
const XRSTOR: &[u8] = &[
    0x31, 0xc9, // xor ecx, ecx
    0x31, 0xd2, // xor edx, edx
    0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, 3 (x87 and SSE state)
    0x0f, 0x01, 0xd1, // xsetbv
    0x48, 0x0f, 0xae, 0x2c, 0x25, 0x00, 0x81, 0x00, 0x00, // xrstor64 [0x8100]
    0xe6, 0x03, // out 3, al
];
/// Code of the endless loop: the host counts the passes.
const LOOP: &[u8] = &[
    0xb9, 0x40, 0x1f, 0x00, 0x00, // again: mov ecx, 8000
    0x48, 0x01, 0xc8, // round: add rax, rcx
    0x48, 0x89, 0x04, 0x25, 0x10, 0x80, 0x00, 0x00, // mov [0x8010], rax
    0xff, 0xc9, // dec ecx
    0x75, 0xf1, // jnz round
    0xe6, 0x04, // out 4, al
    0xeb, 0xe8, // jmp again
];
const IRETQ: &[u8] = &[0x48, 0xcf];

/// Builds the memory at the start. `xsave`: the processor has xrstor; else that step is left out.
pub(super) fn image(xsave: bool) -> Vec<u8> {
    let mut memory = vec![0; SIZE];
    // Present, writable; the directory's only entry is a 2 MiB page from address 0.
    put(&mut memory, PML4, &(PDPT | 0x3).to_le_bytes());
    put(&mut memory, PDPT, &(PAGE_DIRECTORY | 0x3).to_le_bytes());
    put(&mut memory, PAGE_DIRECTORY, &0x83u64.to_le_bytes());
    for (address, entry) in (GDT..).step_by(8).zip(GDT_ENTRIES) {
        put(&mut memory, address, &entry.to_le_bytes());
    }
    put(&mut memory, IDT + 16 * BREAKPOINT as u64, &gate(BREAKPOINT_HANDLER));
    put(&mut memory, BREAKPOINT_HANDLER, IRETQ);
    let xrstor = if xsave { XRSTOR } else { &[] };
    put(&mut memory, CODE, &[CMPXCHG16B, INT3, xrstor, LOOP].concat());
    memory
}

/// Builds a 64-bit interrupt gate to `handler` (Intel SDM volume 3, 6.14.1). Handlers here lie below 64 KiB.
fn gate(handler: u64) -> [u8; 8] {
    let [low, high, ..] = handler.to_le_bytes();
    let [selector_low, selector_high] = CODE_SELECTOR.to_le_bytes();
    [low, high, selector_low, selector_high, 0, 0x8e, 0, 0]
}

/// Writes bytes at an address. All addresses are constants of this file, inside [`SIZE`].
fn put(memory: &mut [u8], address: u64, bytes: &[u8]) {
    let at = address as usize;
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_as_long_as_it_says() {
        assert_eq!(LOOP[1..5], ROUNDS.to_le_bytes());
        // A short jump counts from its own end: to `round` (5) and to `again` (0).
        assert_eq!(20 + i64::from(LOOP[19].cast_signed()), 5);
        assert_eq!(24 + i64::from(LOOP[23].cast_signed()), 0);
        assert_eq!(LOOP.len(), 24);
    }

    #[test]
    fn nothing_overlaps() {
        let memory = image(true);
        assert_eq!(memory.len(), SIZE);
        let code = CMPXCHG16B.len() + INT3.len() + XRSTOR.len() + LOOP.len();
        assert!(CODE as usize + code < BREAKPOINT_HANDLER as usize);
        assert!(memory[DATA as usize..].iter().all(|byte| *byte == 0));
        assert!((IDT + u64::from(IDT_LIMIT)) < CODE);
    }
}
