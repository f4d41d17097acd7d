//! System call filters of QEMU, in force from its execution on. Taken from traces of QEMU 7.2 from start to end with
//! every device that a machine can have, and from its sources for later versions. Calls outside of the list kill QEMU;
//! calls that it tries but can do without fail.

use capsid_jail::{Condition, FilterError, Rule, SyscallFilter};

/// Open flags that reading does not need: `/fd` names files that are open for reading only.
const WRITING_FLAGS: [i32; 5] = [
    libc::O_WRONLY,
    libc::O_RDWR,
    libc::O_CREAT,
    libc::O_TRUNC,
    // Without the bit of O_DIRECTORY.
    libc::O_TMPFILE & !libc::O_DIRECTORY,
];

/// All filters, the strictest last: the others must still be installed before it is in force.
pub(super) fn all() -> Result<Vec<SyscallFilter>, FilterError> {
    Ok(vec![
        SyscallFilter::refusing(&absent(), libc::ENOSYS)?,
        SyscallFilter::refusing(&denied(), libc::EACCES)?,
        SyscallFilter::new(&rules())?,
    ])
}

/// Rules of the calls that fail as on a kernel without them.
fn absent() -> Vec<Rule> {
    vec![
        Rule::always(
            libc::SYS_clone3,
            "threads: its flags cannot be filtered, those of clone can",
        ),
        Rule::always(
            libc::SYS_io_uring_setup,
            "asynchronous I/O, without which threads do it",
        ),
        Rule::always(libc::SYS_get_mempolicy, "libnuma looks whether there are nodes"),
        Rule::always(libc::SYS_set_mempolicy, "libnuma looks whether there are nodes"),
        Rule::always(libc::SYS_mbind, "memory on chosen nodes, which nobody asks for"),
        Rule::always(libc::SYS_userfaultfd, "migration looks whether it exists"),
        Rule::always(libc::SYS_inotify_init1, "watches of files, which there are none of"),
        Rule::always(libc::SYS_openat2, "its flags cannot be filtered, those of openat can"),
    ]
}

/// Rules of the calls that fail for lack of a permission.
fn denied() -> Vec<Rule> {
    let writing = |syscall, argument| {
        WRITING_FLAGS.map(|flag| {
            let flag = flag as u64;
            Rule::when(
                syscall,
                vec![Condition::masked(argument, flag, flag)],
                "files are read, never written: some devices are looked for",
            )
        })
    };
    let mut rules = writing(libc::SYS_openat, 2).to_vec();
    rules.extend(writing(libc::SYS_open, 1));
    rules.push(Rule::always(
        libc::SYS_sched_setaffinity,
        "vCPUs on chosen CPUs, which nobody asks for",
    ));
    rules
}

/// Rules of all permitted calls, including those that the other filters make fail.
fn rules() -> Vec<Rule> {
    let mut rules = start();
    rules.extend(memory());
    rules.extend(threads());
    rules.extend(files());
    rules.extend(sockets());
    rules.extend(absent().into_iter().map(|rule| Rule::always(rule.syscall, rule.reason)));
    rules.push(Rule::always(libc::SYS_sched_setaffinity, "fails, see above"));
    rules
}

/// Rules for the path from our own program to QEMU's main loop.
fn start() -> Vec<Rule> {
    let prctl = |option: i32, reason| {
        Rule::when(
            libc::SYS_prctl,
            vec![Condition::equals(0, option.unsigned_abs().into())],
            reason,
        )
    };
    vec![
        Rule::always(
            libc::SYS_execve,
            "QEMU itself; its own -sandbox takes it away, and the root holds no other program",
        ),
        Rule::always(libc::SYS_arch_prctl, "start of a program: thread-local storage"),
        Rule::always(libc::SYS_set_tid_address, "start of a program"),
        Rule::always(libc::SYS_seccomp, "-sandbox: a further filter, which only takes away"),
        prctl(libc::PR_SET_NO_NEW_PRIVS, "-sandbox"),
        prctl(libc::PR_SET_SECCOMP, "-sandbox, libseccomp without seccomp(2)"),
        prctl(libc::PR_GET_SECCOMP, "-sandbox, libseccomp without seccomp(2)"),
        prctl(libc::PR_SET_NAME, "names of threads"),
        prctl(libc::PR_GET_NAME, "names of threads"),
        prctl(libc::PR_SET_TIMERSLACK, "timers of the main loop"),
        prctl(libc::PR_MCE_KILL, "bad memory is told early"),
        prctl(libc::PR_SET_VMA, "names of mappings"),
        prctl(libc::PR_CAPBSET_READ, "libcap-ng looks what there is"),
        Rule::always(libc::SYS_capget, "libcap-ng looks what there is"),
        Rule::always(libc::SYS_getpid, "names and messages"),
        Rule::always(libc::SYS_getppid, "names and messages"),
        Rule::always(libc::SYS_getuid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_geteuid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_getgid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_getegid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_getresuid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_getresgid, "libraries: is this a privileged program"),
        Rule::always(libc::SYS_uname, "version of the kernel"),
        Rule::always(libc::SYS_sysinfo, "size of the host's memory"),
        Rule::always(libc::SYS_getcpu, "number of this CPU"),
        Rule::always(libc::SYS_getrusage, "time used"),
        Rule::always(libc::SYS_times, "time used"),
        Rule::always(
            libc::SYS_prlimit64,
            "limits: lowered at will, raised by nobody without capabilities",
        ),
        Rule::always(libc::SYS_getrandom, "random bytes, the guest's too"),
    ]
}

