//! The machine's network device, and its way to a container. The device begins in the agent's network namespace, is
//! moved to that of the container or its pod, and set up there: the agent itself has no network. Its addresses change
//! while it is there.

mod interface;
mod netlink;
mod setting;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use capsid_protocol::spec::Network;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::limits::ENTRIES_MAX;
use crate::threads;
use interface::Interface;
use netlink::Netlink;
use setting::{missing, speaks_v6, unwanted, wanted};

/// Name that the kernel gives its first network device.
const NAME: &str = "eth0";
/// File with the least, usual and largest receive buffer of a TCP connection: see [`RECEIVE_BUFFERS`].
const TCP_RMEM: &str = "/proc/sys/net/ipv4/tcp_rmem";
/// Sizes of TCP receive buffers. The other end of the device is on the same machine and terminates connections itself,
/// so that a window of 256 KiB is wide for any distance; one of megabytes is more than the socket between holds, and
/// the excess is sent again after seconds.
const RECEIVE_BUFFERS: &str = "4096 131072 524288";
/// File that disables IPv6 on the device.
const DISABLE_V6: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
/// File that sets whether the kernel asks the link for a second whether an address is already taken (`accept_dad` of
/// Documentation/networking/ip-sysctl.rst). The switch and the device rule that out; packets that arrive in that second
/// would be lost, and passt begins a connection with one packet alone.
const ACCEPT_DAD: &str = "/proc/sys/net/ipv6/conf/eth0/accept_dad";

/// Error of setting up the network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Netlink failed.
    #[error("cannot speak to the kernel of networks")]
    Netlink(#[source] io::Error),
    /// The namespace to move the device to cannot be opened.
    #[error("cannot open the network namespace")]
    Namespace(#[source] io::Error),
    /// The namespace to work in cannot be entered.
    #[error("cannot enter the network namespace")]
    Enter(#[source] Errno),
    /// The thread that works in the namespace cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The thread that works in the namespace has panicked.
    #[error("the thread that changes the network device has ended")]
    Ended,
    /// One step failed.
    #[error("cannot {step}")]
    Step {
        step: String,
        #[source]
        source: io::Error,
    },
    /// An address has neither 4 nor 16 bytes, or is of another kind than its gateway.
    #[error("the spec has an address that is none")]
    Address,
    /// The host's spec has too many addresses or resolvers; the host is trusted, but its lists are bounded too.
    #[error("the spec has more than {ENTRIES_MAX} addresses or resolvers")]
    TooMany,
}

impl NetworkError {
    fn step(step: &str, source: io::Error) -> Self {
        Self::Step {
            step: step.to_owned(),
            source,
        }
    }
}

/// Network device in its first namespace, and the socket that can move it.
pub(crate) struct Device(Netlink);

impl Device {
    /// Opens the device in the namespace of the calling thread, which may leave the namespace then.
    pub(crate) fn here() -> Result<Self, NetworkError> {
        Ok(Self(Netlink::open()?))
    }

    /// Moves the device to the current namespace of the calling thread, and sets it up.
    pub(crate) fn bring(self, network: &Network) -> Result<(), NetworkError> {
        let namespace = File::open("/proc/thread-self/ns/net").map_err(NetworkError::Namespace)?;
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(NAME.into()));
        link.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.0
            .ask("move the network device", RouteNetlinkMessage::SetLink(link), 0)?;
        set_up(network)
    }
}

/// Replaces the settings of the device in a network namespace with those of `network`. `place` is the namespace, or a
/// process that is in it. The MTU stays.
pub(crate) fn configure_network(place: OwnedFd, network: Network) -> Result<(), NetworkError> {
    // In a thread of its own, which does not return to its namespace.
    let work = move || {
        move_into_thread_name_spaces(place.as_fd(), ThreadNameSpaceType::NETWORK).map_err(NetworkError::Enter)?;
        change(&network)
    };
    let thread = threads::spawn("network", work).map_err(NetworkError::Thread)?;
    thread.join().map_err(|_| NetworkError::Ended)?
}

fn set_up(network: &Network) -> Result<(), NetworkError> {
    let wanted = wanted(network)?;
    let interface = Interface::find()?;
    switch_v6(speaks_v6(&wanted))?;
    std::fs::write(TCP_RMEM, RECEIVE_BUFFERS)
        .map_err(|source| NetworkError::step("set the size of receive buffers", source))?;
    interface.start(network.mtu)?;
    wanted.into_iter().try_for_each(|setting| interface.add(setting))
}

/// Removes unwanted settings first, then adds the missing ones. A repeated call changes nothing, or continues after an
/// error.
fn change(network: &Network) -> Result<(), NetworkError> {
    let wanted = wanted(network)?;
    let interface = Interface::find()?;
    switch_v6(speaks_v6(&wanted))?;
    for setting in unwanted(&interface.settings()?, &wanted) {
        interface.remove(setting)?;
    }
    // Read again: removing the last address of a kind removes its routes, and one address may remove others of its
    // subnet.
    for setting in missing(&interface.settings()?, &wanted) {
        interface.add(setting)?;
    }
    Ok(())
}

/// Turns the kernel's IPv6 on or off for the device in this thread's namespace: without an address nobody would answer.
/// Turning it off removes all IPv6 settings of the device.
fn switch_v6(is_on: bool) -> Result<(), NetworkError> {
    let (step, is_disabled) = if is_on {
        ("switch IPv6 on", "0")
    } else {
        ("switch IPv6 off", "1")
    };
    if is_on {
        std::fs::write(ACCEPT_DAD, "0").map_err(|source| NetworkError::step(step, source))?;
    }
    match std::fs::write(DISABLE_V6, is_disabled) {
        // A kernel without IPv6 has no such file.
        Err(e) if !is_on && e.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(|source| NetworkError::step(step, source)),
    }
}
