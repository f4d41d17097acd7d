//! Network device: its queues, and how much is done in one turn.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use capsid_jail::Rule;
use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::header::{self, HEADER_BYTES};
use super::links::{Links, Port, Source};
use super::packet_filter::{NetCounters, PacketFilter, Verdict};
use super::rate::{Direction, RateLimiter};
use super::receive_ring::{Delivery, ReceiveRing, RxFormat};
use super::segment::Slot;
use super::{ETHERNET_BYTES, FRAME_BYTES_MAX, Mac};
use crate::limits::NET_FRAMES_PER_TURN;
use crate::message::{self, Received};
use crate::segments::{Change, DONE, MESSAGE_BYTES_MAX, REFUSED};
use crate::virtio::chain::{self, Buffers};
use crate::virtio::device::{Cause, Device, QueueFault, Signals};
use crate::virtio::drain::{Next, drain};
use crate::virtio::filters;

/// Queue sizes of receive and transmit: one pair.
const QUEUE_SIZES: &[u16] = &[256, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Size of `struct virtio_net_config` in bytes, up to the MTU: hardware address, status, queue pairs, MTU.
const CONFIG_BYTES: usize = 12;

/// Event of [`NetDevice::come_again`], numbered after those of the links.
const AGAIN_EVENT: u64 = Links::EVENTS;
const TIMER_EVENT: u64 = AGAIN_EVENT + 1;
const CONTROL_EVENT: u64 = TIMER_EVENT + 1;

/// Reason why there is no network device.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The hardware address has the group bit, which names many machines.
    #[error("{mac:02x?} cannot be a machine's hardware address")]
    Mac {
        /// Configured hardware address.
        mac: Mac,
    },
    /// Epoll, eventfd or timerfd could not be made.
    #[error("cannot wait for the network")]
    Wait(#[source] io::Error),
}

/// Network device of a guest.
#[derive(Debug)]
pub struct NetDevice {
    config: [u8; CONFIG_BYTES],
    /// Epoll instance that waits for the network, and for [`Self::come_again`].
    epoll: Epoll,
    again: OwnedFd,
    /// Socket on which the supervisor sends what this device is connected to: see [`crate::segments`].
    control: OwnedFd,
    links: Links,
    limiter: RateLimiter,
    filter: PacketFilter,
    /// Frame being examined, in host memory that the guest cannot change.
    frame: Vec<u8>,
    rx_format: RxFormat,
}

impl NetDevice {
    /// Makes the device of a guest with this hardware address. It is connected to nothing until `control` says so. Its
    /// guest asks `resolver` for names; `bytes_per_second` limits each direction, including answers.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn new(
        mac: Mac,
        resolver: IpAddr,
        control: OwnedFd,
        bytes_per_second: Option<NonZeroU64>,
    ) -> Result<Self, NetError> {
        if mac[0] & 1 != 0 {
            return Err(NetError::Mac { mac });
        }
        let mut config = [0; CONFIG_BYTES];
        config[..6].copy_from_slice(&mac);
        let wait = || {
            let again = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            let epoll = Epoll::new()?;
            for (fd, event) in [(&again, AGAIN_EVENT), (&control, CONTROL_EVENT)] {
                epoll.ctl(
                    ControlOperation::Add,
                    fd.as_raw_fd(),
                    EpollEvent::new(EventSet::IN, event),
                )?;
            }
            let limiter = RateLimiter::new(bytes_per_second, &epoll, TIMER_EVENT)?;
            Ok((again, epoll, limiter))
        };
        let (again, epoll, limiter) = wait().map_err(NetError::Wait)?;
        Ok(Self {
            config,
            epoll,
            again,
            control,
            links: Links::default(),
            limiter,
            filter: PacketFilter::new(mac, resolver),
            frame: Vec::with_capacity(FRAME_BYTES_MAX),
            rx_format: RxFormat::default(),
        })
    }

    /// Counts of the frames that were dropped or refused so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.filter.counters
    }

    /// Processes the frames that the guest has sent; returns whether chains were used.
    fn drain_transmit(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut frames = 0;
        drain(memory, queue, |queue| {
            if frames == NET_FRAMES_PER_TURN || !self.may_transmit() {
                self.links.flush();
                if !self.may_transmit() {
                    // The device is processed again when the network has room, or by the timer.
                    return Ok(Next::Enough);
                }
            }
            if frames == NET_FRAMES_PER_TURN {
                self.come_again();
                return Ok(Next::Enough);
            }
            let Some((head, chain)) = chain::pop(queue, memory)? else {
                self.links.flush();
                return Ok(if self.may_transmit() { Next::Empty } else { Next::Enough });
            };
            match chain {
                Ok(chain) => self.transmit(chain.readable),
                Err(_) => self.filter.counters.malformed += 1,
            }
            queue.add_used(memory, head, 0)?;
            frames += 1;
            Ok(Next::Used)
        })
    }

    /// Whether the guest's next frame can be processed now.
    fn may_transmit(&self) -> bool {
        !self.links.is_full() && !self.limiter.holds(Direction::Transmit)
    }

    /// Forwards a frame, if the packet filter permits it.
    fn transmit(&mut self, mut readable: Buffers<'_>) {
        let header = readable.take_array::<HEADER_BYTES>();
        let bytes = readable.len();
        let (Some(header), true) = (header, (ETHERNET_BYTES..=FRAME_BYTES_MAX).contains(&bytes)) else {
            self.filter.counters.malformed += 1;
            return;
        };
        self.limiter.take(Direction::Transmit, bytes);
        self.frame.resize(bytes, 0);
        // Copied once: what is examined is what is forwarded, whatever the guest writes at the same time.
        readable.copy_to(&mut self.frame);
        if header::finish(header, &mut self.frame).is_err() {
            self.filter.counters.malformed += 1;
            return;
        }
        match self.filter.examine(&mut self.frame, Instant::now()) {
            Verdict::Pass(port) => self.links.append(port, &self.frame),
            Verdict::Answer(answer) => self.links.answer(answer),
            Verdict::Drop => {}
        }
    }

    /// Forwards a question that a segment has returned, if the packet filter permits it.
    fn pass_on_returned(&mut self, slot: Slot) {
        match self.filter.examine_returned(&mut self.frame, slot) {
            // The guest asks the resolver again when it does not answer; the segment's other frames must not wait.
            Verdict::Pass(port) if !self.links.send(port, &self.frame) => self.filter.counters.dropped += 1,
            Verdict::Answer(answer) => self.links.answer(answer),
            Verdict::Pass(_) | Verdict::Drop => {}
        }
    }

    /// Delivers waiting frames to the guest, as far as it has room; returns whether it is to be interrupted.
    fn fill_receive(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut ring = ReceiveRing::new(queue, memory, self.rx_format);
        ring.expect_nothing()?;
        let mut frames = 0;
        while frames < NET_FRAMES_PER_TURN {
            if self.limiter.holds(Direction::Receive) {
                // The timer causes the device to be processed again.
                return ring.needs_interrupt();
            }
            let Some((source, frame)) = self.links.next() else {
                return ring.needs_interrupt();
            };
            if let Source::Link(Port::Segment(slot)) = source
                && self.filter.is_own(frame)
            {
                self.frame.clear();
                self.frame.extend_from_slice(frame);
                self.links.skip(source);
                self.pass_on_returned(slot);
                frames += 1;
                continue;
            }
            match ring.deliver(frame)? {
                Delivery::NoRoom { chains } if ring.wait_for_more(chains)? => ring.expect_nothing()?,
                Delivery::NoRoom { .. } => return ring.needs_interrupt(),
                delivery => {
                    frames += 1;
                    self.limiter.take(Direction::Receive, frame.len());
                    if delivery == Delivery::Impossible {
                        self.filter.counters.dropped += 1;
                    }
                    // What a segment sends must not open a way for answers through the uplink.
                    if source == Source::Link(Port::Uplink) {
                        self.filter.note(frame, Instant::now());
                    }
                    self.links.skip(source);
                }
            }
        }
        self.come_again();
        ring.needs_interrupt()
    }

    /// Applies the changes that the supervisor has sent.
    fn handle_control(&mut self) {
        loop {
            let done = match message::receive(&self.control, MESSAGE_BYTES_MAX, 1) {
                Received::Nothing => return,
                Received::End => {
                    // Epoll would report the end again and again. This process is about to end as well.
                    let event = EpollEvent::default();
                    let _ = self
                        .epoll
                        .ctl(ControlOperation::Delete, self.control.as_raw_fd(), event);
                    return;
                }
                Received::Excess => false,
                Received::Message(bytes, fds) => {
                    let change = Change::decode(&bytes);
                    change.is_some_and(|change| self.apply(change, fds.into_iter().next()))
                }
            };
            message::answer(&self.control, &[if done { DONE } else { REFUSED }]);
        }
    }

    fn apply(&mut self, change: Change, socket: Option<OwnedFd>) -> bool {
        match (change, socket) {
            (Change::Connect { slot, segment }, Some(socket)) if !self.links.has(Port::Segment(slot)) => {
                let connected = self.links.connect(Port::Segment(slot), socket, &self.epoll);
                if connected.is_ok() {
                    self.filter.connect(slot, segment);
                }
                connected.is_ok()
            }
            (Change::Disconnect { slot }, None) => {
                self.links.disconnect(Port::Segment(slot));
                self.filter.disconnect(slot)
            }
            (Change::Open(uplink), Some(socket)) if !self.links.has(Port::Uplink) => {
                let connected = self.links.connect(Port::Uplink, socket, &self.epoll);
                if connected.is_ok() {
                    self.filter.open(uplink);
                    self.announce();
                }
                connected.is_ok()
            }
            (Change::Close, None) => {
                self.links.disconnect(Port::Uplink);
                self.filter.close();
                true
            }
            (Change::Host { addresses }, None) => {
                self.filter.set_host(addresses);
                true
            }
            (
                Change::Connect { .. }
                | Change::Disconnect { .. }
                | Change::Open(_)
                | Change::Close
                | Change::Host { .. },
                _,
            ) => false,
        }
    }

    /// Announces the guest on the uplink. A switch knows its members already.
    fn announce(&mut self) {
        for frame in self.filter.announcement() {
            self.links.send(Port::Uplink, &frame);
        }
    }

    /// Requests that [`Device::process`] is called again although no event happens.
    fn come_again(&self) {
        // Fails only if it is raised already.
        let _ = rustix::io::write(&self.again, &1_u64.to_ne_bytes());
    }

    fn clear_again(&self) {
        let _ = rustix::io::read(&self.again, &mut [0; 8]);
    }
}