/// Rules for memory: the guest's, translated code, heaps.
fn memory() -> Vec<Rule> {
    let any = |syscall, reason| Rule::always(syscall, reason);
    vec![
        any(libc::SYS_brk, "heap"),
        any(
            libc::SYS_mmap,
            "libraries, guest memory, translated code, which is written and executed",
        ),
        any(libc::SYS_munmap, "free memory"),
        any(libc::SYS_mprotect, "libraries, guard pages, translated code"),
        any(libc::SYS_mremap, "large allocations grow"),
        any(
            libc::SYS_madvise,
            "memory that the guest gives back, advice on the rest",
        ),
        any(libc::SYS_mincore, "pages of a vCPU's stack"),
        any(libc::SYS_msync, "memory files"),
        any(libc::SYS_membarrier, "RCU"),
        any(libc::SYS_memfd_create, "guest memory; the closure of libffi"),
        any(libc::SYS_ftruncate, "guest memory: the only file that is not read-only"),
        any(libc::SYS_fallocate, "guest memory that the guest gives back"),
        any(libc::SYS_rseq, "start of a thread"),
    ]
}

/// Rules for threads, signals and time.
fn threads() -> Vec<Rule> {
    let any = |syscall, reason| Rule::always(syscall, reason);
    vec![
        Rule::when(
            libc::SYS_clone,
            vec![Condition::masked(
                0,
                libc::CLONE_THREAD as u64,
                libc::CLONE_THREAD as u64,
            )],
            "threads, and no processes",
        ),
        any(libc::SYS_set_robust_list, "start of a thread"),
        any(libc::SYS_get_robust_list, "start of a thread"),
        any(libc::SYS_gettid, "number of a thread"),
        any(libc::SYS_futex, "locks"),
        any(libc::SYS_exit, "end of a thread"),
        any(libc::SYS_exit_group, "end"),
        any(libc::SYS_sched_yield, "busy waiting"),
        any(libc::SYS_sched_getaffinity, "number of CPUs"),
        any(libc::SYS_sched_getparam, "start of a thread"),
        any(libc::SYS_sched_getscheduler, "start of a thread"),
        any(
            libc::SYS_tgkill,
            "kicks a vCPU; only its own threads are in its pid namespace",
        ),
        any(libc::SYS_rt_sigaction, "handlers"),
        any(libc::SYS_rt_sigprocmask, "masks"),
        any(libc::SYS_rt_sigreturn, "end of a handler"),
        any(libc::SYS_rt_sigpending, "vCPUs: was there a kick"),
        any(libc::SYS_rt_sigtimedwait, "vCPUs: take a kick"),
        any(libc::SYS_rt_sigsuspend, "coroutines that are made by signals"),
        any(libc::SYS_sigaltstack, "coroutines, end of a thread"),
        any(libc::SYS_restart_syscall, "after a stop"),
        any(libc::SYS_clock_gettime, "where the vDSO has no clock"),
        any(libc::SYS_clock_getres, "where the vDSO has no clock"),
        any(libc::SYS_gettimeofday, "where the vDSO has no clock"),
        any(libc::SYS_time, "where the vDSO has no clock"),
        any(libc::SYS_clock_nanosleep, "a vCPU that lags"),
        any(libc::SYS_nanosleep, "a vCPU that lags"),
        any(libc::SYS_timerfd_create, "timers of the main loop"),
        any(libc::SYS_timerfd_settime, "timers of the main loop"),
        any(libc::SYS_eventfd2, "notifications"),
        any(libc::SYS_signalfd4, "signals in the main loop"),
        any(libc::SYS_ppoll, "main loop"),
        any(libc::SYS_poll, "main loop"),
        any(libc::SYS_epoll_create1, "main loop"),
        any(libc::SYS_epoll_ctl, "main loop"),
        any(libc::SYS_epoll_wait, "main loop"),
        any(libc::SYS_epoll_pwait, "main loop"),
    ]
}

