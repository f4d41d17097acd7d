//! Compiler from a [`Policy`] to the classic BPF program that the guest kernel runs at every system call.
//!
//! Structure of a program: a check of the ABI (`ENOSYS` for one without a policy); for each ABI a balanced binary tree
//! of comparisons over ranges of call numbers that share one answer; at its leaves the answer itself, or the argument
//! tests of that call. All calls of a long policy are thus answered in about eight instructions, and for calls with the
//! answer "allow, whatever the arguments" the kernel remembers it and runs no filter at all (kernel/seccomp.c,
//! `seccomp_cache_prepare`, which understands exactly the instructions used here).

use super::policy::{Action, Answer, Condition, Policy, Rule, Test};
use super::program::{Instruction, Program};
use super::syscalls::Abi;

/// Bit that is set in the number of every x32 call (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;
/// Offset of the call number in `struct seccomp_data`, in bytes; those of the ABI and the arguments follow.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Answer "no such system call". For x32, which the guest kernel is built without, ABIs without a policy, and calls
/// newer than the policy: a C library that gets it falls back to an older call, which it does not on EPERM.
pub(super) const NO_SYSCALL: Action = Action::Errno(38);

/// Compiles the policies of the ABIs that a container may use.
pub(super) fn compile(policies: &[(Abi, Policy)]) -> Program {
    let mut instructions = vec![Instruction::load(ARCH)];
    for (abi, policy) in policies {
        let judged = judge(policy);
        // The accumulator still holds the ABI when this ABI's code is jumped over.
        instructions.push(Instruction::jump_equal(abi.audit_arch(), 1, 0));
        instructions.push(Instruction::jump(judged.len()));
        instructions.extend(judged);
    }
    instructions.push(Instruction::give(NO_SYSCALL.code()));
    Program::new(instructions)
}

/// Generates code that answers every call of one ABI.
fn judge(policy: &Policy) -> Vec<Instruction> {
    let mut code = vec![
        Instruction::load(NUMBER),
        Instruction::jump_at_least(X32_BIT, 0, 1),
        Instruction::give(NO_SYSCALL.code()),
    ];
    code.extend(tree(&ranges(policy), policy.default_action()));
    code
}

/// Range of call numbers from `first` to the start of the next range, all with the same answer.
struct Range {
    first: u32,
    answer: Answer,
}

/// Divides all call numbers into ranges; neighbors with the same answer are one range.
fn ranges(policy: &Policy) -> Vec<Range> {
    let default = Answer::Always(policy.default_action());
    let mut ranges: Vec<Range> = Vec::new();
    let mut extend = |first: u32, answer: &Answer| {
        if ranges.last().is_none_or(|last| last.answer != *answer) {
            ranges.push(Range {
                first,
                answer: answer.clone(),
            });
        }
    };
    let mut next = 0;
    for (number, answer) in policy.answers() {
        if *number > next {
            extend(next, &default);
        }
        extend(*number, answer);
        next = number + 1;
    }
    if policy.default_action().is_permissive() {
        extend(next, &default);
    } else {
        extend(next, &Answer::Always(NO_SYSCALL));
    }
    ranges
}

/// Generates code that finds the range of the call number in the accumulator. `ranges` is not empty.
fn tree(ranges: &[Range], default: Action) -> Vec<Instruction> {
    if let [only] = ranges {
        return leaf(&only.answer, default);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let border = above.first().map_or(0, |range| range.first);
    let below = tree(below, default);
    let mut code = match u8::try_from(below.len()) {
        Ok(distance) => vec![Instruction::jump_at_least(border, distance, 0)],
        // Conditional jumps reach 255 instructions; this one needs the long jump.
        Err(_) => vec![Instruction::jump_at_least(border, 0, 1), Instruction::jump(below.len())],
    };
    code.extend(below);
    code.extend(tree(above, default));
    code
}

fn leaf(answer: &Answer, default: Action) -> Vec<Instruction> {
    match answer {
        Answer::Always(action) => vec![Instruction::give(action.code())],
        Answer::ByArguments(rules) => {
            let mut code: Vec<Instruction> = rules.iter().flat_map(tests).collect();
            code.push(Instruction::give(default.code()));
            code
        }
    }
}

/// Generates code that returns the rule's action where all its conditions hold, and otherwise continues after its own
/// end.
fn tests(rule: &Rule) -> Vec<Instruction> {
    // Built from the end, so that the distance to the end (where a failed condition goes) is known.
    let mut code = vec![Instruction::give(rule.action.code())];
    for condition in rule.conditions.iter().rev() {
        let mut longer = test(condition, code.len());
        longer.append(&mut code);
        code = longer;
    }
    code
}

/// Generates code for one condition: continues after its own end where the condition holds, otherwise `rest`
/// instructions later.
fn test(condition: &Condition, rest: usize) -> Vec<Instruction> {
    // The kernel is little endian here: the low half of an argument comes first.
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let high = low + 4;
    // At most 6 conditions of at most 6 instructions come after this one, so the distance fits (checked by
    // `the_longest_rule_fits_in_a_short_jump`).
    let rest = u8::try_from(rest).unwrap_or(u8::MAX);
    match condition.test {
        Test::Eq(value) => vec![
            Instruction::load(high),
            Instruction::jump_equal(upper(value), 0, rest + 2),
            Instruction::load(low),
            Instruction::jump_equal(lower(value), 0, rest),
        ],
        Test::Ne(value) => vec![
            Instruction::load(high),
            Instruction::jump_equal(upper(value), 0, 2),
            Instruction::load(low),
            Instruction::jump_equal(lower(value), rest, 0),
        ],
        Test::MaskedEq { mask, value } => vec![
            Instruction::load(high),
            Instruction::and(upper(mask)),
            Instruction::jump_equal(upper(value), 0, rest + 3),
            Instruction::load(low),
            Instruction::and(lower(mask)),
            Instruction::jump_equal(lower(value), 0, rest),
        ],
        Test::Gt(value) => above(high, low, value, rest, Instruction::jump_greater(lower(value), 0, rest)),
        Test::Ge(value) => above(
            high,
            low,
            value,
            rest,
            Instruction::jump_at_least(lower(value), 0, rest),
        ),
        Test::Lt(value) => below(
            high,
            low,
            value,
            rest,
            Instruction::jump_at_least(lower(value), rest, 0),
        ),
        Test::Le(value) => below(high, low, value, rest, Instruction::jump_greater(lower(value), rest, 0)),
    }
}

/// Generates a comparison: a greater upper half holds; equal upper halves leave the result to `last`; otherwise it
/// fails.
fn above(high: u32, low: u32, value: u64, rest: u8, last: Instruction) -> Vec<Instruction> {
    vec![
        Instruction::load(high),
        Instruction::jump_greater(upper(value), 3, 0),
        Instruction::jump_equal(upper(value), 0, rest + 2),
        Instruction::load(low),
        last,
    ]
}

/// Generates a comparison: a greater upper half fails; equal upper halves leave the result to `last`; otherwise it
/// holds.
fn below(high: u32, low: u32, value: u64, rest: u8, last: Instruction) -> Vec<Instruction> {
    vec![
        Instruction::load(high),
        Instruction::jump_greater(upper(value), rest + 3, 0),
        Instruction::jump_equal(upper(value), 0, 2),
        Instruction::load(low),
        last,
    ]
}

fn upper(value: u64) -> u32 {
    (value >> 32) as u32
}

fn lower(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
