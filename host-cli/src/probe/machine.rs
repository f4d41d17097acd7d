//! Machine of the probe: one vCPU that goes through the steps of [`guest`] in 64-bit ring 0.

use std::fmt;
use std::thread;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::time::{ClockId, clock_gettime};

use super::guest;
use super::sys::{Alarm, Machine, MachineError};

/// Longest time in the guest at each try, measured on the wall clock. A real KVM needs under a millisecond, an
/// interpreting one about 20 ms for one pass of the loop. A probe that runs out of time, or is slow, is repeated with a
/// longer limit, since on a busy host it may hardly have got a processor: seen with a KVM inside an emulated machine,
/// six processes to each processor.
const TIME_LIMITS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(1_600),
];
/// Last and longest of the time limits.
pub(super) const LONGEST: Duration = TIME_LIMITS[TIME_LIMITS.len() - 1];
/// Number of timed passes of the loop; the best one counts, since the first pass also fills caches and page tables.
const ATTEMPTS: u32 = 3;
/// Lowest rate of a real processor. An interpreting KVM was measured at 1.7 million instructions/s. A KVM inside an
/// emulated machine, the slowest real one there is, spends 0.15 ms on entering the guest and still reaches above 100
/// million/s, or 14 million/s once in many times on a host with three processes to each processor.
const SLOWEST_REAL: u64 = 10_000_000;
/// Shortest time that is used for a rate: a clock too coarse to measure the loop gives none.
const SHORTEST: Duration = Duration::from_nanos(1);

/// Step of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Cmpxchg16b,
    Breakpoint,
    Xrstor,
    Loop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Cmpxchg16b => "cmpxchg16b",
            Step::Breakpoint => "int3",
            Step::Xrstor => "xrstor",
            Step::Loop => "a short loop",
        })
    }
}

/// End of the probe's machine.
#[derive(Debug)]
pub(super) enum ProbeEnd {
    /// All steps were done, quickly.
    Passed,
    /// KVM failed to run an instruction.
    InternalError(Step),
    /// All steps were done, but at the pace of an interpreter.
    Slow {
        /// Rate of the best attempt.
        instructions_per_second: u64,
    },
    /// The guest was still at this step after each of [`TIME_LIMITS`]: an interpreter, or a very busy host.
    TimedOut(Step),
    /// KVM reported an exit that the guest's code cannot cause on a processor.
    Strayed {
        /// Step in which the exit happened.
        step: Step,
        /// Name of the exit in KVM.
        exit: String,
    },
}

