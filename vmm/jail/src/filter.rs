//! System call filters as data: which calls, with which arguments, and for which reason.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Permission for one system call. Several rules for the same call are alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Number of the system call (`libc::SYS_*`).
    pub syscall: i64,
    /// Conditions that must all hold; an empty list permits any arguments.
    pub conditions: Vec<Condition>,
    /// Reason for the permission: who needs the call.
    pub reason: &'static str,
}

impl Rule {
    /// Permits `syscall` with any arguments.
    #[must_use]
    pub fn always(syscall: i64, reason: &'static str) -> Self {
        Self {
            syscall,
            conditions: Vec::new(),
            reason,
        }
    }

    /// Permits `syscall` when all `conditions` hold.
    #[must_use]
    pub fn when(syscall: i64, conditions: Vec<Condition>, reason: &'static str) -> Self {
        Self {
            syscall,
            conditions,
            reason,
        }
    }
}

/// Condition on the low 32 bits of one argument: all arguments filtered here are C `int`s, whose upper halves the
/// kernel ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    argument: u8,
    mask: u32,
    value: u32,
}

impl Condition {
    /// Requires that argument `argument` (0 to 5) is `value`.
    #[must_use]
    pub const fn equals(argument: u8, value: u64) -> Self {
        Self {
            argument,
            mask: u32::MAX,
            value: value as u32,
        }
    }

    /// Requires that the bits of `mask` in the argument are as in `value`.
    #[must_use]
    pub const fn masked(argument: u8, mask: u64, value: u64) -> Self {
        Self {
            argument,
            mask: mask as u32,
            value: value as u32,
        }
    }

    /// Requires that none of `bits` is set in the argument.
    #[must_use]
    pub const fn none_of_bits(argument: u8, bits: u64) -> Self {
        Self {
            argument,
            mask: bits as u32,
            value: 0,
        }
    }

    /// Whether a call with `arguments` fulfills the condition.
    #[must_use]
    pub fn holds(&self, arguments: &[u64; 6]) -> bool {
        arguments
            .get(usize::from(self.argument))
            .is_some_and(|&value| value as u32 & self.mask == self.value)
    }

    fn compile(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let operator = match self.mask {
            u32::MAX => SeccompCmpOp::Eq,
            mask => SeccompCmpOp::MaskedEq(u64::from(mask)),
        };
        SeccompCondition::new(self.argument, SeccompCmpArgLen::Dword, operator, u64::from(self.value))
    }
}

/// Compiled system call filter. A call that no rule permits kills the process.
#[derive(Debug, Clone)]
pub struct SyscallFilter(BpfProgram);

/// Reason why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The rule list is empty: that would not be a filter.
    #[error("a filter without rules")]
    Empty,
    /// A rule cannot be expressed as a filter.
    #[error("cannot compile the system call filter")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refused to install the filter.
    #[error("cannot install the system call filter")]
    Install(#[source] seccompiler::Error),
}

impl SyscallFilter {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// [`FilterError::Empty`], [`FilterError::Compile`].
    pub fn new(rules: &[Rule]) -> Result<Self, FilterError> {
        Self::compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
    }

    /// Compiles a filter that makes the calls of `refusals` fail with `errno`. It permits everything else and is used
    /// beside a filter of [`SyscallFilter::new`] that permits these calls too: of several filters the strictest answer
    /// counts (seccomp(2)).
    ///
    /// # Errors
    /// [`FilterError::Empty`], [`FilterError::Compile`].
    pub fn refusing(refusals: &[Rule], errno: i32) -> Result<Self, FilterError> {
        let action = SeccompAction::Errno(errno.unsigned_abs());
        Self::compile(refusals, SeccompAction::Allow, action)
    }

    /// Compiles `rules` with the action `matched` for calls that they name and `other` for the rest.
    fn compile(rules: &[Rule], other: SeccompAction, matched: SeccompAction) -> Result<Self, FilterError> {
        if rules.is_empty() {
            return Err(FilterError::Empty);
        }
        let mut chains: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for rule in rules {
            let unconditional = rules
                .iter()
                .any(|other| other.syscall == rule.syscall && other.conditions.is_empty());
            let chain = chains.entry(rule.syscall).or_default();
            // To the compiler an empty chain means: any arguments.
            if !unconditional {
                let conditions: Result<Vec<_>, _> = rule.conditions.iter().map(Condition::compile).collect();
                let conditions = conditions.map_err(FilterError::Compile)?;
                chain.push(SeccompRule::new(conditions).map_err(FilterError::Compile)?);
            }
        }
        let filter = SeccompFilter::new(chains, other, matched, TargetArch::x86_64).map_err(FilterError::Compile)?;
        let program = BpfProgram::try_from(filter).map_err(FilterError::Compile)?;
        Ok(Self(program))
    }

    /// Applies the filter to the calling thread, for the rest of its life. Sets `no_new_privs`.
    ///
    /// # Errors
    /// [`FilterError::Install`].
    pub fn apply_to_thread(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter(&self.0).map_err(FilterError::Install)
    }

    /// Applies the filter to all threads of the process, including those that a library has started.
    ///
    /// # Errors
    /// [`FilterError::Install`].
    pub fn apply_to_process(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter_all_threads(&self.0).map_err(FilterError::Install)
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, FilterError, Rule, SyscallFilter};

    #[test]
    fn a_filter_without_rules_is_refused() {
        assert!(matches!(SyscallFilter::new(&[]), Err(FilterError::Empty)));
    }

    #[test]
    fn conditions_look_at_the_low_half_only() {
        let stderr_only = Condition::equals(0, 2);
        assert!(stderr_only.holds(&[2, 0, 0, 0, 0, 0]));
        assert!(stderr_only.holds(&[2 | 1 << 32, 0, 0, 0, 0, 0]));
        assert!(!stderr_only.holds(&[3, 0, 0, 0, 0, 0]));
        let not_executable = Condition::none_of_bits(2, 4);
        assert!(not_executable.holds(&[0, 0, 3, 0, 0, 0]));
        assert!(!not_executable.holds(&[0, 0, 7, 0, 0, 0]));
    }

    #[test]
    fn alternatives_and_unconditional_rules_compile() {
        let rules = [
            Rule::when(libc::SYS_write, vec![Condition::equals(0, 2)], "one"),
            Rule::when(libc::SYS_write, vec![Condition::equals(0, 1)], "two"),
            Rule::when(libc::SYS_read, vec![Condition::equals(0, 0)], "one"),
            Rule::always(libc::SYS_read, "all"),
        ];
        assert!(SyscallFilter::new(&rules).is_ok());
    }
}
