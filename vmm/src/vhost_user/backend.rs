//! Requests of QEMU for one device, and the state that results from them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::vring::Vring;
use crate::virtio::device::{Cause, Device, QueueFault};
use crate::warnings::Warnings;

/// Epoll data of QEMU's requests (0) and of the device's own fd; queue n has `FIRST_QUEUE_EVENT + n`.
pub(super) const REQUEST_EVENT: u64 = 0;
pub(super) const BACKEND_EVENT: u64 = 1;
pub(super) const FIRST_QUEUE_EVENT: u64 = 2;

/// Mapping of a part of guest memory into QEMU's address space, in which QEMU names the queues.
#[derive(Debug)]
struct Mapping {
    frontend_address: u64,
    bytes: u64,
    guest_address: u64,
}

/// Device with the state that QEMU has set up.
pub(super) struct Backend {
    device: Box<dyn Device>,
    vrings: Vec<Vring>,
    memory: GuestMemoryMmap,
    mappings: Vec<Mapping>,
    features: u64,
    epoll: Epoll,
    /// Whether queues run, and the device has been activated.
    active: bool,
    /// Whether a queue has been made unusable: nothing is served until the driver resets the device.
    faulted: bool,
    device_watched: bool,
    warnings: Warnings,
}

impl Backend {
    pub(super) fn new(device: Box<dyn Device>) -> io::Result<Self> {
        let vrings: std::result::Result<Vec<_>, _> = device.queue_sizes().iter().map(|_| Vring::new()).collect();
        Ok(Self {
            device,
            vrings: vrings.map_err(io::Error::other)?,
            memory: GuestMemoryMmap::new(),
            mappings: Vec::new(),
            features: 0,
            epoll: Epoll::new()?,
            active: false,
            faulted: false,
            device_watched: false,
            warnings: Warnings::new(),
        })
    }

    /// Epoll instance for which the loop waits.
    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Processes the device.
    pub(super) fn process(&mut self, cause: Cause) {
        if !self.active || self.faulted {
            return;
        }
        let mut queues: Vec<&mut Queue> = self.vrings.iter_mut().map(|vring| &mut vring.queue).collect();
        match self.device.process(cause, &self.memory, &mut queues) {
            Ok(signals) => {
                for (index, vring) in self.vrings.iter_mut().enumerate() {
                    if signals.0 & 1 << index != 0 {
                        vring.interrupt();
                    }
                }
            }
            Err(fault) => self.stop_on(&fault),
        }
    }

    /// Enables all rings.
    pub(super) fn enable(&mut self) {
        self.vrings.iter_mut().for_each(|vring| vring.enabled = true);
        self.apply_ring_states();
    }

    /// Processes queues that were started since the last call.
    pub(super) fn process_fresh(&mut self) {
        for index in 0..self.vrings.len() {
            if std::mem::take(&mut self.vrings[index].fresh) {
                self.process(Cause::Queue(index));
            }
        }
    }

    fn stop_on(&mut self, fault: &QueueFault) {
        self.faulted = true;
        // Vhost-user has no message for "needs reset": the device just rests until its driver resets it.
        let id = self.device.id();
        self.warnings
            .warn(format_args!("device {id}: {fault}: {}", fault.source));
        self.apply_ring_states();
    }

    /// Reconciles the watched fds and the device's activation with the state of the rings.
    fn apply_ring_states(&mut self) {
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            let runs = vring.started && vring.enabled && !self.faulted;
            vring.queue.set_ready(runs);
            let Some(kick) = vring.kick.as_ref().filter(|_| runs != vring.watched) else {
                continue;
            };
            // Edges: the counter then needs no reading.
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let event = EpollEvent::new(events, FIRST_QUEUE_EVENT + index as u64);
            if self.epoll.ctl(add_or_delete(runs), kick.as_raw_fd(), event).is_ok() {
                vring.watched = runs;
                vring.fresh = runs;
            }
        }
        let running = self.vrings.iter().any(|vring| vring.queue.ready());
        if let Some(fd) = self.device.backend_fd()
            && running != self.device_watched
        {
            let event = EpollEvent::new(EventSet::IN, BACKEND_EVENT);
            if self.epoll.ctl(add_or_delete(running), fd.as_raw_fd(), event).is_ok() {
                self.device_watched = running;
            }
        }
        if running && !self.active {
            self.device.activate(self.features);
            self.active = true;
        }
        if self.active && self.vrings.iter().all(|vring| !vring.started) {
            self.device.reset();
            self.active = false;
            self.faulted = false;
        }
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        self.vrings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    /// Stops waiting for the queue's notifications, before its fd changes.
    fn unwatch(&mut self, index: u32) -> Result<()> {
        let epoll_fd = &self.epoll;
        let vring = self.vrings.get_mut(index as usize).ok_or(Error::InvalidParam)?;
        if let Some(kick) = &vring.kick
            && std::mem::take(&mut vring.watched)
        {
            let event = EpollEvent::new(EventSet::empty(), 0);
            epoll_fd
                .ctl(ControlOperation::Delete, kick.as_raw_fd(), event)
                .map_err(Error::ReqHandlerError)?;
        }
        Ok(())
    }

