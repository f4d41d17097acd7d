//! System calls that this process may make while it serves a guest, with reasons. The kernel kills the process for any
//! other call.

use capsid_jail::{Condition, Rule, panic_rules};

/// Returns the rules for all three threads: the library decides which thread does what.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend(serving());
    rules.extend(names());
    rules.extend(contents());
    rules
}

/// Rules for vhost-user and the rings.
fn serving() -> Vec<Rule> {
    vec![
        Rule::always(libc::SYS_epoll_wait, "rings: wait for work"),
        Rule::always(libc::SYS_epoll_ctl, "rings start and stop"),
        Rule::always(libc::SYS_recvmsg, "requests of the machine's"),
        Rule::always(libc::SYS_recvfrom, "requests of the machine's"),
        Rule::always(libc::SYS_sendmsg, "answers to the machine"),
        Rule::always(libc::SYS_read, "rings: notifications"),
        Rule::always(libc::SYS_write, "rings: interrupts"),
        Rule::always(libc::SYS_close, "files, and what the machine hands over"),
        Rule::when(
            libc::SYS_mmap,
            vec![
                Condition::equals(2, (libc::PROT_READ | libc::PROT_WRITE) as u64),
                Condition::masked(3, libc::MAP_SHARED as u64, libc::MAP_SHARED as u64),
            ],
            "guest memory",
        ),
        Rule::when(
            libc::SYS_prctl,
            vec![Condition::equals(0, libc::PR_SET_NAME as u64)],
            "a thread that has just started: its name",
        ),
        Rule::always(libc::SYS_set_robust_list, "a thread that has just started"),
        Rule::always(libc::SYS_rseq, "a thread that has just started"),
        Rule::always(libc::SYS_sched_getaffinity, "a thread that has just started: its stack"),
        Rule::always(libc::SYS_getrandom, "hash tables"),
        Rule::always(libc::SYS_clock_gettime, "where the vDSO has no clock"),
        Rule::always(libc::SYS_restart_syscall, "after a stop"),
    ]
}

/// Rules for finding, creating, renaming and removing: always one name relative to an open folder.
fn names() -> Vec<Rule> {
    let own_umask = Rule::when(
        libc::SYS_umask,
        vec![Condition::equals(0, 0)],
        "mount: modes arrive whole",
    );
    vec![
        Rule::always(libc::SYS_openat, "lookup, create, open"),
        Rule::always(libc::SYS_newfstatat, "attributes"),
        Rule::always(libc::SYS_fstat, "attributes"),
        Rule::always(libc::SYS_statx, "attributes"),
        Rule::always(libc::SYS_fstatfs, "statfs"),
        Rule::always(libc::SYS_readlinkat, "readlink"),
        Rule::always(libc::SYS_getdents64, "readdir"),
        Rule::always(libc::SYS_lseek, "readdir, seek; size of guest memory"),
        Rule::always(libc::SYS_mkdirat, "mkdir"),
        Rule::always(
            libc::SYS_mknodat,
            "files, pipes and sockets; devices take a capability that is gone",
        ),
        Rule::always(libc::SYS_symlinkat, "symlink"),
        Rule::always(libc::SYS_linkat, "link"),
        Rule::always(libc::SYS_unlinkat, "unlink, rmdir"),
        Rule::always(libc::SYS_renameat2, "rename"),
        Rule::always(libc::SYS_setresuid, "make files that belong to the guest's user"),
        Rule::always(libc::SYS_setresgid, "make files that belong to the guest's group"),
        own_umask,
    ]
}

/// Reading, writing and attributes of open files.
fn contents() -> Vec<Rule> {
    vec![
        Rule::always(libc::SYS_pread64, "read"),
        Rule::always(libc::SYS_preadv, "read"),
        Rule::always(libc::SYS_pwrite64, "write"),
        Rule::always(libc::SYS_pwritev, "write"),
        Rule::always(libc::SYS_readv, "read"),
        Rule::always(libc::SYS_writev, "write"),
        Rule::always(libc::SYS_ftruncate, "truncate"),
        Rule::always(libc::SYS_fallocate, "fallocate"),
        Rule::always(libc::SYS_fsync, "fsync"),
        Rule::always(libc::SYS_fdatasync, "fsync"),
        Rule::always(libc::SYS_dup, "flush: some file systems report errors at close"),
        Rule::always(libc::SYS_fchmod, "chmod"),
        Rule::always(libc::SYS_fchmodat, "chmod"),
        Rule::always(libc::SYS_fchownat, "chown"),
        Rule::always(libc::SYS_utimensat, "times"),
        Rule::when(
            libc::SYS_fcntl,
            vec![Condition::equals(1, libc::F_SETFL as u64)],
            "append or not, as the guest's program changes its mind",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_share() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_open_by_handle_at,
            libc::SYS_name_to_handle_at,
            libc::SYS_chroot,
            libc::SYS_pivot_root,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_capset,
            libc::SYS_ioctl,
            libc::SYS_setxattr,
        ];
        for rule in rules() {
            assert!(!never.contains(&rule.syscall), "{rule:?}");
        }
        assert!(rules().len() <= 90, "{}", rules().len());
    }
}
