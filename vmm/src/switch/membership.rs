//! How a pod becomes a member of a network: one message of its supervisor's, on a `SOCK_SEQPACKET` UNIX socket, with the
//! socket of its frames beside it; one answer. The pod is a member until the supervisor's socket is closed, and may be
//! given other names meanwhile, which is not answered.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};

use crate::message;

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

/// What supervisors say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Join(Join),
    /// It has these names from now on, in lower case.
    Names(Vec<String>),
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
pub fn join(control: impl AsFd, join: Join, frames: OwnedFd) -> io::Result<Answer> {
    let message = serde_json::to_vec(&Word::Join(join))?;
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

/// Gives a member other names.
///
/// # Errors
/// Of the socket.
pub fn rename(control: impl AsFd, names: Vec<String>) -> io::Result<()> {
    let message = serde_json::to_vec(&Word::Names(names))?;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::send(control, &message, flags)?;
    Ok(())
}

/// What is there of a supervisor's socket.
#[derive(Debug)]
pub(super) enum Received {
    Nothing,
    Join(Join, OwnedFd),
    Names(Vec<String>),
    /// It is closed, or says what makes no sense.
    End,
}

/// The message that has come, if one has.
pub(super) fn receive(control: impl AsFd) -> Received {
    let (bytes, fds) = match message::receive(control, MESSAGE_BYTES_MAX, 1) {
        message::Received::Nothing => return Received::Nothing,
        message::Received::End | message::Received::Excess => return Received::End,
        message::Received::Message(bytes, fds) => (bytes, fds),
    };
    match (serde_json::from_slice(&bytes), fds.into_iter().next()) {
        (Ok(Word::Join(join)), Some(frames)) => Received::Join(join, frames),
        (Ok(Word::Names(names)), None) => Received::Names(names),
        _ => Received::End,
    }
}

/// Tells a supervisor.
pub(super) fn answer(control: impl AsFd, answer: &Answer) {
    // Words alone always have a JSON form.
    message::answer(control, &serde_json::to_vec(answer).unwrap_or_default());
}
