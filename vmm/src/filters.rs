//! System call filters of each thread of a machine, with reasons. Any other call kills the process.

use std::os::fd::RawFd;

use capsid_jail::{Condition, Rule, panic_rules};

/// Number of the ioctl `KVM_RUN`: `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;

/// Rules of a vCPU thread: it runs the guest and writes to eventfds.
pub(crate) fn vcpu_rules(vcpu: RawFd, eventfds: &[RawFd]) -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.push(Rule::when(
        libc::SYS_ioctl,
        vec![Condition::equals(0, vcpu as u64), Condition::equals(1, KVM_RUN)],
        "vcpu: run the guest",
    ));
    rules.extend(writes_to(
        eventfds,
        "vcpu: end of the machine, interrupts, work for the event loop",
    ));
    rules.push(clock());
    rules
}

/// Rules of the event loop: it waits, lets devices work, whose own rules are `of_devices`, and notifies the supervisor.
pub(crate) fn event_loop_rules(of_devices: Vec<Rule>) -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend([
        Rule::always(libc::SYS_epoll_wait, "loop: wait for work"),
        Rule::always(
            libc::SYS_epoll_ctl,
            "loop: wait for a backend only while its device runs",
        ),
        Rule::always(libc::SYS_read, "loop: clear eventfds"),
        Rule::always(libc::SYS_write, "loop: interrupts, the supervisor"),
        Rule::always(libc::SYS_close, "end: fds of the machine"),
        clock(),
    ]);
    rules.extend(of_devices);
    rules
}

fn writes_to(fds: &[RawFd], reason: &'static str) -> Vec<Rule> {
    fds.iter()
        .map(|&fd| Rule::when(libc::SYS_write, vec![Condition::equals(0, fd as u64)], reason))
        .collect()
}

fn clock() -> Rule {
    Rule::always(
        libc::SYS_clock_gettime,
        "log line budget, status times: where the vDSO has no clock",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::virtio::filters as devices;

    /// Calls whose effect depends on their arguments.
    const MANY_FACED: &[i64] = &[
        libc::SYS_ioctl,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_fcntl,
        libc::SYS_socket,
        libc::SYS_prctl,
        libc::SYS_clone,
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_fallocate,
    ];
    /// Calls that lead out of the machine.
    const NEVER: &[i64] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_creat,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_socket,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_memfd_secret,
        libc::SYS_prctl,
        libc::SYS_kill,
    ];

    /// Rules of an event loop with every kind of device.
    fn event_loop() -> Vec<Rule> {
        let of_devices = [
            devices::readonly_block_rules(),
            devices::disk_slots_rules(),
            devices::share_rules(),
            devices::net_rules(),
            devices::vsock_rules(),
            devices::rng_rules(),
            devices::balloon_rules(),
        ];
        event_loop_rules(of_devices.concat())
    }

    fn calls(rules: &[Rule]) -> BTreeSet<i64> {
        rules.iter().map(|rule| rule.syscall).collect()
    }

    #[test]
    fn threads_have_few_calls() {
        let (vcpu, event_loop) = (calls(&vcpu_rules(9, &[7, 8])), calls(&event_loop()));
        assert!(vcpu.len() <= 20, "{} for a vCPU", vcpu.len());
        assert!(
            vcpu.union(&event_loop).count() <= 40,
            "{} in all",
            vcpu.union(&event_loop).count()
        );
    }

    #[test]
    fn devices_that_a_machine_does_not_have_permit_nothing() {
        let without = calls(&event_loop_rules(devices::rng_rules()));
        assert!(without.contains(&libc::SYS_getrandom));
        for call in [
            libc::SYS_pwritev,
            libc::SYS_sendto,
            libc::SYS_fallocate,
            libc::SYS_recvmsg,
        ] {
            assert!(
                calls(&event_loop()).contains(&call) && !without.contains(&call),
                "{call}"
            );
        }
    }

    #[test]
    fn many_faced_calls_are_bound_by_their_arguments() {
        for rule in vcpu_rules(9, &[7, 8]).into_iter().chain(event_loop()) {
            assert!(
                !MANY_FACED.contains(&rule.syscall) || !rule.conditions.is_empty(),
                "{rule:?}"
            );
            assert!(!NEVER.contains(&rule.syscall), "{rule:?}");
        }
    }

    #[test]
    fn a_vcpu_runs_itself_and_no_other() {
        let rules = vcpu_rules(9, &[7]);
        let permits = |syscall, arguments| {
            let mut rules = rules.iter().filter(|rule| rule.syscall == syscall);
            rules.any(|rule| rule.conditions.iter().all(|condition| condition.holds(&arguments)))
        };
        assert!(permits(libc::SYS_ioctl, [9, KVM_RUN, 0, 0, 0, 0]));
        assert!(!permits(libc::SYS_ioctl, [10, KVM_RUN, 0, 0, 0, 0]));
        assert!(!permits(libc::SYS_ioctl, [9, KVM_RUN + 1, 0, 0, 0, 0]));
        assert!(permits(libc::SYS_write, [7, 0, 8, 0, 0, 0]));
        assert!(!permits(libc::SYS_write, [5, 0, 8, 0, 0, 0]));
        assert!(!permits(libc::SYS_mmap, [0, 4096, 7, 0x22, 0, 0]));
    }
}
