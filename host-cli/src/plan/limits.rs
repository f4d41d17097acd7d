//! Limits of the container's cgroup and its processes, and the size of the machine that holds them.

use capsid_protocol::spec::{Limits, Rlimit};

use super::size::{self, SizeError};
use crate::cli::{PodCreateArgs, RunArgs};
use crate::model::{MachineSize, PodLimits};

/// Period of `cpu.max` in microseconds: the kernel's and docker's default.
const CPU_PERIOD_US: f64 = 100_000.0;
/// Smallest memory limit that docker accepts: a process cannot even start with less.
const MEMORY_MIN_BYTES: u64 = 6 << 20;
/// Memory of the guest kernel, the agent and page tables in addition to the containers, MiB (measured: 60 to 80).
const MACHINE_OVERHEAD_MIB: u64 = 128;
/// Memory of a machine whose container has no limit, MiB. The host gives only what the guest touches.
const MACHINE_MEMORY_DEFAULT_MIB: u32 = 1024;
/// Largest memory of a machine, 1 TiB: more than any host this runs on; keeps arithmetic far from overflow.
const MACHINE_MEMORY_MAX_MIB: u64 = 1 << 20;
/// Most vCPUs of a machine (`MachineConfig::vcpus`).
pub(super) const VCPUS_MAX: u32 = 32;

/// Reason why limits are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LimitsError {
    #[error("invalid value for --{flag}")]
    Size {
        flag: &'static str,
        #[source]
        source: SizeError,
    },
    #[error("minimum memory limit allowed is 6MB")]
    MemoryTooSmall,
    #[error("--memory of {0} bytes is over the largest machine, 1 TiB")]
    MemoryTooLarge(u64),
    #[error("--memory-swap needs --memory")]
    SwapWithoutMemory,
    #[error("--memory-swap must not be less than --memory: it is memory plus swap")]
    SwapBelowMemory,
    #[error("--memory-reservation must not be more than --memory")]
    ReservationOverMemory,
    #[error("invalid value {0:?} for --cpus: write a number of CPUs from 0.01 to {VCPUS_MAX}, as 0.5")]
    Cpus(String),
    #[error("--cpus {cpus} is more than the machine's {vcpus} vCPUs: raise --vcpus")]
    CpusOverVcpus { cpus: String, vcpus: u8 },
    #[error("invalid value {0:?} for --cpuset-cpus: write a list as 0-2,4")]
    Cpuset(String),
    #[error("--cpuset-cpus {list:?} names CPU {cpu}, but the machine has {vcpus} vCPUs: raise --vcpus")]
    CpusetOverVcpus { list: String, cpu: u32, vcpus: u8 },
    #[error("invalid value {0:?} for --ulimit: write name=soft[:hard], as nofile=1024:2048")]
    Ulimit(String),
    #[error("unknown resource {0:?} for --ulimit")]
    UlimitName(String),
    #[error("--ulimit {0}: the soft limit is over the hard limit")]
    UlimitOrder(String),
    #[error("--cpu-shares {0} is not a number from 2 to 262144")]
    Shares(u64),
    #[error("invalid value {0} for --pids-limit")]
    Pids(i64),
}

/// Resolves every limit flag. `host_cpus` is the number of the host's CPUs; the machine is given when the container
/// goes into an existing one.
pub(crate) fn resolve(
    args: &RunArgs,
    host_cpus: usize,
    machine: Option<MachineSize>,
) -> Result<(Limits, MachineSize), LimitsError> {
    let memory = memory(args.memory.as_deref())?;
    let swap = swap(args.memory_swap.as_deref(), memory)?;
    let asked = Asked {
        cpus: args.cpus.as_deref(),
        cpuset: args.cpuset_cpus.as_deref(),
        vcpus: machine.map(|machine| machine.vcpus).or(args.vcpus),
    };
    let cpus = asked.cpus.map(parse_cpus).transpose()?.flatten();
    let vcpus = vcpus(&asked, cpus, host_cpus)?;
    let limits = Limits {
        memory_max_bytes: memory,
        swap_max_bytes: swap,
        cpu_quota_us: cpus.map(quota),
        cpuset_cpus: args.cpuset_cpus.clone(),
        pids_max: pids(args.pids_limit)?,
        cpu_weight: args.cpu_shares.map(weight).transpose()?,
        memory_low_bytes: reservation(args.memory_reservation.as_deref(), memory)?,
    };
    match machine {
        Some(machine) => Ok((limits, machine)),
        None => Ok((limits, machine_of(memory, vcpus)?)),
    }
}

