//! Exit path of a panic, which every filter must permit: message on stderr, then an abnormal end.

use std::io::Write;

use crate::{Condition, Rule, sys};

/// Exit status that stands for `SIGABRT`. Pid 1 of a namespace cannot die of a signal it sends itself
/// (pid_namespaces(7)); the relay turns this status into the signal.
pub const ABORTED_STATUS: i32 = 134;

/// Makes a panic in any thread print its message and end the process, in every build profile.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        // The message is the last action, whether stderr accepts it or not.
        let _ = writeln!(std::io::stderr(), "thread '{name}': {info}");
        if rustix::process::getpid().as_raw_nonzero().get() == 1 {
            sys::exit_now(ABORTED_STATUS);
        }
        std::process::abort()
    }));
}

/// Rules that any thread needs to run Rust code, to panic, and to end.
#[must_use]
pub fn panic_rules() -> Vec<Rule> {
    let own_pid = rustix::process::getpid().as_raw_nonzero().get() as u64;
    vec![
        Rule::when(
            libc::SYS_write,
            vec![Condition::equals(0, 2)],
            "panic: message on stderr",
        ),
        Rule::always(libc::SYS_exit_group, "end of the process"),
        Rule::always(libc::SYS_exit, "end of a thread"),
        Rule::always(libc::SYS_getpid, "abort: whom to signal"),
        Rule::always(libc::SYS_gettid, "abort: whom to signal"),
        Rule::when(
            libc::SYS_tgkill,
            vec![
                Condition::equals(0, own_pid),
                Condition::equals(2, libc::SIGABRT as u64),
            ],
            "abort: SIGABRT to itself only",
        ),
        Rule::when(
            libc::SYS_rt_sigaction,
            vec![Condition::equals(0, libc::SIGABRT as u64)],
            "abort: default action of SIGABRT",
        ),
        Rule::always(libc::SYS_rt_sigprocmask, "abort: unblock SIGABRT; thread start and end"),
        Rule::always(libc::SYS_futex, "locks, joins"),
        Rule::always(libc::SYS_sched_yield, "channels whose other end is busy"),
        Rule::always(libc::SYS_munmap, "free memory, thread stacks"),
        Rule::always(libc::SYS_brk, "allocate memory"),
        Rule::when(
            libc::SYS_mmap,
            vec![
                Condition::none_of_bits(2, libc::PROT_EXEC as u64),
                Condition::masked(3, libc::MAP_ANONYMOUS as u64, libc::MAP_ANONYMOUS as u64),
            ],
            "allocate memory: anonymous, never executable",
        ),
        Rule::when(
            libc::SYS_mremap,
            vec![Condition::none_of_bits(3, !(libc::MREMAP_MAYMOVE as u64) & 0xffff_ffff)],
            "grow large allocations",
        ),
        Rule::when(
            libc::SYS_madvise,
            vec![Condition::equals(2, libc::MADV_DONTNEED as u64)],
            "give back memory of thread stacks and heaps",
        ),
        Rule::when(
            libc::SYS_mprotect,
            vec![Condition::none_of_bits(2, libc::PROT_EXEC as u64)],
            "heap of a second thread grows",
        ),
        Rule::when(
            libc::SYS_fcntl,
            vec![Condition::equals(1, libc::F_GETFD as u64)],
            "Rust's debug builds: is an fd open before it is closed",
        ),
        Rule::always(libc::SYS_sigaltstack, "end of a thread: its signal stack"),
    ]
}
