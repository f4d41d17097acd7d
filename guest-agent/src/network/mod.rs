//! The machine's network device, and how a container gets it. It begins in the agent's network namespace, is moved to
//! the container's, or its pod's, and set up there: the agent itself has no network. Its addresses change while it is
//! there.

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

/// The kernel's name for its first network device.
const NAME: &str = "eth0";
/// The least, usual and largest buffer of what a TCP connection received: see [`RECEIVE_BUFFERS`].
const TCP_RMEM: &str = "/proc/sys/net/ipv4/tcp_rmem";
/// The other end of the device is on the same machine and ends connections itself, so that a window of 256 KiB is wide
/// for any distance; one of megabytes is more than the socket between holds, and what that does not hold is sent again
/// after seconds.
const RECEIVE_BUFFERS: &str = "4096 131072 524288";
/// Where the kernel is told not to speak IPv6.
const DISABLE_V6: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
/// Whether the kernel asks its link for a second whether an address is somebody else's before it has it (`accept_dad`
/// of Documentation/networking/ip-sysctl.rst). The switch and the device see to that; what comes meanwhile would be
/// lost, and passt begins a connection with one packet alone.
const ACCEPT_DAD: &str = "/proc/sys/net/ipv6/conf/eth0/accept_dad";

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Netlink.
    #[error("cannot speak to the kernel of networks")]
    Netlink(#[source] io::Error),
    /// The namespace to move to.
    #[error("cannot open the network namespace")]
    Namespace(#[source] io::Error),
    /// The namespace to work in.
    #[error("cannot enter the network namespace")]
    Enter(#[source] Errno),
    /// The thread that works there.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// That thread has panicked.
    #[error("the thread that changes the network device has ended")]
    Ended,
    /// One step.
    #[error("cannot {step}")]
    Step {
        step: String,
        #[source]
        source: io::Error,
    },
    /// Neither 4 nor 16 bytes, or of two kinds.
    #[error("the spec has an address that is none")]
    Address,
    /// The host is trusted, but what it says is bounded too.
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

/// The device where it begins, and who may move it.
pub(crate) struct Device(Netlink);

impl Device {
    /// In the namespace of the calling thread, which may leave it then.
    pub(crate) fn here() -> Result<Self, NetworkError> {
        Ok(Self(Netlink::open()?))
    }

    /// Moves it to the namespace that the calling thread is in now, and sets it up.
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

/// Gives the device in a network namespace what `network` says, in place of what it has. `place` is the namespace, or a
/// process that is in it. The length of packets stays.
pub(crate) fn configure_network(place: OwnedFd, network: Network) -> Result<(), NetworkError> {
    // In a thread of its own, which does not come back.
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

/// What is not wanted any more goes first. The same again changes nothing, and goes on where an error ended it.
fn change(network: &Network) -> Result<(), NetworkError> {
    let wanted = wanted(network)?;
    let interface = Interface::find()?;
    switch_v6(speaks_v6(&wanted))?;
    for setting in unwanted(&interface.settings()?, &wanted) {
        interface.remove(setting)?;
    }
    // Read again: the last address of a kind takes the routes along, and one may take others of its subnet.
    for setting in missing(&interface.settings()?, &wanted) {
        interface.add(setting)?;
    }
    Ok(())
}

/// Has the kernel speak IPv6 on the device in this thread's namespace, or not: without an address nobody would answer.
/// What it has of IPv6 is gone then.
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
