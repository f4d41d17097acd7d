//! Device rules: an eBPF program on the container's cgroup (`BPF_CGROUP_DEVICE`, kernel `security/device_cgroup.c`).
//!
//! A process with `CAP_MKNOD` may make any node, as in docker; the rules decide which of them can be opened.

use capsid_protocol::spec::{Device, DeviceType};

use crate::sys::BpfInstruction;

/// Device kinds, `BPF_DEVCG_DEV_*` of `linux/bpf.h`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Access bits, `BPF_DEVCG_ACC_*`; the remaining bit is mknod.
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Rule that permits to open one device, or all minors of a major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    kind: i32,
    major: i32,
    minor: Option<i32>,
    /// Access bits that this rule does not permit: of [`READ`] and [`WRITE`].
    refused: i32,
}

impl Rule {
    /// Creates a rule that permits reading and writing.
    const fn whole(kind: i32, major: i32, minor: Option<i32>) -> Self {
        Self {
            kind,
            major,
            minor,
            refused: 0,
        }
    }
}

/// Rules for the terminal devices that every container may open: its own devpts has only its own terminals.
const TERMINALS: [Rule; 4] = [
    Rule::whole(CHARACTER, 5, Some(0)),
    Rule::whole(CHARACTER, 5, Some(1)),
    Rule::whole(CHARACTER, 5, Some(2)),
    Rule::whole(CHARACTER, 136, None),
];

/// Returns the rules for a spec's devices.
pub(super) fn rules(devices: &[Device]) -> Vec<Rule> {
    let of = |d: &Device| Rule {
        kind: if d.kind() == DeviceType::Block {
            BLOCK
        } else {
            CHARACTER
        },
        major: d.major as i32,
        minor: Some(d.minor as i32),
        refused: if d.no_read { READ } else { 0 } | if d.no_write { WRITE } else { 0 },
    };
    TERMINALS.into_iter().chain(devices.iter().map(of)).collect()
}

// Registers: r0 result, r1 context (`struct bpf_cgroup_dev_ctx`: access_type, major, minor), then values read from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const REFUSED: u8 = 6;

// Operation codes: class | size or operation | mode or source, of `linux/bpf.h` and `linux/bpf_common.h`.
const LOAD_WORD: u8 = 0x61;
const MOVE_CONSTANT: u8 = 0xb7;
const MOVE_REGISTER_32: u8 = 0xbc;
const AND_CONSTANT_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// Instructions before those of the first rule.
const PROLOGUE: [BpfInstruction; 9] = [
    // access_type holds the device's kind in its low half and the access bits in its high half.
    instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
    instruction(MOVE_REGISTER_32, ACCESS, KIND, 0, 0),
    instruction(AND_CONSTANT_32, KIND, 0, 0, 0xffff),
    instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
    instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
    instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    // Neither reading nor writing: mknod, which is allowed.
    instruction(AND_CONSTANT_32, ACCESS, 0, 0, READ | WRITE),
    instruction(MOVE_CONSTANT, RESULT, 0, 0, 1),
    // Jumps over the exit below when there is access to judge.
    instruction(JUMP_NOT_EQUAL, ACCESS, 0, 1, 0),
];

/// Builds the program: allows mknod, allows what a rule names, refuses the rest.
pub(super) fn program(rules: &[Rule]) -> Vec<BpfInstruction> {
    let mut program = PROLOGUE.to_vec();
    program.push(instruction(EXIT, 0, 0, 0, 0));
    for rule in rules {
        let mut tests = Vec::new();
        if rule.refused != 0 {
            tests.push(instruction(MOVE_REGISTER_32, REFUSED, ACCESS, 0, 0));
            tests.push(instruction(AND_CONSTANT_32, REFUSED, 0, 0, rule.refused));
            tests.push(instruction(JUMP_NOT_EQUAL, REFUSED, 0, 0, 0));
        }
        let numbers = [(KIND, rule.kind), (MAJOR, rule.major)].into_iter();
        for (register, value) in numbers.chain(rule.minor.map(|minor| (MINOR, minor))) {
            tests.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, value));
        }
        // Each mismatch jumps behind the rule's exit.
        let count = tests.len();
        for (n, test) in tests.iter_mut().enumerate() {
            if test.code == JUMP_NOT_EQUAL {
                test.offset = (count - n) as i16;
            }
        }
        program.extend(tests);
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE_CONSTANT, RESULT, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a program as the kernel would, with only the instructions used here.
    fn allows(program: &[BpfInstruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0i32; 16];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                LOAD_WORD => registers[to] = context[i.offset as usize / 4],
                MOVE_CONSTANT => registers[to] = i.immediate,
                MOVE_REGISTER_32 => registers[to] = registers[from],
                AND_CONSTANT_32 => registers[to] &= i.immediate,
                SHIFT_RIGHT_32 => registers[to] = ((registers[to] as u32) >> i.immediate) as i32,
                JUMP_NOT_EQUAL if registers[to] != i.immediate => at += i.offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[usize::from(RESULT)] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn named_devices_and_terminals_open_and_nothing_else() {
        let null = Device {
            path: "/dev/null".into(),
            kind: 0,
            major: 1,
            minor: 3,
            mode: 0o666,
            ..Device::default()
        };
        let disk = Device {
            kind: 1,
            major: 254,
            minor: 5,
            ..null.clone()
        };
        let program = program(&rules(&[null, disk]));
        for access in [2, 4, 6, 7] {
            assert!(allows(&program, CHARACTER, access, 1, 3));
            assert!(allows(&program, CHARACTER, access, 136, 77));
            assert!(allows(&program, CHARACTER, access, 5, 2));
            assert!(allows(&program, BLOCK, access, 254, 5));
            assert!(!allows(&program, BLOCK, access, 1, 3));
            assert!(!allows(&program, CHARACTER, access, 1, 1));
            assert!(!allows(&program, BLOCK, access, 254, 0));
        }
        assert!(allows(&program, BLOCK, 1, 254, 0), "mknod is allowed");
    }

    #[test]
    fn a_device_may_be_opened_for_reading_alone_or_writing_alone() {
        let device = |minor, no_read, no_write| Device {
            major: 10,
            minor,
            no_read,
            no_write,
            ..Device::default()
        };
        let program = program(&rules(&[
            device(1, false, true),
            device(2, true, false),
            device(3, true, true),
        ]));
        let allowed = |minor| [READ, WRITE, READ | WRITE].map(|access| allows(&program, CHARACTER, access, 10, minor));
        assert_eq!(allowed(1), [true, false, false]);
        assert_eq!(allowed(2), [false, true, false]);
        assert_eq!(allowed(3), [false, false, false]);
        assert!(allows(&program, CHARACTER, 1, 10, 3), "mknod is allowed");
    }

    #[test]
    fn the_length_follows_from_the_rules() {
        // Prologue and its exit, three rules of four, one of three, the refusal.
        assert_eq!(program(&rules(&[])).len(), 10 + 3 * 4 + 3 + 2);
    }
}