/// Failed step of the probe's preparation.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("reading the processor's features")]
    CpuId(#[source] kvm_ioctls::Error),
    #[error("making a machine")]
    Machine(#[source] MachineError),
    #[error("setting the processor's features")]
    SetCpuId(#[source] kvm_ioctls::Error),
    #[error("setting the vCPU's registers")]
    Registers(#[source] kvm_ioctls::Error),
    #[error("setting a time limit")]
    Alarm(#[source] std::io::Error),
    #[error("running the vCPU")]
    Run(#[source] kvm_ioctls::Error),
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    #[error("the probe's thread panicked")]
    Panicked,
}

/// Runs the probe, on a thread of its own: the signal of the time limit then affects no other thread.
pub(super) fn run(kvm: &Kvm) -> Result<ProbeEnd, ProbeError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("kvm-probe".to_owned());
        let probe = builder
            .spawn_scoped(scope, || try_several_times(kvm))
            .map_err(ProbeError::Thread)?;
        probe.join().map_err(|_| ProbeError::Panicked)?
    })
}

fn try_several_times(kvm: &Kvm) -> Result<ProbeEnd, ProbeError> {
    let [first, later @ ..] = TIME_LIMITS;
    let mut end = run_here(kvm, first)?;
    for limit in later {
        // A single slow run may come from a busy host; a slow run at each try does not.
        if !matches!(end, ProbeEnd::TimedOut(_) | ProbeEnd::Slow { .. }) {
            break;
        }
        end = run_here(kvm, limit)?;
    }
    Ok(end)
}

fn run_here(kvm: &Kvm, limit: Duration) -> Result<ProbeEnd, ProbeError> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(ProbeError::CpuId)?;
    let xsave = has_xsave(&cpuid);
    let mut machine = Machine::new(kvm, &guest::image(xsave)).map_err(ProbeError::Machine)?;
    machine.vcpu().set_cpuid2(&cpuid).map_err(ProbeError::SetCpuId)?;
    set_registers(&mut machine, xsave).map_err(ProbeError::Registers)?;
    let alarm = Alarm::set(machine.vcpu(), limit).map_err(ProbeError::Alarm)?;
    let end = go_through(&mut machine);
    drop(alarm);
    end
}

fn go_through(machine: &mut Machine) -> Result<ProbeEnd, ProbeError> {
    let mut step = Step::Cmpxchg16b;
    let (mut best, mut attempts) = (0, 0);
    while attempts < ATTEMPTS && best < SLOWEST_REAL {
        let since = processor_time();
        let port = match machine.vcpu().run() {
            Ok(VcpuExit::IoOut(port, _)) => port,
            Ok(VcpuExit::InternalError) => return Ok(ProbeEnd::InternalError(step)),
            Ok(exit) => {
                return Ok(ProbeEnd::Strayed {
                    step,
                    exit: format!("{exit:?}"),
                });
            }
            // Only the alarm's signal is let through to this thread.
            Err(error) if error.errno() == libc::EINTR => return Ok(ProbeEnd::TimedOut(step)),
            Err(error) => return Err(ProbeError::Run(error)),
        };
        step = match port {
            guest::PORT_CMPXCHG16B => Step::Breakpoint,
            guest::PORT_BREAKPOINT => Step::Xrstor,
            guest::PORT_XRSTOR => Step::Loop,
            _ => {
                attempts += 1;
                best = best.max(rate(processor_time().saturating_sub(since)));
                Step::Loop
            }
        };
    }
    if best < SLOWEST_REAL {
        return Ok(ProbeEnd::Slow {
            instructions_per_second: best,
        });
    }
    Ok(ProbeEnd::Passed)
}

/// Returns the processor time of this thread and of the guest that it runs: unlike wall time, it is not longer on a
/// busy host.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Computes the instructions per second where one pass of the loop took `time`.
fn rate(time: Duration) -> u64 {
    let instructions = u64::from(guest::ROUNDS * guest::INSTRUCTIONS_PER_ROUND);
    let rate = u128::from(instructions) * 1_000_000_000 / time.max(SHORTEST).as_nanos();
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Whether the processor has XSAVE: CPUID leaf 1, ECX bit 26.
fn has_xsave(cpuid: &CpuId) -> bool {
    cpuid
        .as_slice()
        .iter()
        .any(|entry| entry.function == 1 && entry.ecx & 1 << 26 != 0)
}

fn set_registers(machine: &mut Machine, xsave: bool) -> Result<(), kvm_ioctls::Error> {
    let vcpu = machine.vcpu();
    let mut sregs = vcpu.get_sregs()?;
    enter_long_mode(&mut sregs, xsave);
    vcpu.set_sregs(&sregs)?;
    // rax, rdx: the operand of cmpxchg16b's comparison; bit 1 of the flags is always set, interrupts are off.
    vcpu.set_regs(&kvm_regs {
        rip: guest::CODE,
        rsp: guest::STACK_TOP,
        rbx: 1,
        rcx: 2,
        rflags: 2,
        ..kvm_regs::default()
    })
}

fn enter_long_mode(sregs: &mut kvm_sregs, xsave: bool) {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: guest::DATA_SELECTOR,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment {
        selector: guest::CODE_SELECTOR,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.gdt.base = guest::GDT;
    sregs.gdt.limit = guest::GDT_LIMIT;
    sregs.idt.base = guest::IDT;
    sregs.idt.limit = guest::IDT_LIMIT;
    sregs.cr3 = guest::PML4;
    // PAE, OSFXSR; OSXSAVE where there is XSAVE.
    sregs.cr4 = 0x20 | 0x200 | if xsave { 0x4_0000 } else { 0 };
    // PE, MP, ET, NE, PG.
    sregs.cr0 = 0x8000_0033;
    // LME, LMA.
    sregs.efer = 0x500;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_tell_processors_from_interpreters() {
        // 32 000 instructions.
        assert!(rate(Duration::from_micros(300)) > SLOWEST_REAL);
        assert!(rate(Duration::from_millis(19)) < SLOWEST_REAL);
        assert!(rate(Duration::ZERO) > SLOWEST_REAL);
    }
}