impl Device for NetDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_MRG_RXBUF,
        ]
        .into_iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn syscalls(&self) -> Vec<Rule> {
        filters::net_rules()
    }

    fn activate(&mut self, features: u64) {
        self.rx_format = RxFormat {
            merges: features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0,
            trusts: features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0,
        };
    }

    fn reset(&mut self) {
        self.filter.reset();
        self.links.forget_answers();
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(crate::virtio::sys::epoll_fd(&self.epoll))
    }

    fn process(
        &mut self,
        cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        let mut signals = Signals::default();
        if cause == Cause::Backend {
            self.clear_again();
            self.limiter.clear_timer();
            self.handle_control();
            self.links.receive();
        }
        self.limiter.begin_turn();
        let mut was_full = false;
        // The receive queue is processed last: what the guest has sent may cause answers.
        for index in [TRANSMIT, RECEIVE] {
            let fault = |source| QueueFault { index, source };
            let Some(queue) = queues.get_mut(index).filter(|queue| queue.ready()) else {
                continue;
            };
            let is_needed = match index {
                TRANSMIT => {
                    let is_used = self.drain_transmit(memory, queue).map_err(fault)?;
                    was_full = self.links.is_full();
                    is_used && queue.needs_notification(memory).map_err(fault)?
                }
                _ => self.fill_receive(memory, queue).map_err(fault)?,
            };
            if is_needed {
                signals.mark(index);
            }
        }
        self.links.watch(&self.epoll);
        self.limiter.end_turn();
        // A link without room is waited for, unless it was lost meanwhile: then there are no further events of it.
        if was_full && !self.links.is_full() {
            self.come_again();
        }
        Ok(signals)
    }
}
