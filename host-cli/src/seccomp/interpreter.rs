//! Classic BPF interpreter for tests: computes the kernel's answer to a call.

use super::program::{AND, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, JUMP_GREATER, LOAD_WORD, MAX_INSTRUCTIONS, RETURN};

/// Input of a filter: `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.arch.to_le_bytes());
        for (slot, argument) in bytes[16..].chunks_exact_mut(8).zip(self.arguments) {
            slot.copy_from_slice(&argument.to_le_bytes());
        }
        bytes
    }
}

/// Result of a run: the returned action, and the number of executed instructions.
pub(super) struct Outcome {
    pub(super) code: u32,
    pub(super) steps: usize,
}

/// Runs `program` on `call`; panics where the kernel would refuse the program.
pub(super) fn run(program: &[u8], call: Call) -> Outcome {
    assert!(program.len().is_multiple_of(8) && program.len() / 8 <= MAX_INSTRUCTIONS);
    let data = call.to_bytes();
    let mut accumulator = 0u32;
    let mut next = 0;
    for steps in 1.. {
        let instruction = &program[8 * next..8 * next + 8];
        let code = u16::from_le_bytes([instruction[0], instruction[1]]);
        let operand = u32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        next += 1;
        let holds = match code {
            LOAD_WORD => {
                let at = operand as usize;
                assert!(at.is_multiple_of(4));
                accumulator = u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"));
                continue;
            }
            AND => {
                accumulator &= operand;
                continue;
            }
            JUMP => {
                next += operand as usize;
                continue;
            }
            RETURN => return Outcome { code: operand, steps },
            JUMP_EQUAL => accumulator == operand,
            JUMP_GREATER => accumulator > operand,
            JUMP_AT_LEAST => accumulator >= operand,
            other => panic!("instruction {other:#x}"),
        };
        next += usize::from(if holds { instruction[2] } else { instruction[3] });
    }
    unreachable!("jumps go forwards only");
}
