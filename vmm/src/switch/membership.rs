//! Membership of a pod in a network. Its supervisor sends one message, on a `SOCK_SEQPACKET` UNIX socket, with the
//! socket of the pod's frames beside it, and gets one answer. The pod is a member until the supervisor's socket is
//! closed. Its names may be replaced meanwhile, which is not answered.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};

use crate::message;

/// Maximum length of a message in bytes: some hundred names.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Pod that joins a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Hardware address of the pod.
    pub mac: [u8; 6],
    /// Addresses of the pod on this network.
    pub addresses: Vec<IpAddr>,
    /// Names of the pod, in lower case.
    pub names: Vec<String>,
}

/// Message of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Join(Join),
    /// Replaces the member's names, in lower case.
    Names(Vec<String>),
}

/// Answer to a pod that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The pod is a member.
    Admitted,
    /// The pod is not a member, for this reason.
    Refused(String),
}

/// Makes a pod a member for as long as `control`, which is connected to the switch, stays open. `frames` is the
/// switch's end of a stream on which each frame follows its length.
///
/// # Errors
/// Errors of the socket; `UnexpectedEof` if the switch ends, `InvalidData` if the answer is invalid.
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

/// Replaces the names of a member.
///
/// # Errors
/// Errors of the socket.
pub fn rename(control: impl AsFd, names: Vec<String>) -> io::Result<()> {
    let message = serde_json::to_vec(&Word::Names(names))?;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::send(control, &message, flags)?;
    Ok(())
}

/// Result of receiving from a supervisor's socket.
#[derive(Debug)]
pub(super) enum Received {
    Nothing,
    Join(Join, OwnedFd),
    Names(Vec<String>),
    /// The socket is closed, or the message is invalid.
    End,
}

/// Receives the next message, if one has arrived.
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

/// Sends an answer to a supervisor.
pub(super) fn answer(control: impl AsFd, answer: &Answer) {
    // Strings always have a JSON form.
    message::answer(control, &serde_json::to_vec(answer).unwrap_or_default());
}