/// Resolves the limit flags of a pod.
pub(super) fn resolve_pod(args: &PodCreateArgs, host_cpus: usize) -> Result<(PodLimits, MachineSize), LimitsError> {
    let memory = memory(args.memory.as_deref())?;
    let asked = Asked {
        cpus: args.cpus.as_deref(),
        cpuset: None,
        vcpus: args.vcpus,
    };
    let cpus = asked.cpus.map(parse_cpus).transpose()?.flatten();
    let machine = machine_of(memory, vcpus(&asked, cpus, host_cpus)?)?;
    let limits = PodLimits {
        memory_max_bytes: memory,
        cpu_quota_us: cpus.map(quota),
        pids_max: pids(args.pids_limit)?,
    };
    Ok((limits, machine))
}

/// Computes the machine that holds so much memory.
fn machine_of(memory: Option<u64>, vcpus: u8) -> Result<MachineSize, LimitsError> {
    let memory_mib = match memory {
        Some(bytes) => machine_mib(bytes)?,
        None => MACHINE_MEMORY_DEFAULT_MIB,
    };
    Ok(MachineSize { vcpus, memory_mib })
}

/// Computes the memory of a machine whose container may have `bytes`, MiB.
pub(super) fn machine_mib(bytes: u64) -> Result<u32, LimitsError> {
    let mib = bytes.div_ceil(1 << 20) + MACHINE_OVERHEAD_MIB;
    if mib > MACHINE_MEMORY_MAX_MIB {
        return Err(LimitsError::MemoryTooLarge(bytes));
    }
    Ok(mib as u32)
}

/// Converts a number of CPUs to a quota of `cpu.max`.
pub(super) fn quota(cpus: f64) -> u64 {
    (cpus * CPU_PERIOD_US) as u64
}

/// Converts docker's shares to the kernel's weight, as runc does.
pub(super) fn weight(shares: u64) -> Result<u64, LimitsError> {
    const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
    if SHARES.contains(&shares) {
        Ok(1 + (shares - 2) * 9_999 / 262_142)
    } else {
        Err(LimitsError::Shares(shares))
    }
}

/// Parses `--memory`; 0 means no limit.
pub(super) fn memory(text: Option<&str>) -> Result<Option<u64>, LimitsError> {
    let Some(text) = text else { return Ok(None) };
    let bytes = size::parse(text).map_err(|source| LimitsError::Size { flag: "memory", source })?;
    match bytes {
        0 => Ok(None),
        _ if bytes < MEMORY_MIN_BYTES => Err(LimitsError::MemoryTooSmall),
        _ => Ok(Some(bytes)),
    }
}

/// Parses `--memory-reservation`; 0 means none.
pub(super) fn reservation(text: Option<&str>, memory: Option<u64>) -> Result<Option<u64>, LimitsError> {
    let Some(text) = text else { return Ok(None) };
    let flag = "memory-reservation";
    let bytes = size::parse(text).map_err(|source| LimitsError::Size { flag, source })?;
    match memory {
        Some(memory) if bytes > memory => Err(LimitsError::ReservationOverMemory),
        _ => Ok((bytes > 0).then_some(bytes)),
    }
}