    fn guest_address(&self, frontend_address: u64) -> Result<GuestAddress> {
        let inside = |mapping: &&Mapping| {
            frontend_address
                .checked_sub(mapping.frontend_address)
                .is_some_and(|offset| offset < mapping.bytes)
        };
        let mapping = self.mappings.iter().find(inside).ok_or(Error::InvalidParam)?;
        let offset = frontend_address - mapping.frontend_address;
        mapping
            .guest_address
            .checked_add(offset)
            .map(GuestAddress)
            .ok_or(Error::InvalidParam)
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        for index in 0..self.vrings.len() {
            self.unwatch(index as u32)?;
            let vring = &mut self.vrings[index];
            vring.queue.reset();
            (vring.started, vring.enabled) = (false, false);
        }
        self.apply_ring_states();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if features & !(self.device.features() | protocol) != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features & !protocol;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for vring in &mut self.vrings {
            vring.queue.set_event_idx(event_idx);
            // Without the protocol's own features all rings are enabled from the start.
            vring.enabled |= features & protocol == 0;
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut mapped = Vec::with_capacity(regions.len());
        let mut mappings = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let guest_address = region.guest_phys_addr;
            let mapping = region.mmap_region(file)?;
            mapped.push(GuestRegionMmap::new(mapping, GuestAddress(guest_address)).ok_or(Error::InvalidParam)?);
            mappings.push(Mapping {
                frontend_address: region.user_addr,
                bytes: region.memory_size,
                guest_address,
            });
        }
        self.memory = GuestMemoryMmap::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, count: u32) -> Result<()> {
        let count = u16::try_from(count).map_err(|_| Error::InvalidParam)?;
        self.vring(index)?
            .queue
            .try_set_size(count)
            .map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let descriptors = self.guest_address(descriptor)?;
        let used = self.guest_address(used)?;
        let available = self.guest_address(available)?;
        let memory = self.memory.clone();
        let queue = &mut self.vring(index)?.queue;
        queue
            .try_set_desc_table_address(descriptors)
            .map_err(|_| Error::InvalidParam)?;
        queue
            .try_set_avail_ring_address(available)
            .map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(used).map_err(|_| Error::InvalidParam)?;
        // QEMU names only the next available entry (SET_VRING_BASE); the next used one is in the ring itself.
        let next_used = queue.used_idx(&memory, std::sync::atomic::Ordering::Relaxed);
        queue.set_next_used(next_used.map_err(|_| Error::InvalidParam)?.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.vring(index)?.queue.set_next_avail(base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.unwatch(index)?;
        let vring = self.vring(index)?;
        vring.started = false;
        vring.kick = None;
        vring.call = None;
        let base = u32::from(vring.queue.next_avail());
        self.apply_ring_states();
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.unwatch(u32::from(index))?;
        let memory = self.memory.clone();
        let vring = self.vring(u32::from(index))?;
        vring.kick = file;
        // The check is for rings that are ready; the state below determines whether this one is.
        vring.queue.set_ready(true);
        vring.started = vring.queue.is_valid(&memory);
        if !vring.started {
            vring.kick = None;
        }
        let started = vring.started;
        self.apply_ring_states();
        if !started {
            return Err(Error::InvalidParam);
        }
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(u32::from(index))?.call = file;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        self.vring(u32::from(index)).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.enabled = enable;
        self.apply_ring_states();
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // Bytes past the end of the configuration are zeros, as in the other transport.
        let from = self.device.config().iter().skip(offset as usize);
        Ok(from.copied().chain(std::iter::repeat(0)).take(size as usize).collect())
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&mut self, _object: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(NOT_OFFERED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(NOT_OFFERED)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(NOT_OFFERED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }
}

fn add_or_delete(watch: bool) -> ControlOperation {
    match watch {
        true => ControlOperation::Add,
        false => ControlOperation::Delete,
    }
}

/// Error for requests of features that were not offered.
const NOT_OFFERED: Error = Error::InvalidOperation("not offered");
