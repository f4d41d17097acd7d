//! Virtio over MMIO (virtio 1.3, section 4.2): registers, negotiation, queues, interrupts. This module does not know
//! what a device does.
//!
//! vCPU threads read and write registers; the event loop lets the device work. Both take one lock, so a queue is never
//! changed while it is processed. Only the interrupt status is outside the lock: the guest acknowledges an interrupt
//! without waiting for a device that is busy. The device itself is started and reset on the event loop
//! ([`Transport::apply_pending_status`]), because the vCPU threads' filters permit next to nothing.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG,
    VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_SHM_SEL,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Cause, Device};
use super::status::{self, Change};
use crate::metrics::TransportMetrics;
use crate::warnings::Warnings;

/// Magic value: `virt`, little endian.
const MAGIC: u32 = 0x7472_6976;
/// Version of the interface: not the legacy one.
const VERSION: u32 = 2;
/// Vendor id: any value does; Linux only shows it.
const VENDOR: u32 = 0x0043_4150;
/// Base and length of a shared memory region that does not exist.
const NO_REGION: u32 = u32::MAX;

/// Reason why a transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The eventfds of the transport could not be made.
    #[error("cannot make an eventfd")]
    EventFd(#[source] std::io::Error),
    /// A queue size is no power of two.
    #[error("the device has an impossible queue size")]
    QueueSize(#[source] virtio_queue::Error),
}

/// Device and the registers by which it is driven.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Name of the device in log lines.
    name: String,
    metrics: TransportMetrics,
    warnings: Arc<Warnings>,
    interrupt: Interrupt,
    /// Eventfd that requests the event loop to call [`Transport::apply_pending_status`].
    pending_status: Arc<EventFd>,
    registers: Mutex<Registers>,
}

/// Interrupt line and the reasons for which it was raised.
#[derive(Debug)]
struct Interrupt {
    status: AtomicU32,
    line: EventFd,
}

struct Registers {
    device: Box<dyn Device>,
    queues: Vec<Queue>,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    config_generation: u32,
    /// Configuration to which `config_generation` belongs.
    config_seen: Vec<u8>,
    /// Whether the driver's reset has not been applied to the device yet.
    reset_due: bool,
    /// Whether the device has been started since its last reset.
    started: bool,
}

