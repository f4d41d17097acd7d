//! The control socket between the agent and a container init: frames, with descriptors beside their first bytes.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_protocol::{FrameError, frame};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Bytes of a frame's length, which carry the descriptors.
const PREFIX_BYTES: usize = 4;

/// Sends one encoded frame with at most three descriptors.
pub(crate) fn send(socket: &UnixStream, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(FrameError::Io(std::io::ErrorKind::InvalidInput.into()));
    }
    let (prefix, body) = frame.split_at(PREFIX_BYTES.min(frame.len()));
    // Four bytes are sent whole or not at all; a spec may be longer than the socket's buffer.
    rustix::net::sendmsg(socket, &[IoSlice::new(prefix)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|e| FrameError::Io(e.into()))?;
    let mut socket = socket;
    socket.write_all(body).map_err(FrameError::Io)
}

/// Receives the body of one frame and its descriptors.
///
/// # Errors
/// [`FrameError::Closed`] if the other side is gone, also in the middle.
pub(crate) fn receive(socket: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>), FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut prefix)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    );
    let received = received.map_err(|e| FrameError::Io(e.into()))?;
    if received.bytes < prefix.len() || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(FrameError::Closed);
    }
    let fds = ancillary
        .drain()
        .filter_map(|m| {
            if let RecvAncillaryMessage::ScmRights(fds) = m {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    let mut body = vec![0; frame::body_len(prefix)?];
    let mut socket = socket;
    socket.read_exact(&mut body).map_err(FrameError::Io)?;
    Ok((body, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use capsid_protocol::Created;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_frame() {
        let (a, b) = UnixStream::pair().unwrap();
        let sent = Created {
            container: "x".repeat(100_000),
        };
        let frame = frame::encode_frame(&sent).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let sender = std::thread::spawn(move || send(&a, &frame, &[writer.as_fd()]).unwrap());
        let (body, fds) = receive(&b).unwrap();
        sender.join().unwrap();
        assert_eq!(frame::decode_body::<Created>(&body).unwrap(), sent);
        rustix::io::write(&fds[0], b"!").unwrap();
        drop(fds);
        let mut got = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut got).unwrap();
        assert_eq!(got, b"!");
        assert!(matches!(receive(&b), Err(FrameError::Closed)));
    }
}
