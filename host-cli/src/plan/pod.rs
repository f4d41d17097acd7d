//! What a pod is made of, and what its containers take from it: also pure.

use capsid_protocol::spec::{Limits, Pod as PodSpec};

use super::limits::{self, LimitsError};
use super::mounts::{self, MountError};
use super::{PlanError, check_labels, check_name, sysctls};
use crate::cli::{AccelChoice, PodCreateArgs, RunArgs};
use crate::state::{PodConfig, PodLimits};

/// Namespaces that are always shared: a machine has one network, and the rest goes with it.
const ALWAYS: [&str; 3] = ["ipc", "net", "uts"];

/// Why there is no such pod, or no such container in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("a pod cannot share {0:?}: ipc, net and uts are always shared, and pid can be")]
    Share(String),
    #[error("a pod without shared {0} is not possible: its containers are in one microVM")]
    NotShared(&'static str),
    #[error("{0} is the pod's to say: give it to `capsid pod create`")]
    InPod(&'static str),
    #[error("--memory of {wanted} bytes is more than the {limit} bytes of the pod")]
    MemoryOverPod { wanted: u64, limit: u64 },
    #[error("bind mounts are not honoured yet in a pod: use a named volume")]
    Binds,
    #[error("invalid limit")]
    Limits(#[from] LimitsError),
    #[error("invalid shared memory")]
    Shm(#[source] MountError),
}

/// Makes the plan of a pod of that name.
pub(crate) fn pod(
    args: &PodCreateArgs,
    name: &str,
    accelerator: AccelChoice,
    host_cpus: usize,
) -> Result<PodConfig, PlanError> {
    check_name(name)?;
    check_labels(&args.label)?;
    // Said now, not by the first container.
    sysctls(&args.sysctl)?;
    let (limits, machine) = limits::resolve_pod(args, host_cpus).map_err(PodError::Limits)?;
    Ok(PodConfig {
        machine,
        accelerator,
        kernel: args.kernel.clone(),
        labels: args.label.clone(),
        hostname: super::hostname(args.hostname.as_deref(), name)?,
        shares_pids: shares_pids(&args.share)?,
        shm_bytes: mounts::shm_bytes(args.shm_size.as_deref()).map_err(PodError::Shm)?,
        sysctls: args.sysctl.clone(),
        limits,
    })
}

/// `ipc,net,uts` in any order, with or without `pid`; what is always shared may be left out after a `+`, podman's sign
/// for "beside the default".
fn shares_pids(list: &str) -> Result<bool, PodError> {
    let (names, is_more) = match list.strip_prefix('+') {
        Some(rest) => (rest, true),
        None => (list, false),
    };
    let names: Vec<&str> = names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if let Some(unknown) = names.iter().find(|name| !ALWAYS.contains(name) && **name != "pid") {
        return Err(PodError::Share((*unknown).into()));
    }
    // `--share pid` alone is what people write for "pid as well".
    let is_pid_alone = names == ["pid"];
    match ALWAYS.into_iter().find(|name| !names.contains(name)) {
        Some(missing) if !is_more && !is_pid_alone => Err(PodError::NotShared(missing)),
        _ => Ok(names.contains(&"pid")),
    }
}

/// Refuses what only a pod can say.
pub(super) fn check(args: &RunArgs, pod: &PodConfig) -> Result<(), PodError> {
    let refused = [
        ("--hostname", args.hostname.is_some()),
        ("--sysctl", !args.sysctl.is_empty()),
        ("--shm-size", args.shm_size.is_some()),
        ("--vcpus", args.vcpus.is_some()),
    ];
    if let Some((flag, _)) = refused.into_iter().find(|(_, given)| *given) {
        return Err(PodError::InPod(flag));
    }
    let memory = limits::memory(args.memory.as_deref())?;
    match (memory, pod.limits.memory_max_bytes) {
        (Some(wanted), Some(limit)) if wanted > limit => Err(PodError::MemoryOverPod { wanted, limit }),
        _ => Ok(()),
    }
}

/// What the agent is told of the pod.
pub(super) fn spec(pod: &PodConfig) -> PodSpec {
    PodSpec {
        shares_pids: pod.shares_pids,
        shm_bytes: pod.shm_bytes,
        limits: as_limits(&pod.limits),
    }
}

fn as_limits(limits: &PodLimits) -> Limits {
    Limits {
        memory_max_bytes: limits.memory_max_bytes,
        cpu_quota_us: limits.cpu_quota_us,
        pids_max: limits.pids_max,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_are_shared_when_asked_for() {
        for (list, expected) in [
            ("ipc,net,uts", false),
            ("net, uts,ipc,pid", true),
            ("pid", true),
            ("+pid", true),
        ] {
            assert_eq!(shares_pids(list).unwrap(), expected, "{list}");
        }
        assert!(matches!(shares_pids("ipc,net"), Err(PodError::NotShared("uts"))));
        assert!(matches!(shares_pids(""), Err(PodError::NotShared("ipc"))));
        assert!(matches!(shares_pids("+cgroup"), Err(PodError::Share(_))));
    }
}
