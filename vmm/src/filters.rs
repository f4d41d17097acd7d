//! What each thread of a machine may ask of the host's kernel, with reasons. Everything else kills the process.

use std::os::fd::RawFd;

use capsid_jail::{Condition, Rule, panic_rules};

/// `KVM_RUN`: `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;

/// A vCPU thread: runs the guest, writes to eventfds.
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

/// The event loop: waits, lets devices work, tells the supervisor.
pub(crate) fn event_loop_rules(status: RawFd, eventfds: &[RawFd]) -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend([
        Rule::always(libc::SYS_epoll_wait, "loop: wait for work"),
        Rule::always(
            libc::SYS_epoll_ctl,
            "loop: wait for a backend only while its device runs; vsock: streams",
        ),
        Rule::always(libc::SYS_read, "loop: clear eventfds; vsock: streams"),
        Rule::always(libc::SYS_close, "end: fds of the machine; vsock: streams"),
        clock(),
    ]);
    rules.extend(writes_to(&[status], "loop: tell the supervisor"));
    rules.extend(writes_to(eventfds, "loop: interrupts"));
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
