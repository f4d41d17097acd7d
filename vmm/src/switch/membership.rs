//! How a pod becomes a member of a network: one message of its supervisor's, on a `SOCK_SEQPACKET` UNIX socket, with the
//! socket of its frames beside it; one answer. The pod is a member until the supervisor's socket is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

/// Bytes of the longest message: some hundred names.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A pod that comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses on this network.
    pub addresses: Vec<IpAddr>,
    /// Its names, in lower case.
    pub names: Vec<String>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is a member.
    Joined,
    /// It is none, for this reason.
    Refused(String),
}

/// Makes a pod a member for as long as `control`, which is connected to the switch, stays open. `frames` is the switch's
/// end of a stream on which each frame follows its length.
///
/// # Errors
/// Of the socket; `UnexpectedEof` when the switch ends, `InvalidData` when the answer is none.
pub fn join(control: impl AsFd, join: &Join, frames: OwnedFd) -> io::Result<Answer> {
    let message = serde_json::to_vec(join)?;
    let handed = [frames.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&handed));
    let parts = [IoSlice::new(&message)];
    retry_on_intr(|| rustix::net::sendmsg(&control, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let (count, _) = retry_on_intr(|| rustix::net::recv(&control, &mut bytes[..], RecvFlags::empty()))?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes[..count]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What is there of a supervisor's socket.
#[derive(Debug)]
pub(super) enum Received {
    Nothing,
    Join(Join, OwnedFd),
    /// It is closed, or says what makes no sense.
    End,
}

/// The message that has come, if one has.
pub(super) fn receive(control: impl AsFd) -> Received {
    // One byte more than a message has, to notice longer ones.
    let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let count = match rustix::net::recvmsg(&control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(_) => return Received::End,
    };
    let frames = ancillary.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (serde_json::from_slice(&bytes[..count]), frames) {
        (Ok(join), Some(frames)) if count <= MESSAGE_BYTES_MAX => Received::Join(join, frames),
        _ => Received::End,
    }
}

/// Tells a supervisor. One that does not listen is gone.
pub(super) fn answer(control: impl AsFd, answer: &Answer) {
    // Words alone always have a JSON form.
    let message = serde_json::to_vec(answer).unwrap_or_default();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(control, &message, flags);
}
