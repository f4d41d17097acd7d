//! System call filter of the switch, with reasons. Any other call kills it.

use capsid_jail::{Rule, panic_rules};

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend([
        Rule::always(libc::SYS_epoll_wait, "wait for frames, supervisors, and a moment"),
        Rule::always(libc::SYS_epoll_ctl, "members come and go; room for frames"),
        Rule::always(libc::SYS_accept4, "supervisors"),
        Rule::always(libc::SYS_recvmsg, "what supervisors say, with the socket of frames"),
        Rule::always(libc::SYS_recvfrom, "frames"),
        Rule::always(libc::SYS_sendto, "frames"),
        Rule::always(libc::SYS_sendmsg, "answers to supervisors"),
        Rule::always(libc::SYS_close, "members that have gone"),
        Rule::always(libc::SYS_flock, "the end: whether somebody is about to join"),
        Rule::always(libc::SYS_ppoll, "which supervisors are gone"),
    ]);
    rules
}
