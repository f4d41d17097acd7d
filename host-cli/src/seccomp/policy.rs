//! Policy of a container's system calls, resolved: numbers instead of names, capabilities and kernel version already
//! decided.

use std::collections::BTreeMap;

/// Most arguments of a system call, and the most that `struct seccomp_data` shows to a filter.
pub(super) const ARGUMENTS: u8 = 6;

/// Action of the kernel for a call: one `SECCOMP_RET_*` (include/uapi/linux/seccomp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Log,
    /// Fails the call with this errno.
    Errno(u16),
    /// Notifies a tracer, with this message; without a tracer the call fails with ENOSYS.
    Trace(u16),
    /// Raises SIGSYS.
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    /// Returns the filter's return value for this action.
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

    /// Whether unlisted calls are executed under this default: then a call unknown to the profile needs no answer of
    /// its own.
    pub(super) fn is_permissive(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}

/// Comparison of an argument, an unsigned 64-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    /// Holds when the bits of `mask` are exactly those of `value`.
    MaskedEq {
        mask: u64,
        value: u64,
    },
}

/// Test of one argument; `argument` is below [`ARGUMENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// Action that applies where every condition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// Answer to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Same action for all arguments.
    Always(Action),
    /// Action of the first rule whose conditions hold; none: the default action. Never empty.
    ByArguments(Vec<Rule>),
}

/// Policy of one ABI: the answers to all calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    default: Action,
    answers: BTreeMap<u32, Answer>,
}

impl Policy {
    /// Creates a policy in which every call gets `default`.
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

    /// Adds a rule for the call `number`. As in libseccomp, a rule without conditions beats all rules with conditions
    /// of the same call, and of several without conditions the first stays.
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

    /// Returns the first number above all that the policy names; calls from here on are newer than the policy.
    #[cfg(test)]
    pub(super) fn first_unknown(&self) -> u32 {
        self.answers.last_key_value().map_or(0, |(number, _)| number + 1)
    }
}
