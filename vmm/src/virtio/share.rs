//! File system device (virtio 1.3, section 5.11) without the file system: a file server in another process works off
//! the rings, in guest memory that it shares with us. This module has the registers, the tag, and a relay of
//! notifications.
//!
//! The relay costs a wake-up in each direction. In return a ring can be started by the first notification, and this
//! device is like any other to its transport.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use capsid_jail::Rule;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Cause, Device, QueueFault, Signals};
use super::filters;

/// Number of queues: one for forgotten files, one for requests.
const QUEUES: usize = 2;
/// Size of each queue: one request of a megabyte takes 256 pages, and chains are not indirect here.
const QUEUE_SIZES: &[u16] = &[1024; QUEUES];
/// Length of `tag` in `struct virtio_fs_config`, in bytes.
pub const TAG_BYTES: usize = 36;
/// Size of `struct virtio_fs_config` in bytes: the tag and a number.
const CONFIG_BYTES: usize = TAG_BYTES + 4;
/// Time limit for a file server's answer: its thread for vhost-user requests does nothing else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reason why the file system device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The tag does not fit.
    #[error("a tag of {bytes} bytes: 1 to {TAG_BYTES} fit")]
    Tag {
        /// Length of the tag in bytes.
        bytes: usize,
    },
    /// The eventfds, epoll, or the socket's timeout could not be set up.
    #[error("cannot prepare to hear of the file server")]
    Prepare(#[source] std::io::Error),
    /// The guest memory belongs to this process alone.
    #[error("guest memory is not shared")]
    Memory(#[source] vhost::Error),
    /// The file server does not speak the protocol, or is gone.
    #[error("cannot agree with the file server: {step}")]
    Agree {
        /// Name of the step that failed.
        step: &'static str,
        /// Cause.
        #[source]
        source: vhost::Error,
    },
}

/// Ring and the eventfds by which its two ends notify each other.
#[derive(Debug)]
struct Ring {
    /// Eventfd that is written when the guest has notified the queue.
    kick: EventFd,
    /// Eventfd that is written when the guest is to be interrupted.
    call: EventFd,
    /// Whether the file server works off the ring.
    is_started: bool,
}

/// File system device of a guest.
pub struct ShareDevice {
    server: Frontend,
    offered: u64,
    config: [u8; CONFIG_BYTES],
    rings: [Ring; QUEUES],
    /// Epoll instance that is readable when one of the rings' `call`s is.
    calls: Epoll,
    /// Features that the driver has chosen.
    acknowledged: u64,
    /// Whether the file server does not answer: the supervisor knows why it is gone, and ends the machine.
    is_lost: bool,
}

impl ShareDevice {
    /// Makes a device whose files are served at the other end of `socket`.
    ///
    /// # Errors
    /// [`ShareError`] names the step.
    pub fn connect(tag: &str, socket: UnixStream, memory: &GuestMemoryMmap) -> Result<Self, ShareError> {
        if !(1..=TAG_BYTES).contains(&tag.len()) {
            return Err(ShareError::Tag { bytes: tag.len() });
        }
        let mut config = [0; CONFIG_BYTES];
        config[..tag.len()].copy_from_slice(tag.as_bytes());
        config[TAG_BYTES..].copy_from_slice(&1_u32.to_le_bytes());
        socket.set_read_timeout(Some(PATIENCE)).map_err(ShareError::Prepare)?;
        let calls = Epoll::new().map_err(ShareError::Prepare)?;
        let rings = [ring(&calls, 0)?, ring(&calls, 1)?];
        let mut server = Frontend::from_stream(socket, QUEUES as u64);
        let offered = agree(&mut server, memory)?;
        Ok(Self {
            server,
            offered,
            config,
            rings,
            calls,
            acknowledged: 0,
            is_lost: false,
        })
    }

    /// Makes the file server work off a ring from its beginning.
    fn start(&mut self, index: usize, queue: &Queue) -> Result<(), vhost::Error> {
        let (server, ring) = (&mut self.server, &mut self.rings[index]);
        // A ring's addresses are guest addresses, as in the memory table.
        let addresses = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        server.set_features(self.acknowledged | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())?;
        server.set_vring_num(index, queue.size())?;
        server.set_vring_base(index, 0)?;
        server.set_vring_addr(index, &addresses)?;
        server.set_vring_call(index, &ring.call)?;
        server.set_vring_kick(index, &ring.kick)?;
        server.set_vring_enable(index, true)?;
        ring.is_started = true;
        Ok(())
    }

    fn notify(&mut self, index: usize, queue: &Queue) {
        if self.is_lost {
            return;
        }
        if !self.rings[index].is_started && self.start(index, queue).is_err() {
            self.is_lost = true;
            return;
        }
        // A full counter means that a notification is pending already.
        let _ = self.rings[index].kick.write(1);
    }

    fn take_calls(&self) -> Signals {
        let mut signals = Signals::default();
        for (index, ring) in self.rings.iter().enumerate() {
            if ring.call.read().is_ok() {
                signals.mark(index);
            }
        }
        signals
    }
}

fn ring(calls: &Epoll, index: u64) -> Result<Ring, ShareError> {
    let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(ShareError::Prepare);
    let (kick, call) = (event()?, event()?);
    calls
        .ctl(
            ControlOperation::Add,
            call.as_raw_fd(),
            EpollEvent::new(EventSet::IN, index),
        )
        .map_err(ShareError::Prepare)?;
    Ok(Ring {
        kick,
        call,
        is_started: false,
    })
}

/// Sends the layout of guest memory to the file server; returns the features that it offers.
fn agree(server: &mut Frontend, memory: &GuestMemoryMmap) -> Result<u64, ShareError> {
    let fail = |step| move |source| ShareError::Agree { step, source };
    server.set_owner().map_err(fail("whose it is"))?;
    let features = server.get_features().map_err(fail("features"))?;
    let protocol = server.get_protocol_features().map_err(fail("protocol features"))?;
    let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    server
        .set_protocol_features(protocol & wanted)
        .map_err(fail("protocol features"))?;
    // Each step is answered before the next one: no notification comes before its ring.
    server.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let regions: Result<Vec<_>, _> = memory.iter().map(region).collect();
    let regions = regions.map_err(ShareError::Memory)?;
    server.set_mem_table(&regions).map_err(fail("guest memory"))?;
    // Bounce buffers are for emulated machines: here, the server sees guest memory like the processor itself.
    let not_for_guests = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | 1 << VIRTIO_F_ACCESS_PLATFORM;
    Ok(features & !not_for_guests)
}

/// Region of guest memory, at its guest address: the file server need not know our address.
fn region(region: &vm_memory::GuestRegionMmap) -> Result<VhostUserMemoryRegionInfo, vhost::Error> {
    let mut info = VhostUserMemoryRegionInfo::from_guest_region(region)?;
    info.userspace_addr = region.start_addr().raw_value();
    Ok(info)
}

impl Device for ShareDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn syscalls(&self) -> Vec<Rule> {
        filters::share_rules()
    }

    fn activate(&mut self, features: u64) {
        self.acknowledged = features;
    }

    fn reset(&mut self) {
        for index in 0..QUEUES {
            let was_started = std::mem::take(&mut self.rings[index].is_started);
            if was_started && !self.is_lost {
                self.is_lost = self.server.get_vring_base(index).is_err();
            }
        }
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(super::sys::epoll_fd(&self.calls))
    }

    fn process(
        &mut self,
        cause: Cause,
        _memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        match cause {
            Cause::Backend => return Ok(self.take_calls()),
            Cause::Queue(index) if index < QUEUES => {
                if let Some(queue) = queues.get(index) {
                    self.notify(index, queue);
                }
            }
            Cause::Queue(_) => {}
        }
        Ok(Signals::default())
    }
}
