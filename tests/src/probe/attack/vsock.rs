//! Attacks on the socket device: the one way out of the machine that the guest holds the key to.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use super::{Verdict, all_blocked};
use crate::sys::{self, Arg};

const HOST: u32 = 2;
const LOCAL: u32 = 1;
const HYPERVISOR: u32 = 0;
/// CID `VMADDR_CID_ANY`: the kernel takes it for its own.
const ANY: u32 = u32::MAX;
/// Upper bound of the ports that the agent and the host use.
const LOW_PORTS: u32 = 2048;
const RANDOM_PORTS: u32 = 10_000;
/// Time limit of a connection; each is a round trip inside one host.
const CONNECT_MS: i64 = 2000;
/// Time that a silent connection must stand to count as one.
const SILENCE_MS: i64 = 500;

/// Connects to the host: no port takes a connection, least of all the session's, which was taken once.
pub(crate) fn host() -> Verdict {
    let random = |seed: u32| {
        (0..RANDOM_PORTS).scan(seed, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(*state)
        })
    };
    let ports = (1..=LOW_PORTS).chain(random(2026)).chain([u32::MAX - 1]);
    all_blocked(
        ports
            .map(|port| attempt(HOST, port))
            .chain([attempt(HYPERVISOR, 1024), attempt(HYPERVISOR, 1025)]),
    )
}

/// Connects to the agent, which serves streams to the host only: nobody in the guest may pose as the host. All ports of
/// an address are tried at once: nobody answers for it, so each attempt takes its whole time.
pub(crate) fn agent() -> Verdict {
    let own = own_cid().unwrap_or(3);
    all_blocked([LOCAL, own, ANY].into_iter().flat_map(attempt_all))
}

/// Attempts [`LOW_PORTS`] of one address side by side.
fn attempt_all(cid: u32) -> Vec<Verdict> {
    let begin = |port| {
        let what = format!("vsock {cid}:{port}");
        let begun = begin_connect(cid, port).map_err(|error| format!("{what}: {error}"));
        (what, begun)
    };
    let attempts: Vec<_> = (1..=LOW_PORTS).map(begin).collect();
    thread::sleep(Duration::from_millis(
        CONNECT_MS.unsigned_abs() + SILENCE_MS.unsigned_abs(),
    ));
    let judge = |(what, begun): (String, Result<File, String>)| match begun.map(stands) {
        Ok(Ok(true)) => Verdict::Succeeded(what),
        Ok(Ok(false)) => Verdict::Blocked(format!("{what}: no connection")),
        Ok(Err(error)) => Verdict::Blocked(format!("{what}: {error}")),
        Err(refusal) => Verdict::Blocked(refusal),
    };
    attempts.into_iter().map(judge).collect()
}

/// Whether a connection that was begun stands now and was not closed by the other side.
fn stands(mut connection: File) -> io::Result<bool> {
    let events = poll(&connection, libc::POLLIN | libc::POLLOUT, 0)?;
    if events & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 || events & libc::POLLOUT == 0 {
        return Ok(false);
    }
    // Data from the other side, or its end.
    Ok(events & libc::POLLIN == 0 || connection.read(&mut [0; 16])? > 0)
}

/// Returns the guest's own CID (`IOCTL_VM_SOCKETS_GET_LOCAL_CID`).
fn own_cid() -> Option<u32> {
    let device = File::open("/dev/vsock").ok()?;
    let mut cid = [0_u8; 4];
    let arguments = vec![
        Arg::Int(i64::from(device.as_raw_fd())),
        Arg::Int(0x7b9),
        Arg::Out(&mut cid),
    ];
    sys::call(libc::SYS_ioctl, arguments).ok()?;
    Some(u32::from_ne_bytes(cid))
}

/// Attempts one connection; blocked if it is refused, or closed by the other side before it sent anything.
fn attempt(cid: u32, port: u32) -> Verdict {
    let what = format!("vsock {cid}:{port}");
    match connect(cid, port).and_then(is_kept) {
        Ok(true) => Verdict::Succeeded(what),
        Ok(false) => Verdict::Blocked(format!("{what}: closed by the other side")),
        Err(error) => Verdict::Blocked(format!("{what}: {error}")),
    }
}

fn connect(cid: u32, port: u32) -> io::Result<File> {
    let socket = socket(0)?;
    connect_to(&socket, cid, port)?;
    Ok(socket)
}

/// Starts to connect without waiting for the answer.
fn begin_connect(cid: u32, port: u32) -> io::Result<File> {
    let socket = socket(libc::SOCK_NONBLOCK)?;
    match connect_to(&socket, cid, port) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Makes a socket whose connections have the time limit [`CONNECT_MS`].
fn socket(flags: i32) -> io::Result<File> {
    let kind = i64::from(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags);
    let socket = sys::call(
        libc::SYS_socket,
        vec![Arg::Int(i64::from(libc::AF_VSOCK)), Arg::Int(kind), Arg::Int(0)],
    )?;
    let socket = own(socket);
    // SO_VM_SOCKETS_CONNECT_TIMEOUT, a struct timeval.
    let limit: Vec<u8> = [CONNECT_MS / 1000, 0].into_iter().flat_map(i64::to_ne_bytes).collect();
    let level = Arg::Int(i64::from(libc::AF_VSOCK));
    let descriptor = Arg::Int(i64::from(socket.as_raw_fd()));
    let arguments = vec![descriptor, level, Arg::Int(6), Arg::In(&limit), Arg::Int(16)];
    sys::call(libc::SYS_setsockopt, arguments)?;
    Ok(File::from(socket))
}

fn connect_to(socket: &File, cid: u32, port: u32) -> io::Result<()> {
    // struct sockaddr_vm: family, reserved, port, cid, flags.
    let mut address = u16::try_from(libc::AF_VSOCK)
        .expect("a small number")
        .to_ne_bytes()
        .to_vec();
    address.extend([0, 0]);
    address.extend(port.to_ne_bytes());
    address.extend(cid.to_ne_bytes());
    address.extend([0; 4]);
    let descriptor = Arg::Int(i64::from(socket.as_raw_fd()));
    sys::call(libc::SYS_connect, vec![descriptor, Arg::In(&address), Arg::Int(16)]).map(drop)
}

/// Whether the connection still stands after a while of silence.
fn is_kept(mut connection: File) -> io::Result<bool> {
    if poll(&connection, libc::POLLIN, SILENCE_MS)? == 0 {
        return Ok(true);
    }
    Ok(connection.read(&mut [0; 16])? > 0)
}

/// Returns those of `events` that occur within `milliseconds`.
fn poll(file: &File, events: i16, milliseconds: i64) -> io::Result<i16> {
    // struct pollfd: descriptor, events asked for, events that are.
    let mut asked = [0; 8];
    asked[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
    asked[4..6].copy_from_slice(&events.to_ne_bytes());
    sys::call(
        libc::SYS_poll,
        vec![Arg::Out(&mut asked), Arg::Int(1), Arg::Int(milliseconds)],
    )?;
    Ok(i16::from_ne_bytes([asked[6], asked[7]]))
}

fn own(descriptor: i64) -> OwnedFd {
    sys::adopt(i32::try_from(descriptor).expect("a descriptor"))
}
