//! Classic BPF in the form that seccomp(2) takes.

/// Most instructions of a filter: the kernel's `BPF_MAXINSNS` (include/uapi/linux/bpf_common.h).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

// Operation codes: include/uapi/linux/bpf_common.h, filter.h.
pub(super) const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Instruction, one `struct sock_filter`. Jump distances count from the following instruction, and only forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) operand: u32,
}

impl Instruction {
    const fn plain(code: u16, operand: u32) -> Instruction {
        Instruction {
            code,
            if_true: 0,
            if_false: 0,
            operand,
        }
    }

    /// Loads the 32-bit word at `offset` of `struct seccomp_data` into the accumulator.
    pub(super) const fn load(offset: u32) -> Instruction {
        Instruction::plain(LOAD_WORD, offset)
    }

    pub(super) const fn and(mask: u32) -> Instruction {
        Instruction::plain(AND, mask)
    }

    /// Ends the program with `code`.
    pub(super) const fn give(code: u32) -> Instruction {
        Instruction::plain(RETURN, code)
    }

    /// Skips `distance` instructions. A distance that does not fit belongs to a program that is refused as too long.
    pub(super) fn jump(distance: usize) -> Instruction {
        Instruction::plain(JUMP, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    pub(super) const fn jump_equal(operand: u32, if_true: u8, if_false: u8) -> Instruction {
        Instruction {
            code: JUMP_EQUAL,
            if_true,
            if_false,
            operand,
        }
    }

    pub(super) const fn jump_greater(operand: u32, if_true: u8, if_false: u8) -> Instruction {
        Instruction {
            code: JUMP_GREATER,
            if_true,
            if_false,
            operand,
        }
    }

    pub(super) const fn jump_at_least(operand: u32, if_true: u8, if_false: u8) -> Instruction {
        Instruction {
            code: JUMP_AT_LEAST,
            if_true,
            if_false,
            operand,
        }
    }
}

/// Error of a program that the kernel would refuse.
#[derive(Debug, thiserror::Error)]
#[error("the filter has {instructions} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
pub(crate) struct TooLongError {
    instructions: usize,
}

/// Program that ends in a return on every path; of any length, until [`Program::check`] has passed.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    pub(super) fn new(instructions: Vec<Instruction>) -> Program {
        Program { instructions }
    }

    /// Refuses a program of more instructions than the kernel takes.
    pub(super) fn check(self) -> Result<Program, TooLongError> {
        match self.instructions.len() {
            1..=MAX_INSTRUCTIONS => Ok(self),
            instructions => Err(TooLongError { instructions }),
        }
    }

    /// Encodes the array of `struct sock_filter` as in the memory of a little-endian machine: 8 bytes per instruction.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.instructions.len());
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.push(instruction.if_true);
            bytes.push(instruction.if_false);
            bytes.extend(instruction.operand.to_le_bytes());
        }
        bytes
    }
}
