//! Virtual CPUs: one thread each, in KVM most of the time.

mod cpuid;
mod registers;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use crate::bus::Bus;
use crate::status::MachineExit;
use crate::sys;

/// Reason why a vCPU could not be made; names the step that failed.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {index}: cannot {step}")]
pub struct VcpuError {
    /// Index of the vCPU.
    pub index: u8,
    /// Step that failed.
    pub step: VcpuStep,
    /// Cause.
    #[source]
    pub source: kvm_ioctls::Error,
}

/// Step of making a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuStep {
    /// Call of `KVM_CREATE_VCPU`.
    Create,
    /// Call of `KVM_SET_CPUID2`.
    Cpuid,
    /// Call of `KVM_SET_MSRS`.
    Msrs,
    /// Call of `KVM_SET_LAPIC`.
    LocalApic,
    /// Call of `KVM_SET_SREGS`.
    SpecialRegisters,
    /// Call of `KVM_SET_REGS`.
    Registers,
}

impl std::fmt::Display for VcpuStep {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Create => "create it",
            Self::Cpuid => "set its CPUID",
            Self::Msrs => "set its model-specific registers",
            Self::LocalApic => "set its local APIC",
            Self::SpecialRegisters => "set its special registers",
            Self::Registers => "set its registers",
        })
    }
}

/// Virtual CPU that has not run yet.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
}

impl Vcpu {
    /// Makes vCPU `index` of `count`. The first vCPU starts at `entry`; the others wait in KVM until the first wakes
    /// them (INIT and SIPI by the in-kernel local APIC).
    pub(crate) fn create(vm: &VmFd, supported: &CpuId, index: u8, count: u8, entry: u64) -> Result<Self, VcpuError> {
        let fail = |step| move |source| VcpuError { index, step, source };
        let fd = vm.create_vcpu(u64::from(index)).map_err(fail(VcpuStep::Create))?;
        fd.set_cpuid2(&cpuid::of_vcpu(supported, index, count))
            .map_err(fail(VcpuStep::Cpuid))?;
        registers::set_msrs(&fd).map_err(fail(VcpuStep::Msrs))?;
        registers::set_local_apic(&fd).map_err(fail(VcpuStep::LocalApic))?;
        if index == 0 {
            registers::set_pvh_special_registers(&fd).map_err(fail(VcpuStep::SpecialRegisters))?;
            registers::set_pvh_registers(&fd, entry).map_err(fail(VcpuStep::Registers))?;
        }
        Ok(Self { index, fd })
    }

    /// Number of the vCPU.
    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Number of the vCPU's fd, for the thread's filter.
    pub(crate) fn raw_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.fd)
    }

    /// Runs the guest until this vCPU ends the machine; returns the exit reason.
    pub(crate) fn run(&mut self, bus: &Bus) -> MachineExit {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::MmioRead(address, data)) => bus.read_memory(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => bus.write_memory(address, data),
                Ok(VcpuExit::IoIn(port, data)) => bus.read_port(port, data),
                Ok(VcpuExit::IoOut(port, data)) => {
                    if bus.write_port(port, data).is_reset() {
                        return MachineExit::Reset;
                    }
                }
                Ok(VcpuExit::Shutdown) => return MachineExit::TripleFault,
                Ok(VcpuExit::FailEntry(hardware_reason, _)) => return MachineExit::EntryFailed { hardware_reason },
                Ok(VcpuExit::InternalError) => {
                    let suberror = sys::internal_suberror(self.fd.get_kvm_run());
                    return MachineExit::KvmInternalError { suberror };
                }
                // A signal, or a sleeping vCPU that was woken: continue.
                Ok(VcpuExit::Intr) => {}
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return MachineExit::RunFailed { errno: error.errno() },
                Ok(_) => {
                    let exit_reason = self.fd.get_kvm_run().exit_reason;
                    return MachineExit::UnknownExit { exit_reason };
                }
            }
        }
    }
}
