//! Plan of a pod: its parts, and the parts that its containers take from it. Also pure.

use std::net::IpAddr;
use std::path::PathBuf;

use capsid_protocol::spec::{Limits, Pod as PodSpec};

use super::binds::FoundSource;
use super::limits::{self, LimitsError};
use super::mounts::{self, MountError};
use super::network::{self, Found};
use super::sysctl::{self, Owner};
use super::volumes::{self, VolumeSources, Wanted};
use super::{PlanError, PodCreateRequest, check_labels, check_name};
use crate::cli::{PodCreateArgs, RunArgs};
use crate::model::{AccelChoice, PodConfig, PodLimits, ShareMount};

/// Namespaces that are always shared: a machine has one network, and the others depend on it.
const ALWAYS: [&str; 3] = ["ipc", "net", "uts"];

/// Reason why there is no such pod, or no such container in it.
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
    #[error(
        "a pod's machine cannot be given {0} once it is there: give it to `capsid pod create -v`, for all its containers"
    )]
    Bind(String),
    #[error("a pod cannot have {0}: only named volumes and bind mounts, which all its containers have")]
    Mount(String),
    #[error("cannot mount what was asked for")]
    Mounts(#[from] MountError),
    #[error("invalid limit")]
    Limits(#[from] LimitsError),
    #[error("invalid shared memory")]
    Shm(#[source] MountError),
}

/// Inputs of a pod's plan beside its flags.
#[derive(Debug, Clone)]
pub(crate) struct PodSurroundings {
    /// Id of the pod, 64 hexadecimal digits.
    pub id: String,
    pub accelerator: AccelChoice,
    /// Absolute path of the user's own kernel.
    pub kernel: Option<PathBuf>,
    /// Number of the host's CPUs.
    pub host_cpus: usize,
    /// Sources of its bind mounts, one for each in the order of [`PodCreateRequest::binds`].
    pub found: Vec<FoundSource>,
    /// Most bind mounts that its machine has room for.
    pub room: usize,
    /// Existing networks among those of [`PodCreateRequest::user_networks`].
    pub networks: Found,
    /// Address at which others reach this host.
    pub host_address: Option<IpAddr>,
}

/// Parses the pod's mounts.
pub(super) fn wanted(args: &PodCreateArgs) -> Result<Vec<Wanted>, PodError> {
    let wanted = mounts::wanted(&[], &args.volume, &args.mount)?;
    let refused = wanted.iter().find_map(|one| match one {
        Wanted::Volume { name: None, target, .. } => Some(format!("the volume without a name at {target}")),
        Wanted::Tmpfs(mount, _) => Some(format!("the tmpfs at {}", mount.target)),
        Wanted::Volume { .. } | Wanted::Bind(_) => None,
    });
    refused.map_or(Ok(wanted), |what| Err(PodError::Mount(what)))
}

/// Computes the plan of a pod of that name.
pub(crate) fn pod(request: &PodCreateRequest, name: &str, around: PodSurroundings) -> Result<PodConfig, PlanError> {
    let args = &request.flags;
    check_name(name)?;
    check_labels(&args.label)?;
    // Reported now, not by the first container.
    sysctl::resolve(&args.sysctl, Owner::Pod)?;
    let (limits, machine) = limits::resolve_pod(args, around.host_cpus).map_err(PodError::Limits)?;
    let id = around.id.clone();
    let sources = VolumeSources {
        found: around.found,
        container: around.id,
        room: around.room,
        ..VolumeSources::default()
    };
    let network = network::resolve(&args.network, request.networks.as_ref(), &id, &[], &around.networks)?;
    let hosts = network::hosts(&args.network, network.as_ref(), around.host_address)?;
    let (volumes, shares) = volumes::resolve(&request.mounts, &[], sources).map_err(|e| PodError::Mounts(e.into()))?;
    Ok(PodConfig {
        machine,
        accelerator: around.accelerator,
        kernel: around.kernel,
        labels: args.label.clone(),
        hostname: super::hostname(args.hostname.as_deref(), name)?,
        shares_pids: shares_pids(&args.share)?,
        shm_bytes: mounts::shm_bytes(args.shm_size.as_deref()).map_err(PodError::Shm)?,
        sysctls: args.sysctl.clone(),
        limits,
        volumes,
        shares,
        network,
        hosts,
    })
}

/// Parses `ipc,net,uts` in any order, with or without `pid`, and returns whether `pid` is among them. The always shared
/// names may be left out after a `+`, podman's sign for "beside the default".
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
    // People write `--share pid` alone for "pid as well".
    let is_pid_alone = names == ["pid"];
    match ALWAYS.into_iter().find(|name| !names.contains(name)) {
        Some(missing) if !is_more && !is_pid_alone => Err(PodError::NotShared(missing)),
        _ => Ok(names.contains(&"pid")),
    }
}

/// Refuses flags that only a pod can have.
pub(super) fn check(args: &RunArgs, pod: &PodConfig) -> Result<(), PodError> {
    let refused = [
        ("--hostname", args.hostname.is_some()),
        ("--sysctl", !args.sysctl.is_empty()),
        ("--shm-size", args.shm_size.is_some()),
        ("--vcpus", args.vcpus.is_some()),
        ("--network", !args.network.network.is_empty()),
        ("--add-host", !args.network.add_host.is_empty()),
    ];
    if let Some(flag) = network::given(&args.network) {
        return Err(PodError::InPod(flag));
    }
    if let Some((flag, _)) = refused.into_iter().find(|(_, given)| *given) {
        return Err(PodError::InPod(flag));
    }
    let memory = limits::memory(args.memory.as_deref())?;
    match (memory, pod.limits.memory_max_bytes) {
        (Some(wanted), Some(limit)) if wanted > limit => Err(PodError::MemoryOverPod { wanted, limit }),
        _ => Ok(()),
    }
}

/// Refuses shares that the pod's machine was not given.
pub(super) fn check_shares(shares: &[ShareMount], pod: &PodConfig) -> Result<(), PodError> {
    let is_pods = |share: &&ShareMount| pod.shares.iter().any(|own| own.tag == share.tag);
    match shares.iter().find(|share| !is_pods(share)) {
        Some(share) => Err(PodError::Bind(share.source.clone())),
        None => Ok(()),
    }
}

/// Returns the agent's spec of the pod.
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
