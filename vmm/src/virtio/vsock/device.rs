//! Socket device: its queues, and how much is done in one turn.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use capsid_jail::Rule;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::muxer::{Due, Muxer, VsockCounters};
use super::packet::{HEADER_BYTES, HOST_CID, Operation, RawHeader, StreamKey};
use super::receive_ring::ReceiveRing;
use crate::limits::{VSOCK_PACKET_BYTES_MAX, VSOCK_PACKETS_PER_TURN};
use crate::virtio::chain::{self, Buffers, Chain};
use crate::virtio::device::{Cause, Device, QueueFault, Signals};
use crate::virtio::drain::{Next, drain};
use crate::virtio::filters;

/// Queue sizes of receive, transmit, event.
const QUEUE_SIZES: &[u16] = &[256, 256, 16];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Number of chains filled by one call: 64 KiB in the 4 KiB buffers that Linux offers, whose headers take a little room
/// too.
const CHAINS_PER_PAYLOAD: usize = 17;

/// Reason why there is no socket device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The context id is reserved: 0 to 2 are the hypervisor, loopback and the host; the last is a wildcard.
    #[error("context id {guest_cid} cannot be a guest's")]
    GuestCid {
        /// Configured context id.
        guest_cid: u32,
    },
    /// The session port is the wildcard `VMADDR_PORT_ANY`.
    #[error("port {port} is a wildcard")]
    SessionPort {
        /// Configured port.
        port: u32,
    },
    /// Epoll, clock or eventfd could not be made.
    #[error("cannot wait for the host's sockets")]
    Wait(#[source] io::Error),
}

/// Socket device of a guest.
#[derive(Debug)]
pub struct VsockDevice {
    guest_cid: u64,
    config: [u8; 8],
    muxer: Muxer,
}

impl VsockDevice {
    /// Makes a device whose guest may connect to `session_port` once, to be wired to `session`. The supervisor requests
    /// further streams on `control` (see [`crate::config::VsockConfig`]).
    ///
    /// # Errors
    /// [`VsockError`].
    pub fn new(guest_cid: u32, session_port: u32, session: OwnedFd, control: OwnedFd) -> Result<Self, VsockError> {
        if u64::from(guest_cid) <= HOST_CID || guest_cid == u32::MAX {
            return Err(VsockError::GuestCid { guest_cid });
        }
        if session_port == u32::MAX {
            return Err(VsockError::SessionPort { port: session_port });
        }
        let guest_cid = u64::from(guest_cid);
        Ok(Self {
            guest_cid,
            config: guest_cid.to_le_bytes(),
            muxer: Muxer::new(guest_cid, session_port, session, control).map_err(VsockError::Wait)?,
        })
    }

    /// Counts of errors so far.
    #[must_use]
    pub fn counters(&self) -> VsockCounters {
        self.muxer.counters
    }

    /// Whether bytes of `stream` wait for a slow reader.
    #[cfg(test)]
    pub(super) fn waits_for_room(&self, stream: StreamKey) -> bool {
        self.muxer.waits_for_room(stream)
    }

    /// Processes the packets that the guest has sent; returns whether chains were used.
    fn drain_transmit(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut packets = 0;
        drain(memory, queue, |queue| {
            if packets == VSOCK_PACKETS_PER_TURN {
                self.muxer.come_again();
                return Ok(Next::Enough);
            }
            let Some((head, chain)) = chain::pop(queue, memory)? else {
                return Ok(Next::Empty);
            };
            match chain.ok().and_then(open) {
                Some((header, payload)) => self.muxer.guest_packet(&header, payload),
                None => self.muxer.counters.malformed += 1,
            }
            queue.add_used(memory, head, 0)?;
            packets += 1;
            Ok(Next::Used)
        })
    }

    /// Delivers to the guest what is due, as far as it has room; returns whether chains were used.
    fn fill_receive(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        if !self.muxer.has_due() {
            return Ok(false);
        }
        queue.disable_notification(memory)?;
        let mut ring = ReceiveRing::new(queue, memory, self.guest_cid);
        let result = self.fill(&mut ring);
        ring.put_back();
        self.muxer.counters.malformed += ring.malformed;
        result.map(|()| ring.used)
    }

    fn fill(&mut self, ring: &mut ReceiveRing<'_, '_>) -> Result<(), virtio_queue::Error> {
        for _ in 0..VSOCK_PACKETS_PER_TURN {
            let room = loop {
                if let Some(room) = ring.take()? {
                    break room;
                }
                if !ring.wait_for_more()? {
                    return Ok(());
                }
            };
            match self.muxer.next_due() {
                Some(Due::Packet(header)) => ring.fill(&header)?,
                Some(Due::Payload { stream, bytes_max }) => {
                    self.fill_payload(ring, room, stream, bytes_max)?;
                    self.muxer.schedule(stream);
                }
                None => return Ok(()),
            }
            ring.put_back();
        }
        self.muxer.come_again();
        Ok(())
    }

    fn fill_payload<'m>(
        &mut self,
        ring: &mut ReceiveRing<'_, 'm>,
        mut room: Buffers<'m>,
        stream: StreamKey,
        bytes_max: usize,
    ) -> Result<(), virtio_queue::Error> {
        let mut target = Buffers::default();
        for _ in 0..CHAINS_PER_PAYLOAD {
            let wanted = room.len().min(bytes_max - target.len());
            if let Some(part) = room.split_front(wanted) {
                target.append(part);
            }
            if target.len() == bytes_max {
                break;
            }
            match ring.take()? {
                Some(next) => room = next,
                None => break,
            }
        }
        if target.len() == 0 {
            // A chain for a header only: it is returned to the guest, and the stream waits for a better one.
            return ring.skip();
        }
        let mut received = self.muxer.receive(stream, &target);
        while received > 0 {
            let bytes = received.min(ring.front_payload_bytes());
            let Some(header) = self.muxer.payload_header(stream, bytes as u32) else {
                break;
            };
            ring.fill(&header)?;
            received -= bytes;
        }
        Ok(())
    }
}

/// Splits a chain of the guest into its header and the payload that the header announces.
fn open(chain: Chain<'_>) -> Option<(RawHeader, Buffers<'_>)> {
    let mut readable = chain.readable;
    let header = RawHeader::decode(&readable.take_array::<HEADER_BYTES>()?);
    let bytes = match Operation::from_wire(header.operation) {
        Some(Operation::ReadWrite) => header.payload_bytes as usize,
        _ => 0,
    };
    if bytes > VSOCK_PACKET_BYTES_MAX {
        return None;
    }
    Some((header, readable.split_front(bytes)?))
}

impl Device for VsockDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn syscalls(&self) -> Vec<Rule> {
        filters::vsock_rules()
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.muxer.reset();
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.event_fd())
    }

    fn process(
        &mut self,
        cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        let mut signals = Signals::default();
        if cause == Cause::Backend {
            self.muxer.host_events();
        }
        // The receive queue is processed last: what the guest has sent may cause answers.
        for index in [TRANSMIT, RECEIVE] {
            let fault = |source| QueueFault { index, source };
            let Some(queue) = queues.get_mut(index).filter(|queue| queue.ready()) else {
                continue;
            };
            let used = match index {
                TRANSMIT => self.drain_transmit(memory, queue),
                _ => self.fill_receive(memory, queue),
            };
            if used.map_err(fault)? && queue.needs_notification(memory).map_err(fault)? {
                signals.mark(index);
            }
        }
        Ok(signals)
    }
}
