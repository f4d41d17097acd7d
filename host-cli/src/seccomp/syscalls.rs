//! System call interfaces of the guest kernel, with their calls by name.
//!
//! Numbers newer than the guest kernel's own are listed too, so that a profile that names them keeps its meaning.

mod i386;
mod x86_64;

/// System call interface. Each has numbers of its own, so a filter that checks only one can be bypassed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    /// Interface of 64-bit programs.
    X86_64,
    /// Interface of 32-bit programs.
    I386,
}

impl Abi {
    /// Returns `AUDIT_ARCH_*` (include/uapi/linux/audit.h): the value of `seccomp_data.arch` for a call through this
    /// interface.
    pub(super) const fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
        }
    }

    /// Returns every call, sorted by name: the order that [`Abi::number`] searches in.
    pub(super) fn calls(self) -> &'static [(&'static str, u32)] {
        match self {
            Abi::X86_64 => x86_64::SYSCALLS,
            Abi::I386 => i386::SYSCALLS,
        }
    }

    /// Returns the number of the system call `name`, or `None` where this interface has no such call.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let calls = self.calls();
        let found = calls.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        calls.get(found).map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_have_no_number_twice() {
        for abi in [Abi::X86_64, Abi::I386] {
            assert!(abi.calls().windows(2).all(|pair| pair[0].0 < pair[1].0));
            let mut numbers: Vec<u32> = abi.calls().iter().map(|(_, number)| *number).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn numbers_agree_with_libc() {
        let known: [(&str, libc::c_long); 6] = [
            ("read", libc::SYS_read),
            ("socket", libc::SYS_socket),
            ("clone3", libc::SYS_clone3),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("futex_waitv", libc::SYS_futex_waitv),
        ];
        for (name, expected) in known {
            assert_eq!(
                Abi::X86_64.number(name).map(libc::c_long::from),
                Some(expected),
                "{name}"
            );
        }
        assert_eq!(Abi::X86_64.number("chown32"), None);
        assert_eq!(Abi::X86_64.number(""), None);
    }

    #[test]
    fn the_interfaces_number_old_calls_differently_and_new_ones_alike() {
        let numbers = |name| [Abi::X86_64, Abi::I386].map(|abi| abi.number(name));
        assert_eq!(numbers("read"), [Some(0), Some(3)]);
        assert_eq!(numbers("chown32"), [None, Some(212)]);
        assert_eq!(numbers("clone3"), [Some(435); 2]);
    }
}
