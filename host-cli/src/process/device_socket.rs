//! Socket over which a device of a running machine is notified of changes: one message per change, with files attached,
//! answered by one byte (`capsid_vmm::disk_slots`, `capsid_vmm::segments`).

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use capsid_vmm::disk_slots::{DONE, FILES_MAX};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// Time limit for the machine's answer to a change: it applies changes at once, unless the host is very busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a device does not apply a change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot speak to the machine")]
    Speak(#[source] io::Error),
    #[error("the machine does not answer")]
    Silent,
    #[error("the machine has not answered before, so that nobody knows what it has: stop it and start it again")]
    Unknown,
    #[error("the machine refuses it: it may have too many open files")]
    Refused,
}

/// Supervisor's end of the socket.
#[derive(Debug)]
pub(crate) struct DeviceSocket {
    socket: UnixDatagram,
    /// True while an answer is pending: the next answer would be taken for the answer to something else.
    is_unknown: Cell<bool>,
}

impl DeviceSocket {
    /// Creates a connected pair; the second value is the machine's end.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, machine) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let socket = Self {
            socket: watched(ours)?,
            is_unknown: Cell::new(false),
        };
        Ok((socket, machine))
    }

    /// Sends one change to the device, and waits until the device has applied it. No other change may be sent
    /// meanwhile.
    pub(crate) async fn change(&self, message: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        // Stays set when this future is dropped halfway.
        if self.is_unknown.replace(true) {
            return Err(DeviceError::Unknown);
        }
        let reported = async {
            let write = || send(&self.socket, message, files);
            self.socket.async_io(Interest::WRITABLE, write).await?;
            self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await
        };
        let answer = match timeout(ANSWER_TIMEOUT, reported).await {
            Err(_) => return Err(DeviceError::Silent),
            Ok(Err(error)) => return Err(DeviceError::Speak(error)),
            Ok(Ok(answer)) => answer,
        };
        self.is_unknown.set(false);
        if answer == DONE {
            Ok(())
        } else {
            Err(DeviceError::Refused)
        }
    }
}

/// Wraps a message socket (`SOCK_SEQPACKET`) for tokio, which supports datagram sockets only: just the readiness of the
/// type is used here.
pub(crate) fn watched(socket: OwnedFd) -> io::Result<UnixDatagram> {
    let socket = StdDatagram::from(socket);
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

fn send(socket: &UnixDatagram, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// Reads the machine's answer; a closed socket is an error.
fn receive(socket: &UnixDatagram) -> io::Result<u8> {
    let mut word = [0];
    match rustix::net::recv(socket, &mut word, RecvFlags::DONTWAIT)? {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(word[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_owed_is_not_taken_for_another() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (device, machine) = DeviceSocket::pair().unwrap();
            let patience = Duration::from_millis(50);
            assert!(timeout(patience, device.change(b"x", &[])).await.is_err());
            // The answer arrives late, when nobody waits for it.
            rustix::net::send(&machine, &[DONE], SendFlags::empty()).unwrap();
            assert!(matches!(device.change(b"y", &[]).await, Err(DeviceError::Unknown)));
        });
    }
}
