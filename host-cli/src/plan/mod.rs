//! Plan of a container: image config and flags become a complete container spec and the size of its machine.
//!
//! Computed by a pure function: all inputs from outside (files, variables, the terminal) are in [`Surroundings`]. This
//! module is the only place that knows both an image config and a machine.

mod binds;
mod capability;
mod choice;
mod declared;
mod devices;
mod egress;
mod environment;
mod health;
mod limits;
mod logging;
mod mounts;
mod network;
mod pod;
mod ports;
mod request;
mod security;
mod signal;
pub(crate) mod size;
mod subnets;
mod sysctl;
#[cfg(test)]
mod tests;
mod update;
mod user;
mod volumes;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use capsid_image::{Healthcheck, ImageConfig, ParsePlatformError, Platform};
use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::{File, Root, TerminalSize};

pub(crate) use binds::{Bind, FoundSource};
pub(crate) use choice::{connection as network_connection, user_network};
pub(crate) use environment::{parse_file, parse_flag};
pub(crate) use network::{Found, place as network_place};
pub(crate) use pod::{PodSurroundings, pod};
pub(crate) use request::{PodCreateRequest, RunRequest};
pub(crate) use security::{SeccompChoice, SecurityOptions};

pub(crate) use signal::{name as signal_name, parse as parse_signal};
pub(crate) use subnets::subnets;
pub(crate) use update::update;
pub(crate) use user::check as check_user;
pub(crate) use volumes::{VOLUMES_MAX, VolumeSources};

use crate::cli::RunArgs;
use crate::model::{AccelChoice, ContainerConfig, PodConfig};
use crate::{labels, seccomp};

use mounts::Mounts;
use sysctl::Owner;

/// Serial of the rootfs disk.
pub(crate) const ROOTFS_SERIAL: &str = "capsid-rootfs";
/// Serial of the scratch disk.
pub(crate) const SCRATCH_SERIAL: &str = "capsid-scratch";
/// Most bytes of arguments and environment together. docker's limit is the kernel's; this one keeps the spec in one
/// frame.
const STRINGS_BYTES_MAX: usize = 2 << 20;

/// Returns all capabilities, for `--privileged`.
pub(crate) fn all_capabilities() -> u64 {
    crate::capability::ALL
}

/// Default time between the stop signal and SIGKILL, seconds: docker's.
const STOP_TIMEOUT_S: u64 = 10;

/// Inputs of the plan beside flags and image.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// Id of the container, 64 hexadecimal digits.
    pub id: String,
    /// Number of the host's CPUs.
    pub host_cpus: usize,
    /// Accelerator of the machine.
    pub accelerator: AccelChoice,
    /// Absolute path of the user's own kernel, or of the pod's.
    pub kernel: Option<PathBuf>,
    /// Variables of `--env-file` and `-e`, read and resolved.
    pub user_env: Vec<String>,
    /// Text of the seccomp profile when the user named one.
    pub seccomp_profile: Option<Vec<u8>>,
    /// Size of the user's terminal, when stdin or stdout is one.
    pub terminal: Option<TerminalSize>,
    /// Sources of volumes beside flags and image.
    pub volumes: VolumeSources,
    /// Pod that the container goes into.
    pub pod: Option<PodConfig>,
    /// Existing networks among those of [`RunRequest::user_networks`].
    pub networks: Found,
    /// Address at which others reach this host.
    pub host_address: Option<IpAddr>,
}

/// Plan of a container, complete: what the agent carries out, and what the rows of the container and its pod keep.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub spec: ContainerSpec,
    pub config: ContainerConfig,
    /// Configuration of the container's pod: of the implicit one, or of that which it goes into.
    pub pod: PodConfig,
}

