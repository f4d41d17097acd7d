//! Requests to the kernel's network configuration, and its answers.
//!
//! A container with the rights to do so shares the namespace of such a socket, and could send to it: only messages from
//! the kernel are accepted.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::fd::{AsFd, BorrowedFd};

use super::NetworkError;
use crate::limits::NETLINK_PARTS_MAX;

/// Netlink port of the kernel.
const KERNEL: u32 = 0;

/// Netlink socket to the kernel, in the namespace that it was opened in.
pub(super) struct Netlink(Socket);

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Netlink {
    pub(super) fn open() -> Result<Self, NetworkError> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(NetworkError::Netlink)?;
        // Messages from others are refused from here on.
        socket
            .connect(&SocketAddr::new(KERNEL, 0))
            .map_err(NetworkError::Netlink)?;
        // Lists then hold only what is asked for. An older kernel reports more, which is skipped.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self(socket))
    }

    /// Sends one request, and waits until it is done.
    pub(super) fn ask(&self, step: &str, request: RouteNetlinkMessage, flags: u16) -> Result<(), NetworkError> {
        let fail = |source| NetworkError::step(step, source);
        self.send(request, NLM_F_ACK | flags).map_err(fail)?;
        let answer = self.receive().map_err(fail)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
        match answer.map(|answer| answer.payload) {
            Ok(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
            Ok(NetlinkPayload::Error(error)) => Err(fail(error.to_io())),
            _ => Err(fail(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Requests a list and returns its entries as converted by `take`.
    pub(super) fn list<T>(
        &self,
        step: &str,
        request: RouteNetlinkMessage,
        take: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetworkError> {
        let fail = |source| NetworkError::step(step, source);
        self.send(request, NLM_F_DUMP).map_err(fail)?;
        let mut list = Vec::new();
        for _ in 0..NETLINK_PARTS_MAX {
            let part = self.receive().map_err(fail)?;
            let mut rest = &part[..];
            while let Some((message, after)) = split(rest) {
                rest = after;
                match NetlinkMessage::deserialize(message).map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(entry)) => list.extend(take(entry)),
                    Ok(NetlinkPayload::Done(done)) if done.code == 0 => return Ok(list),
                    Ok(NetlinkPayload::Done(done)) => return Err(fail(io::Error::from_raw_os_error(-done.code))),
                    Ok(NetlinkPayload::Error(error)) => return Err(fail(error.to_io())),
                    // Entries that this build cannot parse were not made by it.
                    _ => {}
                }
            }
        }
        Err(fail(io::ErrorKind::QuotaExceeded.into()))
    }

    fn send(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(|_| ())
    }

    /// Receives the kernel's next answer: one message, or several.
    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let (bytes, sender) = self.0.recv_from_full()?;
            // Another sender may have been quicker than the connection.
            if sender.port_number() == KERNEL {
                return Ok(bytes);
            }
        }
    }
}

/// Splits off the first message of a part.
fn split(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = NetlinkBuffer::new_checked(part).ok()?.length() as usize;
    let (message, _) = part.split_at_checked(bytes)?;
    // Each begins at a multiple of four; the last one's padding may be missing.
    Some((message, part.get(bytes.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_falls_into_its_messages() {
        let mut part = vec![0; 17 + 3 + 16];
        part[0] = 17;
        part[20] = 16;
        let (first, rest) = split(&part).unwrap();
        assert_eq!((first.len(), rest.len()), (17, 16));
        let (second, rest) = split(rest).unwrap();
        assert_eq!((second.len(), rest.len()), (16, 0));
        assert_eq!(split(rest), None);
    }

    #[test]
    fn a_wrong_length_ends_a_part() {
        for bytes in [0, 15, 33, u8::MAX] {
            let mut part = [0; 32];
            part[0] = bytes;
            assert_eq!(split(&part), None, "{bytes}");
        }
        assert_eq!(split(&[17, 0, 0]), None);
        let mut unpadded = [0; 17];
        unpadded[0] = 17;
        assert_eq!(
            split(&unpadded),
            Some((&[17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[][..]))
        );
    }
}
