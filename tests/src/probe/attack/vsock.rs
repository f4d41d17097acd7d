//! The socket device: the one way out of the machine that the guest holds the key to.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Verdict, all_blocked};
use crate::sys::{self, Arg};

const HOST: u32 = 2;
const LOCAL: u32 = 1;
const HYPERVISOR: u32 = 0;
/// `VMADDR_CID_ANY`: the kernel takes it for its own.
const ANY: u32 = u32::MAX;
/// Ports that the agent and the host use lie here.
const LOW_PORTS: u32 = 2048;
const RANDOM_PORTS: u32 = 10_000;
/// How long a connection may take; each is a round trip inside one host.
const CONNECT_MS: i64 = 2000;

/// No port of the host takes a connection, the session's least of all: it was taken once.
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

/// The agent serves streams to the host only: nobody in the guest may pose as the host.
pub(crate) fn agent() -> Verdict {
    let own = own_cid().unwrap_or(3);
    all_blocked(
        [LOCAL, own, ANY, 3]
            .into_iter()
            .flat_map(|cid| (1..=LOW_PORTS).map(move |port| attempt(cid, port))),
    )
}

/// `IOCTL_VM_SOCKETS_GET_LOCAL_CID`
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

/// Blocked: refused, or closed by the other side before it said anything.
fn attempt(cid: u32, port: u32) -> Verdict {
    let what = format!("vsock {cid}:{port}");
    match connect(cid, port).and_then(is_kept) {
        Ok(true) => Verdict::Succeeded(what),
        Ok(false) => Verdict::Blocked(format!("{what}: closed by the other side")),
        Err(error) => Verdict::Blocked(format!("{what}: {error}")),
    }
}

fn connect(cid: u32, port: u32) -> io::Result<File> {
    let kind = i64::from(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let socket = sys::call(
        libc::SYS_socket,
        vec![Arg::Int(i64::from(libc::AF_VSOCK)), Arg::Int(kind), Arg::Int(0)],
    )?;
    let socket = own(socket);
    // SO_VM_SOCKETS_CONNECT_TIMEOUT, a struct timeval.
    let limit: Vec<u8> = [CONNECT_MS / 1000, 0].into_iter().flat_map(i64::to_ne_bytes).collect();
    let level = Arg::Int(i64::from(libc::AF_VSOCK));
    let descriptor = i64::from(socket.as_raw_fd());
    let arguments = vec![Arg::Int(descriptor), level, Arg::Int(6), Arg::In(&limit), Arg::Int(16)];
    let _ = sys::call(libc::SYS_setsockopt, arguments);
    // struct sockaddr_vm: family, reserved, port, cid, flags.
    let mut address = u16::try_from(libc::AF_VSOCK)
        .expect("a small number")
        .to_ne_bytes()
        .to_vec();
    address.extend([0, 0]);
    address.extend(port.to_ne_bytes());
    address.extend(cid.to_ne_bytes());
    address.extend([0; 4]);
    sys::call(
        libc::SYS_connect,
        vec![Arg::Int(descriptor), Arg::In(&address), Arg::Int(16)],
    )?;
    Ok(File::from(socket))
}

/// Whether the connection still stands after half a second of silence.
fn is_kept(mut connection: File) -> io::Result<bool> {
    let mut poll = Vec::new();
    poll.extend(connection.as_raw_fd().to_ne_bytes());
    poll.extend(libc::POLLIN.to_ne_bytes());
    poll.extend([0, 0]);
    let silent = sys::call(libc::SYS_poll, vec![Arg::Out(&mut poll), Arg::Int(1), Arg::Int(500)])? == 0;
    if silent {
        return Ok(true);
    }
    Ok(connection.read(&mut [0; 16])? > 0)
}

fn own(descriptor: i64) -> OwnedFd {
    sys::adopt(i32::try_from(descriptor).expect("a descriptor"))
}
