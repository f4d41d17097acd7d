//! What the kernel is asked of networks, and what it answers.
//!
//! A container that is allowed to shares the namespace of such a socket, and could speak to it: the kernel alone is
//! listened to.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::fd::{AsFd, BorrowedFd};

use super::NetworkError;

/// The kernel's address.
const KERNEL: u32 = 0;

/// A socket to the kernel, in the namespace that it was opened in.
pub(super) struct Netlink(Socket);

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Netlink {
    pub(super) fn open() -> Result<Self, NetworkError> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(NetworkError::Netlink)?;
        // What others send is refused from here on.
        socket
            .connect(&SocketAddr::new(KERNEL, 0))
            .map_err(NetworkError::Netlink)?;
        Ok(Self(socket))
    }

    /// Asks for one thing, and waits until it is done.
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

    fn send(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(|_| ())
    }

    /// The kernel's next word: one message, or several.
    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let (bytes, sender) = self.0.recv_from_full()?;
            // Another may have been quicker than the connection.
            if sender.port_number() == KERNEL {
                return Ok(bytes);
            }
        }
    }
}
