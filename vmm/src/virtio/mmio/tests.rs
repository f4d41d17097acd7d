//! Tests of the transport as a guest sees it, well-behaved and hostile.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use capsid_jail::Rule;
use proptest::prelude::*;

use super::*;
use crate::memory;
use crate::virtio::device::{QueueFault, Signals};

const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC | 2;
const SIZES: &[u16] = &[256, 64];
const EVENTS: &[u32] = &[
    VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_AVAIL_LOW,
];

/// Call that the device received.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Activate(u64),
    Reset,
    Process(Cause),
}

/// Device that records its calls and that can be made to fail.
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    config: Vec<u8>,
    faulty: bool,
}

impl Device for Recorder {
    fn id(&self) -> u32 {
        2
    }

    fn queue_sizes(&self) -> &'static [u16] {
        SIZES
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn syscalls(&self) -> Vec<Rule> {
        Vec::new()
    }

    fn activate(&mut self, features: u64) {
        self.calls.lock().expect("one thread").push(Call::Activate(features));
    }

    fn reset(&mut self) {
        self.calls.lock().expect("one thread").push(Call::Reset);
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn process(
        &mut self,
        cause: Cause,
        _memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        assert_eq!(queues.len(), SIZES.len());
        self.calls.lock().expect("one thread").push(Call::Process(cause));
        if self.faulty {
            return Err(QueueFault {
                index: 0,
                source: virtio_queue::Error::InvalidChain,
            });
        }
        let mut signals = Signals::default();
        signals.mark(0);
        Ok(signals)
    }
}

/// Transport with everything around it.
struct Bench {
    transport: Transport,
    calls: Arc<Mutex<Vec<Call>>>,
    memory: GuestMemoryMmap,
}

impl Bench {
    fn new(faulty: bool) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let device = Box::new(Recorder {
            calls: Arc::clone(&calls),
            config: vec![1, 2, 3, 4, 5],
            faulty,
        });
        let pending_status = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
        let transport = Transport::new("test".to_owned(), device, pending_status, Arc::new(Warnings::new()));
        Self {
            transport: transport.expect("sound sizes"),
            calls,
            memory: memory::allocate(32, false).expect("memory"),
        }
    }

    fn read(&self, offset: u32) -> u32 {
        let mut word = [0; 4];
        self.transport.read(u64::from(offset), &mut word);
        u32::from_le_bytes(word)
    }

    fn write(&self, offset: u32, value: u32) {
        self.transport.write(u64::from(offset), &value.to_le_bytes());
    }

    fn negotiate(&self, features: u64) {
        self.write(VIRTIO_MMIO_STATUS, status::ACKNOWLEDGED);
        self.write(VIRTIO_MMIO_STATUS, status::DRIVER);
        for select in [0, 1] {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, half(features, select));
        }
        self.write(VIRTIO_MMIO_STATUS, status::FEATURES_OK);
    }

    fn set_up_queue(&self, queue: u32, table: u32) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, queue);
        self.write(VIRTIO_MMIO_QUEUE_NUM, 16);
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, table);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, table + 0x1000);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, table + 0x2000);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn start(&self) {
        self.negotiate(1 << VIRTIO_F_VERSION_1);
        self.set_up_queue(0, 0x1_0000);
        self.set_up_queue(1, 0x2_0000);
        self.write(VIRTIO_MMIO_STATUS, status::DRIVER_OK);
        self.transport.apply_pending_status(&self.memory);
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("one thread").clone()
    }
}

#[test]
fn a_driver_starts_the_device_once_and_resets_it_once() {
    let bench = Bench::new(false);
    bench.start();
    bench.transport.apply_pending_status(&bench.memory);
    assert!(bench.transport.is_running());
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert!(!bench.transport.is_running());
    bench.transport.apply_pending_status(&bench.memory);
    bench.transport.apply_pending_status(&bench.memory);
    assert_eq!(bench.calls(), [Call::Activate(1 << VIRTIO_F_VERSION_1), Call::Reset]);
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(bench.transport.metrics.total(), 0);
}

#[test]
fn a_reset_and_a_start_between_two_looks_are_both_told() {
    let bench = Bench::new(false);
    bench.start();
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start();
    let activate = Call::Activate(1 << VIRTIO_F_VERSION_1);
    assert_eq!(bench.calls(), [activate.clone(), Call::Reset, activate]);
}

#[test]
fn work_is_done_only_while_running_and_interrupts() {
    let bench = Bench::new(false);
    bench.transport.process(Cause::Queue(0), &bench.memory);
    bench.start();
    bench.transport.process(Cause::Queue(9), &bench.memory);
    bench.transport.process(Cause::Queue(1), &bench.memory);
    assert_eq!(bench.calls()[1..], [Call::Process(Cause::Queue(1))]);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    assert_eq!(bench.transport.interrupt_line().read().expect("raised"), 1);
    bench.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_broken_queue_stops_the_device_until_it_is_reset() {
    let bench = Bench::new(true);
    bench.start();
    bench.transport.process(Cause::Queue(0), &bench.memory);
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), status::DRIVER_OK | status::NEEDS_RESET);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    bench.transport.process(Cause::Queue(0), &bench.memory);
    assert_eq!(bench.calls().len(), 2, "no work after the fault");
    assert_eq!(bench.transport.metrics.queue_faults.get(), 1);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start();
    assert!(bench.transport.is_running());
}

