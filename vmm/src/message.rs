//! Messages on a `SOCK_SEQPACKET` UNIX socket, with descriptors beside them: a supervisor sends them to a process that
//! is already running.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};

/// Result of receiving from a socket.
#[derive(Debug)]
pub(crate) enum Received {
    /// No message at present.
    Nothing,
    /// The other end is closed.
    End,
    /// The message was longer, or had more descriptors, than any valid message.
    Excess,
    Message(Vec<u8>, Vec<OwnedFd>),
}

/// Receives the next message, if there is one now, of at most `bytes_max` bytes and with at most `fds_max` descriptors.
pub(crate) fn receive(socket: impl AsFd, bytes_max: usize, fds_max: usize) -> Received {
    // One byte more than a message has, to notice longer ones.
    let mut bytes = vec![0; bytes_max + 1];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds_max))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Received::Nothing,
            Err(_) => return Received::End,
        }
    };
    // No message is empty.
    if message.bytes == 0 {
        return Received::End;
    }
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = part {
            fds.extend(handed);
        }
    }
    // If the buffer is too small for every descriptor, some are missing; it may have room for one too many.
    let has_excess = fds.len() > fds_max || message.flags.contains(ReturnFlags::CTRUNC);
    if message.bytes > bytes_max || has_excess {
        return Received::Excess;
    }
    bytes.truncate(message.bytes);
    Received::Message(bytes, fds)
}

/// Sends an answer. A failure is ignored: an end that does not listen is gone.
pub(crate) fn answer(socket: impl AsFd, bytes: &[u8]) {
    let mut no_descriptors = SendAncillaryBuffer::default();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut no_descriptors, flags);
}
