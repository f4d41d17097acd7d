//! Inputs of a container's plan beside flags and image: files, variables, the terminal, and the state's pods, networks
//! and other containers. Nothing is created or changed.

use anyhow::Context as _;

use crate::folders::Folders;
use crate::model::{AccelChoice, Pod, ShareMount, VolumeMount};
use crate::plan::{self, Found, RunRequest, SeccompChoice, Surroundings, VOLUMES_MAX, VolumeSources};
use crate::state::{State, StateError};
use crate::{id, network, shares, terminal};

/// Largest `--env-file` and seccomp profile, bytes: the spec that carries them is at most 4 MiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Number of disks that every machine has: root and scratch disk.
const OWN_DISKS: usize = 2;

/// Resolves `--env-file` and `-e`: files first, as docker does.
pub(crate) fn user_env(files: &[std::path::PathBuf], flags: &[String]) -> anyhow::Result<Vec<String>> {
    let own = |name: &str| std::env::var(name).ok();
    let mut variables = Vec::new();
    for path in files {
        let text = read_text(path).context("cannot read --env-file")?;
        variables.extend(plan::parse_file(&text, own)?);
    }
    for flag in flags {
        variables.extend(plan::parse_flag(flag, own)?);
    }
    Ok(variables)
}

/// Finds the user-defined networks that flags name; missing ones are left out.
pub(crate) fn user_networks(wanted: &[&str], state: &State) -> anyhow::Result<Found> {
    let mut found = Found::new();
    for &wanted in wanted {
        match state.find_network(wanted) {
            Err(StateError::UnknownNetwork(_)) => {}
            network => drop(found.insert(wanted.into(), network?)),
        }
    }
    Ok(found)
}

/// Collects the inputs, for a machine of this accelerator that has room for so many disks, or for a pod.
pub(crate) fn collect(
    request: &RunRequest,
    state: &State,
    folders: &Folders,
    (accelerator, disks_max): (AccelChoice, usize),
    pod: Option<&Pod>,
) -> anyhow::Result<Surroundings> {
    let args = &request.flags;
    let user_env = user_env(&args.env_file, &args.env)?;
    let seccomp_profile = match &request.security.seccomp {
        SeccompChoice::File(path) => Some(read_text(path).context("cannot read the seccomp profile")?.into_bytes()),
        SeccompChoice::Default | SeccompChoice::Unconfined => None,
    };
    let (from, shares_from) = volumes_from(&request.volumes_from, state)?;
    let kernel = match pod {
        Some(pod) => pod.config.kernel.clone(),
        None => args.kernel.as_ref().map(std::path::absolute).transpose()?,
    };
    let id = id::new()?;
    Ok(Surroundings {
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        accelerator,
        kernel,
        user_env,
        seccomp_profile,
        terminal: terminal::size(),
        volumes: VolumeSources {
            from,
            shares_from,
            of_pod: pod.map_or_else(Default::default, |pod| {
                (pod.config.volumes.clone(), pod.config.shares.clone())
            }),
            found: shares::look(&request.binds(), folders)?,
            container: id.clone(),
            new_names: (0..VOLUMES_MAX).map(|_| id::new()).collect::<Result<_, _>>()?,
            room: disks_max.saturating_sub(OWN_DISKS),
        },
        pod: pod.map(|pod| pod.config.clone()),
        networks: user_networks(&request.user_networks(), state)?,
        host_address: network::host_address(),
        id,
    })
}

/// Returns the mounts of `--volumes-from`; as in docker, the last one wins a path.
fn volumes_from(containers: &[(String, bool)], state: &State) -> anyhow::Result<(Vec<VolumeMount>, Vec<ShareMount>)> {
    let mut volumes: Vec<VolumeMount> = Vec::new();
    let mut shares: Vec<ShareMount> = Vec::new();
    for (name, readonly) in containers {
        let config = state.find(name)?.config;
        for mut mount in config.mounts {
            mount.readonly |= readonly;
            volumes.retain(|known| known.target != mount.target);
            shares.retain(|known| known.target != mount.target);
            volumes.push(mount);
        }
        for mut share in config.shares {
            share.readonly |= readonly;
            volumes.retain(|known| known.target != share.target);
            shares.retain(|known| known.target != share.target);
            shares.push(share);
        }
    }
    Ok((volumes, shares))
}

fn read_text(path: &std::path::Path) -> anyhow::Result<String> {
    let bytes = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if bytes > FILE_BYTES_MAX {
        anyhow::bail!(
            "{}: {bytes} bytes are over the limit of {FILE_BYTES_MAX}",
            path.display()
        );
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
