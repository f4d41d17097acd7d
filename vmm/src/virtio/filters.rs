//! System call rules of each device while it serves a guest, with reasons. The thread in which it runs adds its own
//! rules.

use capsid_jail::{Condition, Rule};
use rustix::fs::FallocateFlags;

use super::sys::Backing;

/// Rules of a disk that is only read.
pub(crate) fn readonly_block_rules() -> Vec<Rule> {
    vec![Rule::always(libc::SYS_preadv, "block: read")]
}

/// Rules of disks that come and go in slots.
pub(crate) fn disk_slots_rules() -> Vec<Rule> {
    let mut rules = block_rules();
    rules.extend([
        Rule::always(libc::SYS_recvmsg, "disk slots: disks that come"),
        Rule::always(libc::SYS_sendmsg, "disk slots: answers about them"),
        Rule::always(libc::SYS_close, "disk slots: disks that went"),
    ]);
    rules
}

/// Rules of a disk.
pub(crate) fn block_rules() -> Vec<Rule> {
    let punch_hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero_range = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let fallocate = |flags: FallocateFlags, reason| {
        Rule::when(
            libc::SYS_fallocate,
            vec![Condition::equals(1, u64::from(flags.bits()))],
            reason,
        )
    };
    vec![
        Rule::always(libc::SYS_preadv, "block: read"),
        Rule::always(libc::SYS_pwritev, "block: write"),
        Rule::always(libc::SYS_fdatasync, "block: flush"),
        Rule::always(libc::SYS_fstatfs, "block: room on the host's disk"),
        Rule::when(
            libc::SYS_lseek,
            vec![Condition::equals(2, libc::SEEK_HOLE as u64)],
            "block: whether a write takes room",
        ),
        Rule::always(libc::SYS_clock_gettime, "block: ages, where the vDSO has no clock"),
        Rule::always(libc::SYS_timerfd_settime, "block: writes that wait for room"),
        Rule::always(libc::SYS_read, "block: own timer"),
        fallocate(punch_hole, "block: discard"),
        fallocate(zero_range, "block: write zeroes"),
    ]
}

/// Rules of the balloon.
pub(crate) fn balloon_rules() -> Vec<Rule> {
    let advice = |backing: Backing| {
        let condition = Condition::equals(2, backing.advice() as u64);
        Rule::when(libc::SYS_madvise, vec![condition], "balloon: free pages go back")
    };
    vec![advice(Backing::Private), advice(Backing::Shared)]
}

/// Rules of the entropy device.
pub(crate) fn rng_rules() -> Vec<Rule> {
    vec![Rule::when(
        libc::SYS_getrandom,
        vec![Condition::equals(2, 0)],
        "rng: the guest's bytes",
    )]
}

/// Rules of a shared folder.
pub(crate) fn share_rules() -> Vec<Rule> {
    vec![
        Rule::always(libc::SYS_sendmsg, "share: requests to the file server"),
        Rule::always(libc::SYS_recvmsg, "share: its answers"),
    ]
}

/// Rules of the network device.
pub(crate) fn net_rules() -> Vec<Rule> {
    vec![
        Rule::always(libc::SYS_epoll_ctl, "net: the network has room, or frames"),
        Rule::always(libc::SYS_sendto, "net: frames from the guest"),
        Rule::always(libc::SYS_recvfrom, "net: frames for the guest"),
        Rule::always(libc::SYS_recvmsg, "net: segments that come and go"),
        Rule::always(libc::SYS_sendmsg, "net: answers about them"),
        Rule::always(libc::SYS_close, "net: segments that went"),
        Rule::always(libc::SYS_timerfd_settime, "net: frames that a rate holds up"),
        Rule::always(libc::SYS_read, "net: own eventfd, own timer"),
        Rule::always(libc::SYS_write, "net: own eventfd"),
        Rule::always(libc::SYS_clock_gettime, "net: ages, where the vDSO has no clock"),
    ]
}

/// Rules of the socket device.
pub(crate) fn vsock_rules() -> Vec<Rule> {
    vec![
        Rule::always(libc::SYS_epoll_wait, "vsock: which stream is it"),
        Rule::always(libc::SYS_epoll_ctl, "vsock: streams come; a slow reader has room"),
        Rule::always(libc::SYS_sendmsg, "vsock: bytes from the guest"),
        Rule::always(libc::SYS_recvmsg, "vsock: bytes for the guest, new streams"),
        Rule::always(libc::SYS_sendto, "vsock: bytes that a slow reader had left"),
        Rule::always(libc::SYS_recvfrom, "vsock: bytes left unread at the end of a stream"),
        Rule::always(libc::SYS_shutdown, "vsock: half-closed streams"),
        Rule::always(libc::SYS_close, "vsock: streams go"),
        Rule::always(libc::SYS_timerfd_settime, "vsock: answers in time"),
        Rule::always(libc::SYS_read, "vsock: own eventfd"),
        Rule::always(libc::SYS_write, "vsock: own eventfd"),
        Rule::always(libc::SYS_clock_gettime, "vsock: deadlines, where the vDSO has no clock"),
    ]
}
