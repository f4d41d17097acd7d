//! System call filters of each thread of this process, with reasons. Any other call kills the process.

use std::os::fd::RawFd;

use capsid_jail::{Condition, Rule, panic_rules};

/// Rules of the first thread, which waits for the others.
pub(super) fn main_rules(status: RawFd) -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.push(Rule::when(
        libc::SYS_write,
        vec![Condition::equals(0, status as u64)],
        "main: tell the supervisor",
    ));
    rules.push(Rule::always(libc::SYS_close, "main: end"));
    rules.push(close_check());
    rules
}

/// Rules of a thread that serves one device, whose own rules are `of_device`.
pub(super) fn server_rules(of_device: Vec<Rule>) -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend([
        Rule::always(libc::SYS_epoll_wait, "server: wait for work"),
        Rule::always(libc::SYS_epoll_ctl, "server: queues start and stop"),
        Rule::always(libc::SYS_recvmsg, "server: QEMU's requests"),
        Rule::always(libc::SYS_sendmsg, "server: answers to QEMU"),
        Rule::always(libc::SYS_write, "server: interrupts, on eventfds that QEMU hands over"),
        Rule::always(libc::SYS_close, "server: fds that QEMU hands over"),
        close_check(),
        Rule::always(
            libc::SYS_clock_gettime,
            "server: log line budget, where the vDSO has no clock",
        ),
        Rule::always(libc::SYS_lseek, "server: size of a memory region's file"),
        Rule::when(
            libc::SYS_mmap,
            vec![
                Condition::equals(2, (libc::PROT_READ | libc::PROT_WRITE) as u64),
                Condition::masked(3, libc::MAP_SHARED as u64, libc::MAP_SHARED as u64),
            ],
            "server: guest memory",
        ),
    ]);
    rules.extend(of_device);
    rules
}

fn close_check() -> Rule {
    Rule::when(
        libc::SYS_fcntl,
        vec![Condition::equals(1, libc::F_GETFD as u64)],
        "end of an fd: builds with assertions check that it is open",
    )
}
