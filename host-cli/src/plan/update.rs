//! Update of a container's limits by flags (`update`).

use capsid_protocol::spec::Limits;

use super::limits::{self, LimitsError};
use crate::cli::UpdateArgs;
use crate::model::MachineSize;

/// Reason why limits are not changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error("nothing to change: name a limit or --restart")]
    Nothing,
    #[error("{flag} is more than the running machine has ({has}): stop the container, update it, and start it again")]
    OverMachine { flag: String, has: String },
}

/// Limits after a change.
#[derive(Debug, PartialEq)]
pub(crate) struct Changed {
    /// Changes for the agent: only limits that change; `u64::MAX` removes a limit.
    pub changes: Limits,
    /// All limits of the container after the change.
    pub limits: Limits,
    /// Size of the machine that has room for the limits: larger than before only when nothing runs.
    pub machine: MachineSize,
}

/// Computes the changes that the flags ask for.
pub(crate) fn update(
    args: &UpdateArgs,
    before: &Limits,
    machine: MachineSize,
    is_running: bool,
) -> Result<Changed, UpdateError> {
    let mut changes = Limits::default();
    if args.memory.is_some() || args.memory_swap.is_some() {
        let memory = limits::memory(args.memory.as_deref())?.or(before.memory_max_bytes);
        let swap = limits::swap(args.memory_swap.as_deref(), memory)?;
        changes.memory_max_bytes = args.memory.as_ref().and(memory);
        changes.swap_max_bytes = Some(swap.unwrap_or(u64::MAX));
    }
    if args.memory_reservation.is_some() {
        let memory = changes.memory_max_bytes.or(before.memory_max_bytes);
        let low = limits::reservation(args.memory_reservation.as_deref(), memory)?;
        changes.memory_low_bytes = Some(low.unwrap_or(0));
    }
    let cpus = args.cpus.as_deref().map(limits::parse_cpus).transpose()?;
    changes.cpu_quota_us = cpus.map(|cpus| cpus.map_or(u64::MAX, limits::quota));
    let last_cpu = args.cpuset_cpus.as_deref().map(limits::parse_cpuset).transpose()?;
    changes.cpuset_cpus = args.cpuset_cpus.clone();
    let pids = args.pids_limit.map(|limit| limits::pids(Some(limit))).transpose()?;
    changes.pids_max = pids.map(|limit| limit.unwrap_or(u64::MAX));
    changes.cpu_weight = args.cpu_shares.map(limits::weight).transpose()?;
    if changes == Limits::default() && args.restart.is_none() {
        return Err(UpdateError::Nothing);
    }
    let wanted_vcpus = [
        cpus.flatten().map(|cpus| cpus.ceil() as u32),
        last_cpu.map(|cpu| cpu + 1),
    ];
    let vcpus = wanted_vcpus.into_iter().flatten().max().unwrap_or(0);
    let machine = grow(args, &changes, machine, vcpus, is_running)?;
    Ok(Changed {
        limits: merge(before, &changes),
        changes,
        machine,
    })
}

/// Enlarges the machine where necessary and permitted.
fn grow(
    args: &UpdateArgs,
    changes: &Limits,
    machine: MachineSize,
    vcpus: u32,
    is_running: bool,
) -> Result<MachineSize, UpdateError> {
    let over = |flag: &str, value: &Option<String>, has: String| UpdateError::OverMachine {
        flag: format!("--{flag} {}", value.clone().unwrap_or_default()),
        has,
    };
    let needed_mib = changes
        .memory_max_bytes
        .map(limits::machine_mib)
        .transpose()?
        .unwrap_or(0);
    if needed_mib > machine.memory_mib && is_running {
        let has = format!("{} MiB, the guest's kernel included", machine.memory_mib);
        return Err(over("memory", &args.memory, has));
    }
    if vcpus > u32::from(machine.vcpus) && is_running {
        let (flag, value) = match &args.cpus {
            Some(_) => ("cpus", &args.cpus),
            None => ("cpuset-cpus", &args.cpuset_cpus),
        };
        return Err(over(flag, value, format!("{} vCPUs", machine.vcpus)));
    }
    if vcpus > limits::VCPUS_MAX {
        return Err(LimitsError::Cpuset(args.cpuset_cpus.clone().unwrap_or_default()).into());
    }
    Ok(MachineSize {
        vcpus: machine.vcpus.max(vcpus as u8),
        memory_mib: machine.memory_mib.max(needed_mib),
    })
}

fn merge(before: &Limits, changes: &Limits) -> Limits {
    let pick = |new: Option<u64>, old: Option<u64>| match new {
        None => old,
        Some(u64::MAX) => None,
        limit => limit,
    };
    Limits {
        memory_max_bytes: pick(changes.memory_max_bytes, before.memory_max_bytes),
        swap_max_bytes: pick(changes.swap_max_bytes, before.swap_max_bytes),
        cpu_quota_us: pick(changes.cpu_quota_us, before.cpu_quota_us),
        cpuset_cpus: changes.cpuset_cpus.clone().or_else(|| before.cpuset_cpus.clone()),
        pids_max: pick(changes.pids_max, before.pids_max),
        cpu_weight: pick(changes.cpu_weight, before.cpu_weight),
        memory_low_bytes: changes
            .memory_low_bytes
            .or(before.memory_low_bytes)
            .filter(|low| *low > 0),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, ContainerCommand};

    fn changed(flags: &[&str], is_running: bool) -> Result<Changed, UpdateError> {
        let words = ["capsid", "update"].iter().chain(flags).chain(&["web"]);
        let Command::Top(ContainerCommand::Update(args)) = Cli::try_parse_from(words).unwrap().command else {
            unreachable!()
        };
        let before = Limits {
            memory_max_bytes: Some(64 << 20),
            swap_max_bytes: Some(64 << 20),
            pids_max: Some(10),
            ..Limits::default()
        };
        let machine = MachineSize {
            vcpus: 1,
            memory_mib: 192,
        };
        update(&args, &before, machine, is_running)
    }

    #[test]
    fn flags_change_what_they_name_and_nothing_else() {
        let done = changed(&["-m", "32m", "--pids-limit", "-1", "--cpu-shares", "1024"], true).unwrap();
        assert_eq!(done.changes.memory_max_bytes, Some(32 << 20));
        assert_eq!((done.changes.pids_max, done.limits.pids_max), (Some(u64::MAX), None));
        assert_eq!(done.limits.cpu_weight, Some(39));
        let done = changed(&["--cpus", "0.5"], true).unwrap();
        assert_eq!(
            (done.limits.cpu_quota_us, done.limits.memory_max_bytes),
            (Some(50_000), Some(64 << 20))
        );
        assert_eq!(done.changes.memory_max_bytes, None);
        assert_eq!(changed(&[], true), Err(UpdateError::Nothing));
        assert!(changed(&["--restart", "always"], true).is_ok());
        assert!(matches!(
            changed(&["-c", "1"], true),
            Err(UpdateError::Limits(LimitsError::Shares(1)))
        ));
    }

    #[test]
    fn a_machine_grows_only_while_it_does_not_run() {
        assert!(matches!(
            changed(&["-m", "1g"], true),
            Err(UpdateError::OverMachine { .. })
        ));
        assert!(matches!(
            changed(&["--cpus", "2"], true),
            Err(UpdateError::OverMachine { .. })
        ));
        let done = changed(&["-m", "1g", "--cpus", "2"], false).unwrap();
        assert_eq!((done.machine.vcpus, done.machine.memory_mib), (2, 1152));
    }
}