impl std::fmt::Debug for Registers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Registers");
        shown
            .field("device", &self.device.id())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Makes a transport for `device`, which no driver has touched yet.
    pub(crate) fn new(
        name: String,
        device: Box<dyn Device>,
        pending_status: Arc<EventFd>,
        warnings: Arc<Warnings>,
    ) -> Result<Self, TransportError> {
        let queues: Result<Vec<_>, _> = device.queue_sizes().iter().map(|&size| Queue::new(size)).collect();
        let registers = Registers {
            queues: queues.map_err(TransportError::QueueSize)?,
            status: status::RESET,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            config_generation: 0,
            config_seen: device.config().to_vec(),
            reset_due: false,
            started: false,
            device,
        };
        Ok(Self {
            name,
            metrics: TransportMetrics::default(),
            warnings,
            interrupt: Interrupt {
                status: AtomicU32::new(0),
                line: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(TransportError::EventFd)?,
            },
            pending_status,
            registers: Mutex::new(registers),
        })
    }

    /// Eventfd that is raised when the guest is to be interrupted.
    pub(crate) fn interrupt_line(&self) -> &EventFd {
        &self.interrupt.line
    }

    /// Number of queues of the device.
    pub(crate) fn queue_count(&self) -> usize {
        self.registers().queues.len()
    }

    /// Logs how many mistakes the guest made, if any: the lines about them may have been left out.
    pub(crate) fn report(&self) {
        let mistakes = self.metrics.total();
        if mistakes > 0 {
            self.warn(format_args!("{mistakes} mistakes of the driver: {:?}", self.metrics));
        }
    }

    /// Number of the fd for which the device waits. It stays the same and open as long as the device lives.
    pub(crate) fn backend_fd(&self) -> Option<RawFd> {
        self.registers().device.backend_fd().map(|fd| fd.as_raw_fd())
    }

    /// Whether the device may work: started, not broken, not waiting for a reset.
    pub(crate) fn is_running(&self) -> bool {
        self.registers().is_running()
    }

    /// Applies to the device what the driver has done since the last call: reset, start.
    pub(crate) fn apply_pending_status(&self, memory: &GuestMemoryMmap) {
        let mut registers = self.registers();
        if std::mem::take(&mut registers.reset_due) && std::mem::take(&mut registers.started) {
            registers.device.reset();
        }
        if registers.status != status::DRIVER_OK || registers.started {
            return;
        }
        // The queues cannot change from here on (`write_queue_register`), so one check is enough.
        if !registers.queues_are_sound(memory) {
            self.warn(format_args!("a queue lies outside memory"));
            return self.break_down(&mut registers);
        }
        let features = registers.driver_features;
        registers.device.activate(features);
        registers.started = true;
    }

    /// Processes the device.
    pub(crate) fn process(&self, cause: Cause, memory: &GuestMemoryMmap) {
        let mut registers = self.registers();
        if !registers.is_running() {
            return;
        }
        let Registers { device, queues, .. } = &mut *registers;
        if let Cause::Queue(index) = cause
            && !queues.get(index).is_some_and(QueueT::ready)
        {
            return;
        }
        let mut queues: Vec<&mut Queue> = queues.iter_mut().collect();
        match device.process(cause, memory, &mut queues) {
            Ok(signals) if signals.any() => self.interrupt(VIRTIO_MMIO_INT_VRING),
            Ok(_) => {}
            Err(fault) => {
                let cause = std::error::Error::source(&fault)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                self.warnings.warn(format_args!("{}: {fault}: {cause}", self.name));
                self.break_down(&mut registers);
            }
        }
    }

    /// Reads `data.len()` bytes at `offset` of the window for the guest.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = offset as u32;
        if offset >= VIRTIO_MMIO_CONFIG {
            let registers = self.registers();
            read_config(registers.device.config(), (offset - VIRTIO_MMIO_CONFIG) as usize, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *data) {
            *word = self.read_register(offset).to_le_bytes();
        } else {
            self.count_bad_access(offset);
            data.fill(0);
        }
    }

    /// Writes `data` at `offset` of the window for the guest.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let offset = offset as u32;
        if offset >= VIRTIO_MMIO_CONFIG {
            // None of our devices has a writable field.
            self.count_bad_access(offset);
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        } else {
            self.count_bad_access(offset);
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        // Outside the lock: see the module's documentation.
        if offset == VIRTIO_MMIO_INTERRUPT_STATUS {
            return self.interrupt.status.load(Ordering::SeqCst);
        }
        let mut registers = self.registers();
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => registers.device.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(registers.offered_features(), registers.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => registers
                .selected_queue()
                .map_or(0, |queue| u32::from(queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => registers.selected_queue().map_or(0, |queue| u32::from(queue.ready())),
            VIRTIO_MMIO_STATUS => registers.status,
            VIRTIO_MMIO_CONFIG_GENERATION => registers.current_config_generation(),
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            _ => {
                self.count_bad_access(offset);
                0
            }
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        if offset == VIRTIO_MMIO_INTERRUPT_ACK {
            self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            return;
        }
        let mut registers = self.registers();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(&mut registers, value),
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            VIRTIO_MMIO_QUEUE_NUM
            | VIRTIO_MMIO_QUEUE_READY
            | VIRTIO_MMIO_QUEUE_DESC_LOW
            | VIRTIO_MMIO_QUEUE_DESC_HIGH
            | VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | VIRTIO_MMIO_QUEUE_USED_LOW
            | VIRTIO_MMIO_QUEUE_USED_HIGH => self.write_queue_register(&mut registers, offset, value),
            VIRTIO_MMIO_STATUS => self.write_status(&mut registers, value),
            // KVM handles a notification of an existing queue (ioeventfd), so it does not arrive here.
            VIRTIO_MMIO_QUEUE_NOTIFY => self.metrics.bad_queue_writes.increment(),
            // Selecting a region is harmless: there is none.
            VIRTIO_MMIO_SHM_SEL => {}
            _ => self.count_bad_access(offset),
        }
    }

    fn write_driver_features(&self, registers: &mut Registers, value: u32) {
        let shift = match registers.driver_features_select {
            0 => 0,
            1 => 32,
            // Linux writes all halves it knows; those beyond must be zero.
            _ if value == 0 => return,
            _ => return self.metrics.bad_features.increment(),
        };
        if registers.status != status::DRIVER {
            self.metrics.bad_features.increment();
            self.warn(format_args!("features written in status {:#x}", registers.status));
            return;
        }
        let kept = registers.driver_features & !(u64::from(u32::MAX) << shift);
        registers.driver_features = kept | u64::from(value) << shift;
    }

    fn write_queue_register(&self, registers: &mut Registers, offset: u32, value: u32) {
        // Linux takes queues back after a reset; they are not ready then.
        let already = offset == VIRTIO_MMIO_QUEUE_READY && value == 0;
        let open = registers.status == status::FEATURES_OK;
        let Some(queue) = registers.selected_queue() else {
            return self.metrics.bad_queue_writes.increment();
        };
        if already && !queue.ready() {
            return;
        }
        if !open || (queue.ready() && !already) || !write_queue(queue, offset, value) {
            self.metrics.bad_queue_writes.increment();
            let (status, queue) = (registers.status, registers.queue_select);
            self.warn(format_args!(
                "queue {queue}: register {offset:#x} = {value:#x} refused in status {status:#x}"
            ));
        }
    }

    fn write_status(&self, registers: &mut Registers, value: u32) {
        match status::change(registers.status, value) {
            Change::Same => {}
            Change::Step | Change::GiveUp => registers.status = value & !status::NEEDS_RESET | registers.needs_reset(),
            Change::Reset => {
                registers.reset();
                self.interrupt.status.store(0, Ordering::SeqCst);
                self.request_status_update();
            }
            Change::ChooseFeatures if registers.features_are_acceptable() => registers.status = status::FEATURES_OK,
            // The driver sees by the missing bit that its choice was refused.
            Change::ChooseFeatures => {
                self.metrics.bad_features.increment();
                self.warn(format_args!("features {:#x} refused", registers.driver_features));
            }
            Change::Start => {
                registers.status = status::DRIVER_OK;
                self.request_status_update();
            }
            Change::Illegal => {
                self.metrics.bad_status.increment();
                self.warn(format_args!(
                    "status {:#x} after {:#x} refused",
                    value, registers.status
                ));
            }
        }
    }

    /// Stops the device; the driver is notified and may reset it. Everything else continues.
    fn break_down(&self, registers: &mut Registers) {
        self.metrics.queue_faults.increment();
        registers.status |= status::NEEDS_RESET;
        self.interrupt(VIRTIO_MMIO_INT_CONFIG);
    }

    fn interrupt(&self, reason: u32) {
        self.interrupt.status.fetch_or(reason, Ordering::SeqCst);
        // KVM drains the counter; were it full, the line would be raised already.
        let _ = self.interrupt.line.write(1);
    }

    fn request_status_update(&self) {
        // A full counter, as above, means that the loop will check anyway.
        let _ = self.pending_status.write(1);
    }

    fn count_bad_access(&self, offset: u32) {
        self.metrics.bad_accesses.increment();
        self.warn(format_args!("bad access at {offset:#x}"));
    }

    fn warn(&self, line: std::fmt::Arguments<'_>) {
        self.warnings.warn(format_args!("{}: {line}", self.name));
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers {
    /// Features offered to the driver. `INDIRECT_DESC` is never offered: chains stay inside the queue's own table,
    /// whose size bounds them.
    fn offered_features(&self) -> u64 {
        self.device.features() & !(1 << VIRTIO_RING_F_INDIRECT_DESC)
    }

    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.offered_features() == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn selected_queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_select as usize)
    }

    fn queues_are_sound(&mut self, memory: &GuestMemoryMmap) -> bool {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut ready = self.queues.iter_mut().filter(|queue| queue.ready());
        ready.all(|queue| {
            queue.set_event_idx(event_idx);
            queue.is_valid(memory)
        })
    }

    fn needs_reset(&self) -> u32 {
        self.status & status::NEEDS_RESET
    }

    fn is_running(&self) -> bool {
        self.status == status::DRIVER_OK && self.started && !self.reset_due
    }

    /// Resets everything but the device itself, which the event loop resets.
    fn reset(&mut self) {
        self.queues.iter_mut().for_each(QueueT::reset);
        self.status = status::RESET;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.reset_due = true;
    }

    /// Generation of the configuration: changes if the configuration has changed since the last request.
    fn current_config_generation(&mut self) -> u32 {
        if self.device.config() != self.config_seen {
            self.config_seen = self.device.config().to_vec();
            self.config_generation = self.config_generation.wrapping_add(1);
        }
        self.config_generation
    }
}

/// Half of the bits of `features` that `select` stands for.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn read_config(config: &[u8], offset: usize, data: &mut [u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = config.get(offset + index).copied().unwrap_or(0);
    }
}

/// Writes a queue register; returns whether `value` was possible. Alignments are those of virtio 1.3, section 2.7.
fn write_queue(queue: &mut Queue, offset: u32, value: u32) -> bool {
    match offset {
        VIRTIO_MMIO_QUEUE_NUM => match u16::try_from(value) {
            Ok(size) if size.is_power_of_two() && size <= queue.max_size() => queue.set_size(size),
            _ => return false,
        },
        VIRTIO_MMIO_QUEUE_READY if value <= 1 => queue.set_ready(value == 1),
        VIRTIO_MMIO_QUEUE_DESC_LOW if value.is_multiple_of(16) => queue.set_desc_table_address(Some(value), None),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW if value.is_multiple_of(2) => queue.set_avail_ring_address(Some(value), None),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
        VIRTIO_MMIO_QUEUE_USED_LOW if value.is_multiple_of(4) => queue.set_used_ring_address(Some(value), None),
        VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests;