/// Reason why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("no image given")]
    NoImage,
    #[error("the image name {0:?} is not text")]
    Image(OsString),
    #[error(transparent)]
    Platform(#[from] ParsePlatformError),
    #[error("nothing for platform {wanted} runs here: this machine runs {here}")]
    ForeignPlatform { wanted: String, here: String },
    #[error("no command: the image has none, and none was given")]
    NoCommand,
    #[error("invalid hostname {0:?}: up to 63 letters, digits, hyphens and dots")]
    Hostname(String),
    #[error("the working directory {0:?} is not absolute")]
    WorkingDirectory(String),
    #[error("exec: \"\": executable file not found in $PATH: the command begins with an empty word")]
    EmptyProgram,
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    #[error(transparent)]
    User(#[from] user::UserError),
    #[error("invalid name {0:?}: use two or more letters, digits, and after the first one _ . -")]
    Name(String),
    #[error("invalid --label {0:?}: the key is empty")]
    Label(String),
    #[error("arguments and environment take {0} bytes, more than {STRINGS_BYTES_MAX}")]
    TooLong(usize),
    #[error("invalid limit")]
    Limits(#[from] limits::LimitsError),
    #[error("cannot mount what was asked for")]
    Mounts(#[from] mounts::MountError),
    #[error("invalid capability")]
    Capability(#[from] capability::CapabilityError),
    #[error(transparent)]
    Device(#[from] devices::DeviceError),
    #[error("invalid security option")]
    Security(#[from] security::SecurityError),
    #[error("invalid stop signal")]
    Signal(#[from] signal::SignalError),
    #[error("invalid log option")]
    Log(#[from] logging::LogError),
    #[error(transparent)]
    Choice(#[from] choice::ChoiceError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error("--rm and --restart together: a container that is removed cannot be started again")]
    RemovedAndRestarted,
    #[error(transparent)]
    Pod(#[from] pod::PodError),
    #[error("invalid seccomp profile")]
    Seccomp(#[from] seccomp::SeccompError),
    #[error(transparent)]
    Health(#[from] health::HealthError),
}

/// Checks all flags before there is an image: plans for an empty image with a command.
pub(crate) fn check(request: &RunRequest, around: Surroundings) -> Result<(), PlanError> {
    let image = ImageConfig {
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        user: String::new(),
        working_dir: String::new(),
        stop_signal: None,
        volumes: Vec::new(),
        labels: Default::default(),
        exposed_ports: Vec::new(),
        shell: Vec::new(),
        healthcheck: Healthcheck::default(),
        platform: Platform::host(),
        created: None,
        diff_ids: Vec::new(),
    };
    // The user's command may begin with an empty word where the image has an entrypoint.
    let command = [&[b"true".to_vec()], &request.command[..]].concat();
    plan_command(request, &command, &image, around).map(drop)
}

/// Computes the plan of a container.
pub(crate) fn plan(request: &RunRequest, image: &ImageConfig, around: Surroundings) -> Result<Plan, PlanError> {
    plan_command(request, &request.command, image, around)
}

fn plan_command(
    request: &RunRequest,
    command: &[Vec<u8>],
    image: &ImageConfig,
    around: Surroundings,
) -> Result<Plan, PlanError> {
    let args = &request.flags;
    let pod = around.pod.as_ref();
    pod.map_or(Ok(()), |pod| pod::check(args, pod))?;
    let options = &request.security;
    let hostname = match pod {
        Some(pod) => pod.hostname.clone(),
        None => hostname(
            args.hostname.as_deref(),
            &around.id.chars().take(12).collect::<String>(),
        )?,
    };
    let capabilities = request.capabilities;
    let (limits, machine) = limits::resolve(args, around.host_cpus, pod.map(|pod| pod.machine))?;
    let (masked_paths, readonly_paths) = mounts::system_paths(options.open_system_paths);
    let Mounts {
        mounts,
        volumes,
        shares,
    } = mounts::resolve(request, &image.volumes, around.volumes, pod.is_some(), machine)?;
    pod.map_or(Ok(()), |pod| pod::check_shares(&shares, pod))?;
    let (network, hosts) = match pod {
        Some(pod) => (None, pod.hosts.clone()),
        None => {
            let choice = request.networks.as_ref();
            let exposed = &image.exposed_ports;
            let network = network::resolve(&args.network, choice, &around.id, exposed, &around.networks)?;
            let hosts = network::hosts(&args.network, network.as_ref(), around.host_address)?;
            (network, hosts)
        }
    };
    let has_network = network.is_some() || pod.is_some_and(|pod| pod.network.is_some());
    let mut own_files = files(&hostname, &hosts, has_network);
    // A file that the user mounts at the same path takes precedence.
    own_files.retain(|file| mounts.iter().all(|mount| mount.target != file.path));
    let terminal = args
        .tty
        .then(|| around.terminal.unwrap_or(TerminalSize { rows: 24, columns: 80 }));
    let spec = ContainerSpec {
        args: arguments(args, command, image)?,
        env: environment::compose(&hostname, args.tty, &image.env, &around.user_env),
        cwd: working_directory(args, image)?,
        user: args.user.clone().unwrap_or_else(|| image.user.clone()),
        files: own_files,
        hostname,
        root: Root {
            rootfs_serial: ROOTFS_SERIAL.into(),
            scratch_serial: SCRATCH_SERIAL.into(),
            readonly: args.read_only,
        },
        terminal,
        stdin: args.interactive,
        mounts,
        devices: devices::usual(),
        guest_devices: request.devices.clone(),
        masked_paths,
        readonly_paths,
        limits,
        capabilities,
        no_new_privs: options.no_new_privileges,
        seccomp: match (&options.seccomp, &around.seccomp_profile) {
            (SeccompChoice::Unconfined, _) => Vec::new(),
            (_, Some(profile)) => seccomp::compile_profile(profile, capabilities)?,
            (_, None) => seccomp::compile_default(capabilities),
        },
        rlimits: request.rlimits.clone(),
        sysctls: match pod {
            None => sysctl::resolve(&args.sysctl, Owner::Container)?,
            Some(pod) => sysctl::resolve(&pod.sysctls, Owner::Pod)?,
        },
        init: args.init,
        additional_groups: args.group_add.clone(),
        all_devices: args.privileged,
        id: around.id,
        // Data written to a volume or to the host is kept: then the end is reported only after it is written.
        discards_disks: args.rm && volumes.is_empty() && shares.is_empty() && pod.is_none(),
        // Known when the disks are plugged.
        slots: Vec::new(),
        pod: pod.map(pod::spec),
        // Known when the machine is started.
        network: None,
    };
    let strings: usize = spec.args.iter().chain(&spec.env).map(Vec::len).sum();
    if strings > STRINGS_BYTES_MAX {
        return Err(PlanError::TooLong(strings));
    }
    let stop_signal = match request.stop_signal {
        Some(number) => number,
        None => signal::parse(image.stop_signal.as_deref().unwrap_or("TERM"))?,
    };
    let pod = around.pod.unwrap_or_else(|| PodConfig {
        kernel: around.kernel,
        shares: shares.clone(),
        network,
        ..PodConfig::implicit(machine, around.accelerator, spec.hostname.clone())
    });
    let config = ContainerConfig {
        labels: labels::overlay(&image.labels, &args.label),
        stop_signal,
        stop_timeout_s: args.stop_timeout.unwrap_or(STOP_TIMEOUT_S),
        remove: args.rm,
        stdin_once: args.interactive && !args.detach,
        restart: args.restart,
        was_stopped: false,
        log: request.log,
        health: health::health(args, image)?,
        mounts: volumes,
        shares,
        declared: Some(declared::declared(args, command, image)),
    };
    Ok(Plan { spec, config, pod })
}

/// Combines entrypoint and command in docker's way: `--entrypoint` drops the image's command too; a command on the line
/// replaces the image's; and an entrypoint that is one empty word counts as none.
fn arguments(args: &RunArgs, command: &[Vec<u8>], image: &ImageConfig) -> Result<Vec<Vec<u8>>, PlanError> {
    let bytes = |words: &[String]| words.iter().map(|w| w.clone().into_bytes()).collect::<Vec<_>>();
    let (mut words, default_command) = match args.entrypoint.as_deref() {
        Some("") => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.as_bytes().to_vec()], Vec::new()),
        None if image.entrypoint == [""] => (Vec::new(), bytes(&image.cmd)),
        None => (bytes(&image.entrypoint), bytes(&image.cmd)),
    };
    words.extend(if command.is_empty() {
        default_command
    } else {
        command.to_vec()
    });
    match words.first() {
        None => Err(PlanError::NoCommand),
        // No folder of $PATH contains it, whatever the image: docker's error comes from the runtime.
        Some(program) if program.is_empty() => Err(PlanError::EmptyProgram),
        Some(_) => Ok(words),
    }
}

/// Returns the wanted host name, or else the default, which is always legal except for its length.
fn hostname(flag: Option<&str>, default: &str) -> Result<String, PlanError> {
    let Some(name) = flag else {
        return Ok(default.chars().take(63).collect());
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
        return Err(PlanError::Hostname(name.into()));
    }
    Ok(name.into())
}

fn working_directory(args: &RunArgs, image: &ImageConfig) -> Result<String, PlanError> {
    match args.workdir.as_deref().unwrap_or(&image.working_dir) {
        "" => Ok("/".into()),
        path if path.starts_with('/') => Ok(path.into()),
        path => Err(PlanError::WorkingDirectory(path.into())),
    }
}

/// Checks the name of a container.
pub(crate) fn check_name(name: &str) -> Result<(), PlanError> {
    let legal = |(i, c): (usize, char)| c.is_ascii_alphanumeric() || (i > 0 && "_.-".contains(c));
    if name.len() < 2 || name.len() > 255 || !name.chars().enumerate().all(legal) {
        return Err(PlanError::Name(name.into()));
    }
    Ok(())
}

/// Checks labels.
pub(crate) fn check_labels(labels: &[String]) -> Result<(), PlanError> {
    match labels.iter().find(|label| label.is_empty() || label.starts_with('=')) {
        Some(label) => Err(PlanError::Label(label.clone())),
        None => Ok(()),
    }
}

/// Returns the files that docker writes into every container. Lines about the container's network are added when the
/// network is known; without one, a container has only its loopback.
fn files(hostname: &str, added: &[(IpAddr, String)], has_network: bool) -> Vec<File> {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (address, name) in added {
        hosts += &format!("{address}\t{name}\n");
    }
    if !has_network {
        hosts += &format!("127.0.0.1\t{hostname}\n");
    }
    let file = |path: &str, text: String| File {
        path: path.into(),
        content: text.into_bytes(),
        mode: 0o644,
    };
    vec![
        file("/etc/hosts", hosts),
        file("/etc/hostname", format!("{hostname}\n")),
        file("/etc/resolv.conf", String::new()),
    ]
}
