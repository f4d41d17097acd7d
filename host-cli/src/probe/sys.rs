//! Unsafe code of the probe: guest memory, and the signal that ends a KVM_RUN.
#![allow(unsafe_code, reason = "guest memory and signal masks have no safe interface")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// Number of the ioctl `KVM_SET_SIGNAL_MASK`: `_IOW(0xae, 0x8b, struct kvm_signal_mask)`, whose size counts without the
/// mask.
const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;

/// Failed step of making a machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum MachineError {
    #[error("allocating memory")]
    Memory(#[source] io::Error),
    #[error("creating a VM")]
    Vm(#[source] kvm_ioctls::Error),
    #[error("giving memory to the VM")]
    Attach(#[source] kvm_ioctls::Error),
    #[error("creating a vCPU")]
    Vcpu(#[source] kvm_ioctls::Error),
}

/// VM with one vCPU and some memory from address 0.
pub(super) struct Machine {
    // Dropped in this order: the guest ends before its memory is unmapped.
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Mapping,
}

impl Machine {
    /// Creates a machine whose memory holds a copy of `image`, a whole number of pages.
    pub(super) fn new(kvm: &Kvm, image: &[u8]) -> Result<Machine, MachineError> {
        let memory = Mapping::holding(image).map_err(MachineError::Memory)?;
        let vm = kvm.create_vm().map_err(MachineError::Vm)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.length as u64,
            userspace_addr: memory.start.as_ptr() as u64,
        };
        // SAFETY: the region is exactly the mapping, which nothing on this side touches any more, and which `Machine`
        // keeps until the VM's last descriptors are closed (field order).
        unsafe { vm.set_user_memory_region(region) }.map_err(MachineError::Attach)?;
        let vcpu = vm.create_vcpu(0).map_err(MachineError::Vcpu)?;
        Ok(Machine {
            vcpu,
            _vm: vm,
            _memory: memory,
        })
    }

    pub(super) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }
}

/// Private memory of this process.
struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    fn holding(bytes: &[u8]) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel likes; no existing memory is touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes.len(), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapping = Mapping {
            start,
            length: bytes.len(),
        };
        // SAFETY: the mapping is new, as long as `bytes`, and nobody else knows of it yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr().cast(), bytes.len()) };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap in `holding` with this length, unmapped nowhere else; `Machine` has closed the VM
        // before.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

/// Alarm that ends the KVM_RUN of this thread with EINTR once, after a time. Its signal stays blocked on this thread
/// except inside KVM_RUN, so no handler runs and no handler is changed. Meant for a thread that ends soon after.
pub(super) struct Alarm {
    timer: libc::timer_t,
}

impl Alarm {
    /// Starts the timer for KVM_RUN of `vcpu` on this thread.
    pub(super) fn set(vcpu: &VcpuFd, after: Duration) -> io::Result<Alarm> {
        // glibc reserves the two real-time signals below this one; it is free in every program that does not use it.
        let signal = libc::SIGRTMIN();
        let mut mask = full_mask();
        // SAFETY: `mask` is a valid set, made by `full_mask`; no old mask is asked for.
        let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: as above; `signal` is a valid number.
        unsafe { libc::sigdelset(&raw mut mask, signal) };
        set_run_mask(vcpu, &mask)?;
        Alarm::start(signal, after)
    }

    fn start(signal: libc::c_int, after: Duration) -> io::Result<Alarm> {
        // SAFETY: all-zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: takes nothing, cannot fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both point to values of this frame; `timer` is written by the call.
        let done = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let alarm = Alarm { timer };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: after.as_secs().cast_signed(),
            tv_nsec: after.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: zero,
            it_value: value,
        };
        // SAFETY: the timer was just made and is deleted only by `drop`; `times` lives through the call.
        let done = unsafe { libc::timer_settime(alarm.timer, 0, &raw const times, ptr::null_mut()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: made by `start`, deleted nowhere else.
        unsafe { libc::timer_delete(self.timer) };
    }
}

fn full_mask() -> libc::sigset_t {
    // SAFETY: all-zero is a valid set (the empty one), and is filled next.
    let mut mask: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `mask` is a value of this frame.
    unsafe { libc::sigfillset(&raw mut mask) };
    mask
}

/// Makes `mask` the thread's signal mask while it is inside KVM_RUN of `vcpu`.
fn set_run_mask(vcpu: &VcpuFd, mask: &libc::sigset_t) -> io::Result<()> {
    /// Argument of the ioctl: `struct kvm_signal_mask` with the kernel's 64-bit set.
    #[repr(C, packed)]
    struct SignalMask {
        length: u32,
        set: [u8; 8],
    }
    // SAFETY: glibc's set begins with the kernel's 64 bits and is longer; any bytes are valid.
    let set = unsafe { ptr::read_unaligned(ptr::from_ref(mask).cast::<[u8; 8]>()) };
    let argument = SignalMask { length: 8, set };
    // SAFETY: the ioctl reads `length` and as many bytes after it, all of `argument`.
    let done = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const argument) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