/// Parses `--memory-swap` in docker's way: -1 is unlimited, 0 is unset, unset is as much swap as memory; the value is
/// memory plus swap.
pub(super) fn swap(text: Option<&str>, memory: Option<u64>) -> Result<Option<u64>, LimitsError> {
    let total = match text {
        None => return Ok(memory),
        Some("-1") => return Ok(None),
        Some(text) => size::parse(text).map_err(|source| LimitsError::Size {
            flag: "memory-swap",
            source,
        })?,
    };
    match (total, memory) {
        (0, _) => Ok(memory),
        (_, None) => Err(LimitsError::SwapWithoutMemory),
        (_, Some(memory)) => total.checked_sub(memory).map(Some).ok_or(LimitsError::SwapBelowMemory),
    }
}

/// Parses `--cpus`; `None` for 0, which is docker's "no limit".
pub(super) fn parse_cpus(text: &str) -> Result<Option<f64>, LimitsError> {
    let wrong = || LimitsError::Cpus(text.into());
    let cpus: f64 = text.parse().map_err(|_| wrong())?;
    if cpus == 0.0 {
        return Ok(None);
    }
    // The kernel accepts no quota under 1 ms of 100.
    if (0.01..=f64::from(VCPUS_MAX)).contains(&cpus) {
        Ok(Some(cpus))
    } else {
        Err(wrong())
    }
}

/// Processor flags, as typed.
struct Asked<'a> {
    cpus: Option<&'a str>,
    cpuset: Option<&'a str>,
    vcpus: Option<u8>,
}

/// Computes the number of vCPUs: as many as asked for, else enough for `--cpus` and `--cpuset-cpus`, else one, because
/// a second vCPU costs start time in every pod and helps few.
fn vcpus(asked: &Asked<'_>, cpus: Option<f64>, host_cpus: usize) -> Result<u8, LimitsError> {
    let list_max = asked.cpuset.map(parse_cpuset).transpose()?;
    let wanted_by_cpus = cpus.map_or(1, |cpus| cpus.ceil() as u32);
    let wanted = wanted_by_cpus.max(list_max.map_or(1, |cpu| cpu + 1));
    let vcpus = match asked.vcpus {
        Some(vcpus) => vcpus,
        None => wanted.min(VCPUS_MAX).min(host_cpus.max(1) as u32) as u8,
    };
    match (list_max, asked.cpuset) {
        (Some(cpu), Some(list)) if cpu >= u32::from(vcpus) => {
            return Err(LimitsError::CpusetOverVcpus {
                list: list.into(),
                cpu,
                vcpus,
            });
        }
        _ => {}
    }
    match asked.cpus {
        Some(text) if wanted_by_cpus > u32::from(vcpus) => Err(LimitsError::CpusOverVcpus {
            cpus: text.into(),
            vcpus,
        }),
        _ => Ok(vcpus),
    }
}

/// Returns the highest CPU of a list such as `0-2,4`.
pub(super) fn parse_cpuset(list: &str) -> Result<u32, LimitsError> {
    let wrong = || LimitsError::Cpuset(list.into());
    let mut highest = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.parse().map_err(|_| wrong())?;
        let last: u32 = last.parse().map_err(|_| wrong())?;
        if last < first || last > 1023 {
            return Err(wrong());
        }
        highest = highest.max(last);
    }
    Ok(highest)
}

pub(super) fn pids(limit: Option<i64>) -> Result<Option<u64>, LimitsError> {
    match limit {
        None | Some(0 | -1) => Ok(None),
        Some(n) => u64::try_from(n).map(Some).map_err(|_| LimitsError::Pids(n)),
    }
}

/// Resource names in docker's words, with their numbers (`include/uapi/asm-generic/resource.h`).
const ULIMITS: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// Limit of open files: docker's own default.
const NOFILE: Rlimit = Rlimit {
    resource: 7,
    soft: 1_048_576,
    hard: 1_048_576,
};

/// Applies the `--ulimit` flags to the defaults.
pub(crate) fn ulimits(flags: &[String]) -> Result<Vec<Rlimit>, LimitsError> {
    let mut limits = vec![NOFILE];
    for flag in flags {
        let limit = parse_ulimit(flag)?;
        limits.retain(|known| known.resource != limit.resource);
        limits.push(limit);
    }
    Ok(limits)
}

