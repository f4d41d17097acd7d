//! Requests of the supervisor for streams: one message each, a guest port with a connected socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

const MESSAGE_BYTES: usize = 4;

/// Result of reading a message.
#[derive(Debug)]
pub(super) enum Asked {
    /// Request to connect `socket` to the guest's port `port`.
    Stream { port: u32, socket: OwnedFd },
    /// The message has another length, or not exactly one fd.
    Malformed,
    /// No message is available now.
    Nothing,
    /// The supervisor requests no more streams.
    Closed,
}

/// Reads one message.
pub(super) fn receive(control: impl AsFd) -> Asked {
    // One byte more than a message has, to notice longer ones.
    let mut bytes = [0; MESSAGE_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let count = loop {
        match rustix::net::recvmsg(&control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(message) => break message.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Asked::Nothing,
            Err(_) => return Asked::Closed,
        }
    };
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            sockets.extend(fds);
        }
    }
    let [b0, b1, b2, b3, _] = bytes;
    match (count, sockets.pop()) {
        (0, None) => Asked::Closed,
        (MESSAGE_BYTES, Some(socket)) if sockets.is_empty() => Asked::Stream {
            port: u32::from_le_bytes([b0, b1, b2, b3]),
            socket,
        },
        _ => Asked::Malformed,
    }
}
