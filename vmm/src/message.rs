//! One message on a `SOCK_SEQPACKET` UNIX socket, with descriptors beside it: how a supervisor speaks to a process that
//! runs already.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};

/// What is there of a socket.
#[derive(Debug)]
pub(crate) enum Received {
    /// Nothing now.
    Nothing,
    /// The other end is gone.
    End,
    /// It was longer, or had more beside it, than any message.
    Excess,
    Message(Vec<u8>, Vec<OwnedFd>),
}

/// The next message, if there is one now, of at most `bytes_max` bytes and with at most `fds_max` descriptors.
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
    // Without room for every descriptor some are missing; there may be room for one too many.
    let has_excess = fds.len() > fds_max || message.flags.contains(ReturnFlags::CTRUNC);
    if message.bytes > bytes_max || has_excess {
        return Received::Excess;
    }
    bytes.truncate(message.bytes);
    Received::Message(bytes, fds)
}

/// Answers. One that does not listen is gone.
pub(crate) fn answer(socket: impl AsFd, bytes: &[u8]) {
    let mut no_descriptors = SendAncillaryBuffer::default();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut no_descriptors, flags);
}