fn parse_ulimit(flag: &str) -> Result<Rlimit, LimitsError> {
    let wrong = || LimitsError::Ulimit(flag.into());
    let (name, values) = flag.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse::<u64>().map_err(|_| wrong()),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    let Some((_, resource)) = ULIMITS.iter().find(|(known, _)| *known == name) else {
        return Err(LimitsError::UlimitName(name.into()));
    };
    if soft > hard {
        return Err(LimitsError::UlimitOrder(flag.into()));
    }
    Ok(Rlimit {
        resource: *resource,
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(flags: &[&str]) -> RunArgs {
        let words = ["capsid", "run"].iter().chain(flags).chain(&["image"]);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => *args,
            _ => unreachable!(),
        }
    }

    #[test]
    fn memory_and_swap_are_dockers() {
        let (limits, machine) = resolve(&args(&["-m", "64m"]), 4, None).unwrap();
        assert_eq!(
            (limits.memory_max_bytes, limits.swap_max_bytes),
            (Some(64 << 20), Some(64 << 20))
        );
        assert_eq!(
            machine,
            MachineSize {
                vcpus: 1,
                memory_mib: 192
            }
        );
        let (limits, _) = resolve(&args(&["-m", "64m", "--memory-swap", "100m"]), 4, None).unwrap();
        assert_eq!(limits.swap_max_bytes, Some(36 << 20));
        let (limits, _) = resolve(&args(&["-m", "64m", "--memory-swap", "-1"]), 4, None).unwrap();
        assert_eq!(limits.swap_max_bytes, None);
        assert_eq!(resolve(&args(&["-m", "1m"]), 4, None), Err(LimitsError::MemoryTooSmall));
        assert_eq!(
            resolve(&args(&["--memory-swap", "1g"]), 4, None),
            Err(LimitsError::SwapWithoutMemory)
        );
        assert_eq!(
            resolve(&args(&["-m", "64m", "--memory-reservation", "65m"]), 4, None),
            Err(LimitsError::ReservationOverMemory)
        );
        let (limits, _) = resolve(&args(&["-m", "64m", "--memory-reservation", "32m"]), 4, None).unwrap();
        assert_eq!(limits.memory_low_bytes, Some(32 << 20));
        assert_eq!(
            resolve(&args(&["-m", "1g", "--memory-swap", "64m"]), 4, None),
            Err(LimitsError::SwapBelowMemory)
        );
    }

    #[test]
    fn vcpus_follow_cpus_and_cpuset() {
        let vcpus = |flags: &[&str]| resolve(&args(flags), 4, None).map(|(_, m)| m.vcpus);
        assert_eq!(vcpus(&["--cpus", "0.5"]), Ok(1));
        assert_eq!(vcpus(&["--cpus", "2.5"]), Ok(3));
        assert_eq!(vcpus(&["--cpuset-cpus", "0,2"]), Ok(3));
        assert_eq!(vcpus(&["--vcpus", "8", "--cpus", "8"]), Ok(8));
        assert!(matches!(
            vcpus(&["--vcpus", "1", "--cpus", "2"]),
            Err(LimitsError::CpusOverVcpus { .. })
        ));
        assert!(matches!(
            vcpus(&["--cpuset-cpus", "9"]),
            Err(LimitsError::CpusetOverVcpus { .. })
        ));
        assert!(matches!(vcpus(&["--cpuset-cpus", "2-1"]), Err(LimitsError::Cpuset(_))));
    }

    #[test]
    fn ulimits_replace_defaults() {
        let limits = ulimits(&["nofile=10:20".into(), "core=-1".into()]).unwrap();
        assert_eq!(
            limits[0],
            Rlimit {
                resource: 7,
                soft: 10,
                hard: 20
            }
        );
        assert_eq!(
            limits[1],
            Rlimit {
                resource: 4,
                soft: u64::MAX,
                hard: u64::MAX
            }
        );
        assert!(ulimits(&["nofile=20:10".into()]).is_err());
        assert!(ulimits(&["files=1".into()]).is_err());
        assert!(ulimits(&["nofile".into()]).is_err());
    }
}
