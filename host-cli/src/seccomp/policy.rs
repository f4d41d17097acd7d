//! What a container may call, resolved: numbers instead of names, capabilities and kernel version already decided.

use std::collections::BTreeMap;

/// The most arguments a system call has, and the most that `struct seccomp_data` shows to a filter.
pub(super) const ARGUMENTS: u8 = 6;

/// What the kernel does with a call: one `SECCOMP_RET_*` (include/uapi/linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Log,
    /// Fails with this errno.
    Errno(u16),
    /// Tells a tracer, with this message; without a tracer the call fails with ENOSYS.
    Trace(u16),
    /// Raises SIGSYS.
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    /// The value a filter returns for this action.
    pub(super) fn code(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Trace(message) => 0x7ff0_0000 | u32::from(message),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }

    /// Whether an unlisted call goes on under this default: then a call unknown to the profile needs no answer of its own.
    pub(super) fn is_permissive(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}

/// How an argument, an unsigned 64-bit number, is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    /// The bits of `mask` are exactly those of `value`.
    MaskedEq {
        mask: u64,
        value: u64,
    },
}

/// One test of one argument; `argument` is below [`ARGUMENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// An action that applies where every condition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// The answer to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Whatever the arguments are.
    Always(Action),
    /// The first rule whose conditions hold; none: the default action. Never empty.
    ByArguments(Vec<Rule>),
}

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    default: Action,
    answers: BTreeMap<u32, Answer>,
}

impl Policy {
    /// A policy in which every call gets `default`.
    pub(super) fn new(default: Action) -> Policy {
        Policy {
            default,
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn default_action(&self) -> Action {
        self.default
    }

    pub(super) fn answers(&self) -> &BTreeMap<u32, Answer> {
        &self.answers
    }

    /// Adds a rule for the call `number`. As in libseccomp, a rule without conditions beats all rules with conditions of
    /// the same call, and of several without conditions the first stays.
    pub(super) fn add(&mut self, number: u32, rule: Rule) {
        let answer = self
            .answers
            .entry(number)
            .or_insert_with(|| Answer::ByArguments(Vec::new()));
        match answer {
            Answer::Always(_) => {}
            Answer::ByArguments(_) if rule.conditions.is_empty() => *answer = Answer::Always(rule.action),
            Answer::ByArguments(rules) => rules.push(rule),
        }
    }

    /// The first number above all that the policy names; calls from here on are newer than the policy's author knew.
    #[cfg(test)]
    pub(super) fn first_unknown(&self) -> u32 {
        self.answers.last_key_value().map_or(0, |(number, _)| number + 1)
    }
}
