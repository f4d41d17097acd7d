//! The device: its queues, and how much is done in one turn.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

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

use super::guard::{Guard, NetCounters, Verdict};
use super::header::{self, HEADER_BYTES};
use super::receive_ring::{Delivery, Manner, ReceiveRing};
use super::stream::Stream;
use super::{ETHERNET_BYTES, FRAME_BYTES_MAX, Mac};
use crate::egress::Egress;
use crate::limits::{NET_ANSWERS_MAX, NET_FRAMES_PER_TURN};
use crate::virtio::chain::{self, Buffers};
use crate::virtio::device::{Cause, Device, QueueFault, Signals};

/// Receive and transmit: one pair.
const QUEUE_SIZES: &[u16] = &[256, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Bytes of `struct virtio_net_config` up to the MTU: hardware address, status, queue pairs, MTU.
const CONFIG_BYTES: usize = 12;

const STREAM_EVENT: u64 = 0;
const AGAIN_EVENT: u64 = 1;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The group bit of a hardware address names many machines.
    #[error("{mac:02x?} cannot be a machine's hardware address")]
    Mac {
        /// The configured one.
        mac: Mac,
    },
    /// Epoll or eventfd.
    #[error("cannot wait for the network")]
    Wait(#[source] io::Error),
}

/// The device.
#[derive(Debug)]
pub struct NetDevice {
    config: [u8; CONFIG_BYTES],
    /// Waits for the network, and for [`Self::come_again`].
    epoll: Epoll,
    again: OwnedFd,
    stream: Stream,
    guard: Guard,
    /// Answers in the network's place.
    answers: VecDeque<Vec<u8>>,
    manner: Manner,
}

impl NetDevice {
    /// A device of a guest with this hardware address and these network addresses. `socket` leads to what carries its
    /// frames: a stream on which each follows its length.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn new(mac: Mac, addresses: Vec<IpAddr>, egress: Egress, socket: OwnedFd) -> Result<Self, NetError> {
        if mac[0] & 1 != 0 {
            return Err(NetError::Mac { mac });
        }
        let mut config = [0; CONFIG_BYTES];
        config[..6].copy_from_slice(&mac);
        let wait = || {
            let again = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            let epoll = Epoll::new()?;
            let event = EpollEvent::new(EventSet::IN, AGAIN_EVENT);
            epoll.ctl(ControlOperation::Add, again.as_raw_fd(), event)?;
            let stream = Stream::new(socket, &epoll, STREAM_EVENT)?;
            Ok((again, epoll, stream))
        };
        let (again, epoll, stream) = wait().map_err(NetError::Wait)?;
        Ok(Self {
            config,
            epoll,
            again,
            stream,
            guard: Guard::new(mac, addresses, egress),
            answers: VecDeque::new(),
            manner: Manner::default(),
        })
    }

    /// What ended here so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.guard.counters
    }

    /// Takes in what the guest has sent; whether chains were used.
    fn drain_transmit(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut frames = 0;
        loop {
            queue.disable_notification(memory)?;
            while !self.stream.is_full() && frames < NET_FRAMES_PER_TURN {
                let Some((head, chain)) = chain::pop(queue, memory)? else {
                    break;
                };
                match chain {
                    Ok(chain) => self.transmit(chain.readable),
                    Err(_) => self.guard.counters.malformed += 1,
                }
                queue.add_used(memory, head, 0)?;
                frames += 1;
            }
            self.stream.flush();
            if self.stream.is_full() {
                // The network's next room brings us here again.
                return Ok(frames > 0);
            }
            if frames == NET_FRAMES_PER_TURN {
                self.come_again();
                return Ok(true);
            }
            if !queue.enable_notification(memory)? {
                return Ok(frames > 0);
            }
        }
    }

    /// Passes a frame on, if it may.
    fn transmit(&mut self, mut readable: Buffers<'_>) {
        let (stream, guard, answers) = (&mut self.stream, &mut self.guard, &mut self.answers);
        let header = readable.take_array::<HEADER_BYTES>();
        let bytes = readable.len();
        let (Some(header), true) = (header, (ETHERNET_BYTES..=FRAME_BYTES_MAX).contains(&bytes)) else {
            guard.counters.malformed += 1;
            return;
        };
        stream.append(|outbox, start| {
            outbox.resize(start + bytes, 0);
            let frame = &mut outbox[start..];
            // Once: what is looked at is what is passed on, whatever the guest writes meanwhile.
            readable.copy_to(frame);
            if header::finish(header, frame).is_err() {
                guard.counters.malformed += 1;
                return false;
            }
            match guard.examine(frame, Instant::now()) {
                Verdict::Pass => true,
                Verdict::Answer(answer) if answers.len() < NET_ANSWERS_MAX => {
                    answers.push_back(answer);
                    false
                }
                Verdict::Answer(_) | Verdict::Drop => false,
            }
        });
    }

    /// Gives the guest what is there for it, as far as it has room; whether it is to be interrupted.
    fn fill_receive(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut ring = ReceiveRing::new(queue, memory, self.manner);
        ring.expect_nothing()?;
        let mut frames = 0;
        while frames < NET_FRAMES_PER_TURN {
            let (frame, is_answer) = match self.answers.front() {
                Some(answer) => (answer.as_slice(), true),
                None => match self.stream.next() {
                    Some(frame) => (frame, false),
                    None => return ring.needs_interrupt(),
                },
            };
            match ring.deliver(frame)? {
                Delivery::NoRoom { chains } if ring.wait_for_more(chains)? => ring.expect_nothing()?,
                Delivery::NoRoom { .. } => return ring.needs_interrupt(),
                delivery => {
                    frames += 1;
                    if delivery == Delivery::Impossible {
                        self.guard.counters.dropped += 1;
                    }
                    if is_answer {
                        self.answers.pop_front();
                    } else {
                        self.guard.note(frame, Instant::now());
                        self.stream.skip();
                    }
                }
            }
        }
        self.come_again();
        ring.needs_interrupt()
    }

    /// Has [`Device::process`] called again although nothing happens.
    fn come_again(&self) {
        // Fails only when it is raised already.
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

    fn activate(&mut self, features: u64) {
        self.manner = Manner {
            merges: features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0,
            trusts: features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0,
        };
        // Until a frame tells who is here, what comes is sent to everybody, and such a packet is none for Linux' TCP.
        let announcement = self.guard.announcement();
        self.stream.append(|outbox, _| {
            outbox.extend(announcement);
            true
        });
        self.stream.flush();
    }

    fn reset(&mut self) {
        self.guard.reset();
        self.answers.clear();
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
            self.stream.receive();
        }
        // The receive queue goes last: what the guest has sent may call for answers.
        for index in [TRANSMIT, RECEIVE] {
            let fault = |source| QueueFault { index, source };
            let Some(queue) = queues.get_mut(index).filter(|queue| queue.ready()) else {
                continue;
            };
            let is_needed = match index {
                TRANSMIT => {
                    self.drain_transmit(memory, queue).map_err(fault)?
                        && queue.needs_notification(memory).map_err(fault)?
                }
                _ => self.fill_receive(memory, queue).map_err(fault)?,
            };
            if is_needed {
                signals.mark(index);
            }
        }
        self.stream.watch(&self.epoll, STREAM_EVENT);
        Ok(signals)
    }
}
