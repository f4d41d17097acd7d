//! Default seccomp profile: the system calls that a container may make when the user names no profile.
//!
//! The machine is the boundary; this profile keeps a container from the agent's side of the guest kernel and from calls
//! whose history is worse than their use. Effect: that of the default profile of docker (moby/profiles, early 2026) on
//! x86_64, for 64-bit and 32-bit programs, so that an image that runs there runs here. All calls that are not listed
//! fail with EPERM, newer calls with ENOSYS.
//!
//! Refused for every container: `io_uring_*` (work is done by kernel threads that no filter sees), `userfaultfd` (makes
//! kernel races easy to win), keyrings (not namespaced), `kexec`, swap, module and NUMA page moving calls,
//! `pivot_root`, and calls that Linux has long given up (`uselib`, `ustat`, `sysfs`, ...).

use super::policy::{Action, Condition, Policy, Rule, Test};
use super::syscalls::Abi;
use crate::capability;

/// Answer EPERM.
const REFUSED: Action = Action::Errno(1);
/// Answer ENOSYS.
const MISSING: Action = Action::Errno(38);

/// Flags `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}` (include/uapi/linux/sched.h). `CLONE_NEWTIME` is not among them:
/// in clone's flags its bit is part of the exit signal.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Calls that every container may make, whatever the arguments.
#[rustfmt::skip]
const ALLOWED: &[&[&str]] = &[
    // Files by descriptor.
    &["close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate", "fcntl", "fdatasync",
      "flock", "fstat", "fstatfs", "fsync", "ftruncate", "getdents", "getdents64", "ioctl", "lseek", "pread64", "preadv",
      "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile", "splice", "sync",
      "sync_file_range", "syncfs", "tee", "vmsplice", "write", "writev", "cachestat"],
    // Files by path.
    &["access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fchdir", "fchmod", "fchmodat", "fchmodat2",
      "fchown", "fchownat", "futimesat", "getcwd", "lchown", "link", "linkat", "lstat", "mkdir", "mkdirat", "mknod",
      "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "readlink", "readlinkat", "rename",
      "renameat", "renameat2", "rmdir", "stat", "statfs", "statx", "symlink", "symlinkat", "truncate", "umask", "unlink",
      "unlinkat", "utime", "utimensat", "utimes"],
    // What is mounted where: reads only.
    &["listmount", "statmount"],
    // Extended attributes.
    &["fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
      "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat"],
    // Waiting for descriptors, events about files.
    &["epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
      "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
      "inotify_rm_watch", "pipe", "pipe2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4"],
    // The old asynchronous I/O: unlike io_uring, each request is a call of its own.
    &["io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit"],
    // Memory.
    &["brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
      "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc",
      "pkey_free", "pkey_mprotect", "process_mrelease", "remap_file_pages"],
    // Processes and threads. clone and clone3 have rules of their own below.
    &["arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list", "get_thread_area", "getcpu",
      "getpgid", "getpgrp", "getpid", "getppid", "getsid", "gettid", "modify_ldt", "pidfd_open", "pidfd_send_signal",
      "prctl", "rseq", "set_robust_list", "set_thread_area", "set_tid_address", "setpgid", "setsid", "vfork", "wait4",
      "waitid"],
    // Debuggers: what may be traced is decided by the kernel's own checks, and since 4.8 a tracer cannot step around
    // its tracee's filter.
    &["process_vm_readv", "process_vm_writev", "ptrace"],
    // A probe's way back from user space; harmless where no probe is set, and needed where one is.
    &["uretprobe"],
    // Identity: what may be changed is decided by capabilities.
    &["capget", "capset", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "setfsgid",
      "setfsuid", "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid", "setuid"],
    // More confinement is always allowed.
    &["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"],
    // Limits, priorities, usage.
    &["getpriority", "getrlimit", "getrusage", "ioprio_get", "ioprio_set", "prlimit64", "sched_get_priority_max",
      "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
      "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
      "sched_yield", "setpriority", "setrlimit", "sysinfo", "times", "uname"],
    // Signals.
    &["kill", "pause", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
      "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "tgkill", "tkill"],
    // Futexes.
    &["futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"],
    // Clocks and timers. adjtimex and clock_adjtime read; to set they need CAP_SYS_TIME.
    &["adjtimex", "alarm", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer",
      "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
      "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime"],
    // Sockets. socket itself has rules of its own below.
    &["accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
      "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair"],
    // System V and POSIX message queues, semaphores, shared memory: in the container's own IPC namespace.
    &["mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv",
      "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget"],
    // Randomness.
    &["getrandom"],
];

/// Calls that 32-bit programs have in addition: wider forms of calls above, older ones, and the two that carry many.
///
/// `socketcall` has its arguments in memory, where a filter cannot see them: through it a 32-bit program creates
/// sockets of every family that the kernel has. C libraries of 32 bits have no other way to a socket (glibc to this
/// day), so docker, which refused it for a week, permits it again. The agent does not depend on this filter: see
/// `privileged_does_not_pose_as_the_host_to_the_agent`.
#[rustfmt::skip]
const ALLOWED_I386: &[&[&str]] = &[
    // Sizes and offsets of 64 bits.
    &["_llseek", "fadvise64_64", "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftruncate64", "lstat64", "mmap2",
      "sendfile64", "stat64", "statfs64", "truncate64"],
    // Users and groups of 32 bits.
    &["chown32", "fchown32", "getegid32", "geteuid32", "getgid32", "getgroups32", "getresgid32", "getresuid32", "getuid32",
      "lchown32", "setfsgid32", "setfsuid32", "setgid32", "setgroups32", "setregid32", "setresgid32", "setresuid32",
      "setreuid32", "setuid32"],
    // Times of 64 bits.
    &["clock_adjtime64", "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64", "futex_time64",
      "io_pgetevents_time64", "mq_timedreceive_time64", "mq_timedsend_time64", "ppoll_time64", "pselect6_time64",
      "recvmmsg_time64", "rt_sigtimedwait_time64", "sched_rr_get_interval_time64", "semtimedop_time64",
      "timer_gettime64", "timer_settime64", "timerfd_gettime64", "timerfd_settime64", "utimensat_time64"],
    // Older forms.
    &["_newselect", "sigprocmask", "sigreturn", "ugetrlimit", "waitpid"],
    // Many calls in one.
    &["ipc", "socketcall"],
];

/// Calls that a container may make if it holds the capability.
#[rustfmt::skip]
const ALLOWED_WITH: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_ADMIN", &["bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
                        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
                        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
                        "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// Address families for which a container may create sockets, as ranges (include/linux/socket.h).
///
/// AF_VSOCK (40) is the important omission: the agent listens on it. AF_ALG (38) has brought more holes than users; the
/// others left out are families that Linux has dropped. This is an allow list because the kernel uses the low 32 bits
/// of the argument only: "anything but 40" would let 0x1_0000_0028 through.
const FAMILIES: &[(u64, u64)] = &[
    (0, 11),
    (13, 18),
    (21, 22),
    (24, 24),
    (26, 33),
    (35, 36),
    (39, 39),
    (41, 45),
];

/// Personalities that change nothing dangerous: Linux, Linux with 32-bit addresses, each with the old uname, and the
/// query of the present one. `READ_IMPLIES_EXEC` and `ADDR_NO_RANDOMIZE` are refused.
const PERSONALITIES: &[u64] = &[0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Returns the policies for a container whose bounding set is `capabilities`.
pub(super) fn policies(capabilities: u64) -> Vec<(Abi, Policy)> {
    let policy = |abi| (abi, policy(abi, capabilities));
    [Abi::X86_64, Abi::I386].map(policy).into()
}

fn policy(abi: Abi, capabilities: u64) -> Policy {
    let mut policy = Policy::new(REFUSED);
    // A name without a call in this ABI is one of the other's (checked by
    // `every_name_of_the_default_profile_is_known`).
    let mut add = |name: &str, conditions: Vec<Condition>, action: Action| {
        if let Some(number) = abi.number(name) {
            policy.add(number, Rule { conditions, action });
        }
    };
    for name in ALLOWED.iter().chain(ALLOWED_I386).copied().flatten() {
        add(name, Vec::new(), Action::Allow);
    }
    for (needed, names) in ALLOWED_WITH {
        if holds(capabilities, needed) {
            for name in *names {
                add(name, Vec::new(), Action::Allow);
            }
        }
    }
    if !holds(capabilities, "CAP_SYS_ADMIN") {
        let test = Test::MaskedEq {
            mask: NEW_NAMESPACES,
            value: 0,
        };
        add("clone", vec![Condition { argument: 0, test }], Action::Allow);
        // Its flags lie in memory where a filter cannot see them. ENOSYS makes C libraries fall back to clone.
        add("clone3", Vec::new(), MISSING);
    }
    for (first, last) in FAMILIES {
        let range = [Test::Ge(*first), Test::Le(*last)].map(|test| Condition { argument: 0, test });
        add("socket", range.to_vec(), Action::Allow);
    }
    for personality in PERSONALITIES {
        let test = Test::Eq(*personality);
        add("personality", vec![Condition { argument: 0, test }], Action::Allow);
    }
    policy
}

fn holds(capabilities: u64, name: &str) -> bool {
    capability::bit(name).is_some_and(|bit| capabilities & bit != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn listed() -> Vec<&'static str> {
        let conditional = ALLOWED_WITH.iter().flat_map(|(_, names)| names.iter());
        let always = ALLOWED.iter().chain(ALLOWED_I386).copied().flatten();
        always.chain(conditional).copied().collect()
    }

    #[test]
    fn every_name_of_the_default_profile_is_known() {
        for name in listed() {
            let known = [Abi::X86_64, Abi::I386].map(|abi| abi.number(name).is_some());
            assert_ne!(known, [false, false], "{name}");
        }
        for name in ALLOWED_I386.iter().copied().flatten() {
            assert_eq!(Abi::X86_64.number(name), None, "{name}");
        }
        for (name, _) in ALLOWED_WITH {
            assert!(capability::bit(name).is_some(), "{name}");
        }
        let once: BTreeSet<_> = ALLOWED.iter().copied().flatten().collect();
        assert_eq!(once.len(), ALLOWED.iter().map(|group| group.len()).sum::<usize>());
    }

    /// Tests the complement of the list, so that a call that was forgotten above shows here.
    #[test]
    fn exactly_these_calls_are_refused_to_everyone() {
        let listed: BTreeSet<_> = listed().into_iter().chain(["socket", "personality"]).collect();
        let refused = |abi: Abi| -> Vec<_> {
            let names = abi.calls().iter().map(|(name, _)| *name);
            names.filter(|name| !listed.contains(name)).collect()
        };
        let expected = "_sysctl add_key afs_syscall create_module file_getattr file_setattr get_kernel_syms getpmsg \
                        io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl listns \
                        migrate_pages move_pages nfsservctl open_tree_attr pivot_root putpmsg query_module request_key \
                        security swapoff swapon sysfs tuxcall uprobe uselib userfaultfd ustat vserver";
        assert_eq!(
            refused(Abi::X86_64),
            expected.split_ascii_whitespace().collect::<Vec<_>>()
        );
        let expected = "_sysctl add_key afs_syscall bdflush break create_module file_getattr file_setattr ftime \
                        get_kernel_syms getpmsg gtty idle io_uring_enter io_uring_register io_uring_setup kexec_load \
                        keyctl listns lock migrate_pages move_pages mpx nfsservctl nice oldfstat oldlstat oldolduname \
                        oldstat olduname open_tree_attr pivot_root prof profil putpmsg query_module readdir \
                        request_key sgetmask sigaction signal sigpending sigsuspend ssetmask stty swapoff swapon \
                        sysfs ulimit uselib userfaultfd ustat vm86 vm86old vserver";
        assert_eq!(
            refused(Abi::I386),
            expected.split_ascii_whitespace().collect::<Vec<_>>()
        );
    }
}