/// Rules for the files of QEMU's root, which are read-only, and for its open files.
fn files() -> Vec<Rule> {
    let any = |syscall, reason| Rule::always(syscall, reason);
    let ioctl = |request: u64, reason| Rule::when(libc::SYS_ioctl, vec![Condition::equals(1, request)], reason);
    vec![
        any(
            libc::SYS_openat,
            "libraries, firmware, kernel, initramfs: for reading, see above",
        ),
        any(libc::SYS_open, "the same, by older libraries"),
        any(libc::SYS_close, "files that are done with"),
        any(libc::SYS_close_range, "files that are done with"),
        any(libc::SYS_read, "files, notifications"),
        any(libc::SYS_write, "messages, notifications"),
        any(libc::SYS_readv, "files, the console"),
        any(libc::SYS_writev, "messages, the console"),
        any(libc::SYS_pread64, "libraries, files"),
        any(libc::SYS_preadv, "files"),
        any(libc::SYS_lseek, "sizes of files"),
        any(libc::SYS_access, "is there such a file"),
        any(libc::SYS_faccessat, "is there such a file"),
        any(libc::SYS_faccessat2, "is there such a file"),
        any(libc::SYS_stat, "attributes"),
        any(libc::SYS_lstat, "attributes"),
        any(libc::SYS_fstat, "attributes"),
        any(libc::SYS_newfstatat, "attributes"),
        any(libc::SYS_statx, "attributes"),
        any(libc::SYS_statfs, "size of pages of a memory file"),
        any(libc::SYS_fstatfs, "size of pages of a memory file"),
        any(libc::SYS_readlink, "where the program lies"),
        any(libc::SYS_readlinkat, "where the program lies"),
        any(libc::SYS_getcwd, "names of files"),
        any(libc::SYS_fchdir, "libraries walk folders that are not there"),
        any(libc::SYS_getdents64, "libraries walk folders that are not there"),
        any(libc::SYS_fadvise64, "files that are read once"),
        any(libc::SYS_fcntl, "flags, duplicates, seals of guest memory"),
        any(libc::SYS_dup, "duplicates"),
        any(libc::SYS_dup2, "duplicates"),
        any(libc::SYS_dup3, "duplicates"),
        any(libc::SYS_pipe2, "notifications"),
        ioctl(libc::TCGETS, "is it a terminal"),
        ioctl(libc::FIONBIO, "sockets that do not block"),
        ioctl(libc::FIONREAD, "bytes that wait"),
        ioctl(libc::FIOCLEX, "files that are not inherited"),
    ]
}

/// Rules for the sockets of QEMU's devices. All of them are connected already except that of the network, which is in
/// `/fd`.
fn sockets() -> Vec<Rule> {
    let any = |syscall, reason| Rule::always(syscall, reason);
    vec![
        Rule::when(
            libc::SYS_socket,
            vec![Condition::equals(0, libc::AF_UNIX as u64)],
            "the network device's back end",
        ),
        any(
            libc::SYS_socketpair,
            "a device's way back: QEMU gives one end to its back end",
        ),
        any(libc::SYS_connect, "the network device's back end"),
        any(libc::SYS_getsockname, "names of sockets"),
        any(libc::SYS_getpeername, "names of sockets"),
        any(libc::SYS_getsockopt, "kinds of sockets"),
        any(libc::SYS_setsockopt, "sizes of buffers"),
        any(libc::SYS_shutdown, "end of a connection"),
        any(libc::SYS_sendmsg, "vhost-user, with files"),
        any(libc::SYS_recvmsg, "vhost-user, with files"),
        any(libc::SYS_sendto, "vhost-user"),
        any(libc::SYS_recvfrom, "vhost-user"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_jail() {
        let never = [
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_execveat,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setuid,
            libc::SYS_setresuid,
            libc::SYS_capset,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_perf_event_open,
            libc::SYS_open_by_handle_at,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_creat,
            libc::SYS_unlink,
            libc::SYS_rename,
            libc::SYS_mkdir,
            libc::SYS_chmod,
            libc::SYS_fchmod,
            libc::SYS_chown,
            libc::SYS_truncate,
        ];
        for rule in rules() {
            assert!(!never.contains(&rule.syscall), "{rule:?}");
        }
    }

    #[test]
    fn threads_are_made_and_no_processes() {
        let rules = rules();
        let clone: Vec<_> = rules.iter().filter(|rule| rule.syscall == libc::SYS_clone).collect();
        let permits = |flags: i32| {
            clone.iter().any(|rule| {
                rule.conditions
                    .iter()
                    .all(|condition| condition.holds(&[flags as u64, 0, 0, 0, 0, 0]))
            })
        };
        assert!(permits(libc::CLONE_VM | libc::CLONE_THREAD) && !permits(libc::CLONE_VM | libc::CLONE_VFORK));
        assert!(!permits(libc::SIGCHLD));
    }

    #[test]
    fn files_are_opened_for_reading_only() {
        let denied = denied();
        let is_denied = |flags: i32| {
            let of_openat = denied.iter().filter(|rule| rule.syscall == libc::SYS_openat);
            let arguments = [0, 0, flags as u64, 0, 0, 0];
            of_openat
                .into_iter()
                .any(|rule| rule.conditions.iter().all(|condition| condition.holds(&arguments)))
        };
        for flags in [0, libc::O_CLOEXEC, libc::O_DIRECTORY | libc::O_NONBLOCK, libc::O_PATH] {
            assert!(!is_denied(flags), "{flags:#o}");
        }
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            3,
            libc::O_CREAT,
            libc::O_TRUNC,
            libc::O_TMPFILE,
        ] {
            assert!(is_denied(flags), "{flags:#o}");
        }
    }
}