#[test]
fn features_not_offered_or_not_modern_are_refused() {
    for features in [
        0,
        2,
        1 << VIRTIO_F_VERSION_1 | 4,
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC,
    ] {
        let bench = Bench::new(false);
        bench.negotiate(features);
        assert_eq!(bench.read(VIRTIO_MMIO_STATUS), status::DRIVER, "{features:#x}");
        assert_eq!(bench.transport.metrics.bad_features.get(), 1);
    }
    let bench = Bench::new(false);
    assert_eq!(
        bench.read(VIRTIO_MMIO_DEVICE_FEATURES) & 1 << VIRTIO_RING_F_INDIRECT_DESC,
        0
    );
}

#[test]
fn queues_are_closed_outside_their_window() {
    let bench = Bench::new(false);
    for (step, offset) in EVENTS.iter().enumerate() {
        bench.write(*offset, 16);
        assert_eq!(bench.transport.metrics.bad_queue_writes.get(), step as u64 + 1);
    }
    let bench = Bench::new(false);
    bench.start();
    // Firecracker's CVE-2026-5747: a queue made larger after it had been checked.
    for offset in EVENTS {
        bench.write(*offset, 32);
    }
    bench.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(bench.transport.metrics.bad_queue_writes.get(), EVENTS.len() as u64 + 1);
    let registers = bench.transport.registers();
    assert_eq!(
        (registers.queues[1].size(), registers.queues[1].desc_table()),
        (16, 0x2_0000)
    );
}

#[test]
fn impossible_queues_are_refused() {
    let bench = Bench::new(false);
    bench.negotiate(1 << VIRTIO_F_VERSION_1);
    for (offset, value) in [
        (VIRTIO_MMIO_QUEUE_NUM, 0),
        (VIRTIO_MMIO_QUEUE_NUM, 3),
        (VIRTIO_MMIO_QUEUE_NUM, 512),
        (VIRTIO_MMIO_QUEUE_NUM, 1 << 16),
        (VIRTIO_MMIO_QUEUE_READY, 2),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 8),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, 1),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 2),
    ] {
        let before = bench.transport.metrics.bad_queue_writes.get();
        bench.write(offset, value);
        assert_eq!(
            bench.transport.metrics.bad_queue_writes.get(),
            before + 1,
            "{offset:#x} = {value}"
        );
    }
    bench.write(VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn a_queue_outside_memory_stops_the_device() {
    let bench = Bench::new(false);
    bench.negotiate(1 << VIRTIO_F_VERSION_1);
    bench.set_up_queue(0, 0xffff_0000);
    bench.write(VIRTIO_MMIO_STATUS, status::DRIVER_OK);
    bench.transport.apply_pending_status(&bench.memory);
    assert!(!bench.transport.is_running());
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), status::DRIVER_OK | status::NEEDS_RESET);
    assert_eq!(bench.calls(), []);
}

#[test]
fn configuration_reads_end_in_zeros() {
    let bench = Bench::new(false);
    let mut data = [9; 8];
    bench.transport.read(u64::from(VIRTIO_MMIO_CONFIG), &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 0, 0, 0]);
    bench.transport.read(0xfff, &mut data);
    assert_eq!(data, [0; 8]);
    bench.write(VIRTIO_MMIO_CONFIG, 7);
    assert_eq!(bench.transport.metrics.bad_accesses.get(), 1);
}

/// Next step of a hostile guest.
#[derive(Debug, Clone)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Settle,
    Process(Cause),
    /// Does everything as it should be, so that the later states are reached.
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    let register = prop_oneof![
        4 => (0u64..0x40).prop_map(|word| word * 4),
        2 => Just(u64::from(VIRTIO_MMIO_STATUS)),
        1 => 0u64..0x1000,
    ];
    let value = prop_oneof![
        prop::sample::select(vec![0u32, 1, 3, 0xb, 0xf, 0x80, 0x40, 16, 0x1_0000, u32::MAX]),
        any::<u32>(),
    ];
    let bytes = prop_oneof![
        8 => value.prop_map(|value| value.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..9),
    ];
    prop_oneof![
        2 => (register.clone(), 1usize..9).prop_map(|(offset, bytes)| Step::Read(offset, bytes)),
        8 => (register, bytes).prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
        1 => Just(Step::Settle),
        1 => Just(Step::Start),
        1 => (0usize..4).prop_map(|queue| Step::Process(Cause::Queue(queue))),
        1 => Just(Step::Process(Cause::Backend)),
    ]
}

proptest! {
    /// Tests that any guest causes no panic; `activate` and `reset` of the device alternate, and it works only in
    /// between.
    #[test]
    fn hostile_sequences_keep_the_contract(steps in prop::collection::vec(step(), 0..200), faulty: bool) {
        let bench = Bench::new(faulty);
        for step in steps {
            match step {
                Step::Read(offset, bytes) => bench.transport.read(offset, &mut vec![0; bytes]),
                Step::Write(offset, bytes) => bench.transport.write(offset, &bytes),
                Step::Settle => bench.transport.apply_pending_status(&bench.memory),
                Step::Start => bench.start(),
                Step::Process(cause) => {
                    bench.transport.apply_pending_status(&bench.memory);
                    bench.transport.process(cause, &bench.memory);
                }
            }
            let status = bench.read(VIRTIO_MMIO_STATUS) & !status::NEEDS_RESET & !status::FAILED;
            let known = [status::RESET, status::ACKNOWLEDGED, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK];
            prop_assert!(known.contains(&status));
        }
        let mut active = false;
        for calls in bench.calls() {
            match calls {
                Call::Activate(features) => {
                    prop_assert!(!active);
                    prop_assert!(features & !OFFERED == 0 && features & 1 << VIRTIO_F_VERSION_1 != 0);
                    active = true;
                }
                Call::Reset => prop_assert!(std::mem::take(&mut active)),
                Call::Process(_) => prop_assert!(active),
            }
        }
    }
}
