//! Machine: built paused, then run to its end. [`Machine::build`] is the recipe; it runs in the confined process.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;

use capsid_jail::{FilterError, SyscallFilter};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, SerialInterrupt};
use crate::config::{ConfigError, MachineConfig};
use crate::console::Console;
use crate::devices::{self, DeviceError, NamedDevice};
use crate::event_loop::{self, Ending, EventLoop, EventLoopError};
use crate::inherited::{Inherited, InheritedError};
use crate::kernel::{self, KernelError};
use crate::memory::{self, MemoryError};
use crate::status::MachineExit;
use crate::vcpu::{Vcpu, VcpuError};
use crate::virtio::mmio::{Transport, TransportError};
use crate::warnings::Warnings;
use crate::{filters, layout, mptable, sys};

/// KVM API version, which Linux has had since 2.6.22.
const KVM_API_VERSION: i32 = 12;
/// Stack size of a vCPU's thread, which has no deep calls; the default of 2 MiB would only be address space.
const VCPU_STACK_BYTES: usize = 256 << 10;

/// Reason why a machine could not be built; the variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The config is one that no machine can have.
    #[error("the machine config is refused")]
    Config(#[source] ConfigError),
    /// An inherited file is missing.
    #[error("cannot take {what} from the supervisor")]
    Inherited {
        /// Name of the file.
        what: &'static str,
        /// Cause.
        #[source]
        source: InheritedError,
    },
    /// The guest memory could not be made.
    #[error("cannot give the machine its memory")]
    Memory(#[source] MemoryError),
    /// The KVM fd is something else, or has another version.
    #[error("the KVM fd speaks version {version}, not {KVM_API_VERSION}")]
    KvmVersion {
        /// Version that the fd reported; negative if it is not KVM.
        version: i32,
    },
    /// An `ioctl` on KVM or the VM failed.
    #[error("cannot {step}")]
    Kvm {
        /// Name of the failed step.
        step: &'static str,
        /// Cause.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The event loop could not be made.
    #[error("cannot prepare the event loop")]
    EventLoop(#[source] EventLoopError),
    /// A device could not be made.
    #[error("cannot make the devices")]
    Devices(#[source] DeviceError),
    /// A device's transport could not be attached.
    #[error("cannot attach {device}")]
    Transport {
        /// Name of the device.
        device: String,
        /// Cause.
        #[source]
        source: TransportError,
    },
    /// Kernel, initramfs or command line could not be loaded.
    #[error("cannot prepare the boot")]
    Kernel(#[source] KernelError),
    /// The MP table could not be written.
    #[error("cannot write the MP table")]
    MpTable(#[source] vm_memory::GuestMemoryError),
    /// A vCPU could not be made.
    #[error("cannot make the vCPUs")]
    Vcpu(#[source] VcpuError),
    /// A vCPU's thread could not be started.
    #[error("cannot start the thread of a vCPU")]
    Thread(#[source] std::io::Error),
    /// A thread's filter could not be installed.
    #[error("cannot filter the system calls of {thread}")]
    Filter {
        /// Name of the thread.
        thread: &'static str,
        /// Cause.
        #[source]
        source: FilterError,
    },
}

/// Machine that has not executed an instruction yet. All its threads are confined.
#[derive(Debug)]
pub struct Machine {
    gate: Arc<Gate>,
    event_loop: EventLoop,
    bus: Arc<Bus>,
    /// VM, kept open: interrupts and notifications live as long as it.
    _vm: VmFd,
}

/// End of a machine: exit reason and console output.
#[derive(Debug)]
pub struct End {
    /// Exit reason.
    pub exit: MachineExit,
    /// Last bytes of the console's output.
    pub console: String,
    /// Number of console bytes that the ring had no room for.
    pub console_dropped_bytes: u64,
}

impl Machine {
    /// Builds the machine, then confines the calling thread permanently.
    ///
    /// # Errors
    /// [`BuildError`] names the step. The calling thread may be confined already.
    pub fn build(config: &MachineConfig, inherited: &mut Inherited, status: RawFd) -> Result<Self, BuildError> {
        config.check().map_err(BuildError::Config)?;
        let kvm = sys::kvm(inherited.take(config.kvm_fd).map_err(inherits("/dev/kvm"))?);
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION {
            return Err(BuildError::KvmVersion { version });
        }
        let vm = kvm.create_vm().map_err(calls("create a VM"))?;
        let memory = memory::allocate(config.memory_mib, !config.shares.is_empty()).map_err(BuildError::Memory)?;
        memory::register(&vm, &memory).map_err(BuildError::Memory)?;
        create_interrupt_controllers(&vm)?;

        let warnings = Arc::new(Warnings::new());
        let ending = Arc::new(Ending::new().map_err(BuildError::EventLoop)?);
        let pending_status = Arc::new(event_loop::event().map_err(BuildError::EventLoop)?);
        let mut event_loop = EventLoop::new(memory.clone(), Arc::clone(&ending), Arc::clone(&pending_status), status)
            .map_err(BuildError::EventLoop)?;

        let mut command_line = config.command_line.clone();
        let mut transports = Vec::new();
        let devices = devices::of_machine(config, inherited, &memory).map_err(BuildError::Devices)?;
        let device_rules = devices.iter().flat_map(|named| named.device.syscalls()).collect();
        for device in devices {
            let transport = attach(
                &vm,
                &mut event_loop,
                device,
                transports.len(),
                &pending_status,
                &warnings,
            )?;
            command_line.push_str(&announce(transports.len()));
            transports.push(transport);
        }
        let serial_interrupt = event_loop::event().map_err(BuildError::EventLoop)?;
        vm.register_irqfd(&serial_interrupt, layout::SERIAL_IRQ)
            .map_err(calls("wire the serial port's interrupt"))?;
        let mut vcpu_eventfds = event_loop.interrupt_fds();
        vcpu_eventfds.extend([
            ending.raw_fd(),
            pending_status.as_raw_fd(),
            serial_interrupt.as_raw_fd(),
        ]);
        let bus = Arc::new(Bus::new(SerialInterrupt(serial_interrupt), transports));

        let mut kernel = inherited.take_file(config.kernel_fd).map_err(inherits("the kernel"))?;
        let mut initramfs = inherited
            .take_file(config.initramfs_fd)
            .map_err(inherits("the initramfs"))?;
        let entry = kernel::load(&memory, &mut kernel, &mut initramfs, &command_line).map_err(BuildError::Kernel)?;
        memory
            .write_slice(&mptable::build(config.vcpus), GuestAddress(layout::MP_TABLE))
            .map_err(BuildError::MpTable)?;

        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(calls("ask KVM for its CPUID"))?;
        let vcpus: Result<Vec<_>, _> = (0..config.vcpus)
            .map(|index| Vcpu::create(&vm, &cpuid, index, config.vcpus, entry))
            .collect();
        // Only fds that the running machine needs are left.
        drop((kvm, kernel, initramfs));

        let gate = Arc::new(Gate::default());
        for vcpu in vcpus.map_err(BuildError::Vcpu)? {
            start_thread(vcpu, &gate, &bus, &ending, &vcpu_eventfds)?;
        }
        // INVARIANT: from here on every thread is confined, and the gate has not been opened yet.
        confine("the event loop", &filters::event_loop_rules(device_rules))?;
        Ok(Self {
            gate,
            event_loop,
            bus,
            _vm: vm,
        })
    }

    /// Starts the vCPUs, calls `started`, and serves the devices until the machine ends.
    pub fn run(self, started: impl FnOnce()) -> End {
        self.gate.open();
        started();
        let exit = self.event_loop.run();
        let panicked = self.bus.console(Console::has_panicked);
        End {
            // A panicking kernel resets the machine like one that was shut down.
            exit: if panicked && exit.is_by_guest() {
                MachineExit::GuestPanic
            } else {
                exit
            },
            console: self.bus.console(Console::text),
            console_dropped_bytes: self.bus.console(Console::dropped_bytes),
        }
    }
}

fn create_interrupt_controllers(vm: &VmFd) -> Result<(), BuildError> {
    vm.set_tss_address(layout::TSS).map_err(calls("place the TSS"))?;
    vm.create_irq_chip()
        .map_err(calls("create the interrupt controllers"))?;
    // With the dummy speaker KVM answers port 0x61, which the kernel polls when it calibrates timers.
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(calls("create the timer"))
}

/// Attaches a device: gives it its window, interrupt and notifications.
fn attach(
    vm: &VmFd,
    event_loop: &mut EventLoop,
    device: NamedDevice,
    index: usize,
    pending_status: &Arc<EventFd>,
    warnings: &Arc<Warnings>,
) -> Result<Arc<Transport>, BuildError> {
    let NamedDevice { name, device } = device;
    let transport = Transport::new(name.clone(), device, Arc::clone(pending_status), Arc::clone(warnings));
    let transport = Arc::new(transport.map_err(|source| BuildError::Transport { device: name, source })?);
    vm.register_irqfd(transport.interrupt_line(), layout::irq(index))
        .map_err(calls("wire a device's interrupt"))?;
    let address = IoEventAddress::Mmio(layout::mmio_window(index) + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
    let mut notifications = Vec::new();
    for queue in 0..transport.queue_count() {
        let event = event_loop::event().map_err(BuildError::EventLoop)?;
        vm.register_ioevent(&event, &address, queue as u32)
            .map_err(calls("wire a queue's notification"))?;
        notifications.push(event);
    }
    event_loop
        .serve(Arc::clone(&transport), notifications)
        .map_err(BuildError::EventLoop)?;
    Ok(transport)
}

/// Kernel parameter `virtio_mmio.device=` of a device (`Documentation/admin-guide/kernel-parameters.txt`).
fn announce(index: usize) -> String {
    let (window, irq) = (layout::mmio_window(index), layout::irq(index));
    format!(" virtio_mmio.device={}K@{window:#x}:{irq}", layout::MMIO_BYTES >> 10)
}

/// Starts the thread of `vcpu` and returns when it is confined and waits at the gate.
fn start_thread(
    mut vcpu: Vcpu,
    gate: &Arc<Gate>,
    bus: &Arc<Bus>,
    ending: &Arc<Ending>,
    eventfds: &[RawFd],
) -> Result<(), BuildError> {
    let name = format!("vcpu{}", vcpu.index());
    let rules = filters::vcpu_rules(vcpu.raw_fd(), eventfds);
    let (gate, bus, ending) = (Arc::clone(gate), Arc::clone(bus), Arc::clone(ending));
    let (notify, confined) = mpsc::sync_channel(1);
    let body = move || {
        let result = confine("a vCPU", &rules);
        let is_confined = result.is_ok();
        let _ = notify.send(result);
        if is_confined {
            gate.wait();
            ending.notify(vcpu.run(&bus));
            // Ending the thread would close what it holds, and its filter does not permit closing.
            loop {
                thread::park();
            }
        }
    };
    // The thread is never joined: it may stay in the guest for ever, and the end of the process ends it.
    thread::Builder::new()
        .name(name)
        .stack_size(VCPU_STACK_BYTES)
        .spawn(body)
        .map_err(BuildError::Thread)?;
    // A thread that ends without a message has panicked, which ends the process.
    confined.recv().unwrap_or(Ok(()))
}

fn confine(thread: &'static str, rules: &[capsid_jail::Rule]) -> Result<(), BuildError> {
    let fail = |source| BuildError::Filter { thread, source };
    SyscallFilter::new(rules).map_err(fail)?.apply_to_thread().map_err(fail)
}

fn inherits(what: &'static str) -> impl Fn(InheritedError) -> BuildError {
    move |source| BuildError::Inherited { what, source }
}

fn calls(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

/// Gate at which vCPUs wait until the machine is run.
#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
