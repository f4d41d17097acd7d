//! Command line as typed: words, flags, help. `plan` decides what they mean.

mod boolean;
mod changes;
mod container;
mod empty;
mod files;
mod line;
mod network;
mod patience;
mod pod;
mod system;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use capsid_jail::Layer;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::detach::DetachKeys;
use crate::model::{AccelChoice, RestartPolicy};
pub(crate) use boolean::parse_bool;
pub(crate) use changes::{EventsArgs, PortArgs, UpdateArgs};
pub(crate) use container::{
    AttachArgs, ContainerCommand, ContainerInspectArgs, ExecArgs, KillArgs, LogsArgs, NameArgs, NamesArgs, ObjectKind,
    PruneArgs, PsArgs, RenameArgs, RmArgs, StartArgs, StatsArgs, StopArgs, SuperviseArgs,
};
pub(crate) use files::{CpArgs, ExportArgs};
pub(crate) use line::verb;
pub(crate) use network::{
    NetworkArgs, NetworkCommand, NetworkConnectArgs, NetworkCreateArgs, NetworkDisconnectArgs, NetworkInspectArgs,
    NetworkLsArgs, NetworkPruneArgs, NetworkRmArgs,
};
pub(crate) use pod::{
    PodCommand, PodCreateArgs, PodInspectArgs, PodLsArgs, PodNamesArgs, PodRmArgs, PodStatsArgs, PodStopArgs,
};
pub(crate) use system::{DfArgs, InfoArgs, SystemCommand, SystemPruneArgs};
pub(crate) use volume::{
    VolumeCommand, VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs,
};

/// Run untrusted container images, each pod inside a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "capsid",
    version,
    propagate_version = true,
    args_override_self = true,
    max_term_width = 100
)]
#[command(after_help = "Example:\n  capsid run --rm busybox echo hello")]
pub(crate) struct Cli {
    /// Folder of images and state [default: $XDG_DATA_HOME/capsid, as root /var/lib/capsid]
    #[arg(long, global = true, env = "CAPSID_DATA_DIR", value_name = "DIR", hide = true)]
    pub data_dir: Option<PathBuf>,

    /// Folder of sockets and locks [default: $XDG_RUNTIME_DIR/capsid, as root /run/capsid]
    #[arg(long, global = true, env = "CAPSID_RUN_DIR", value_name = "DIR", hide = true)]
    pub run_dir: Option<PathBuf>,

    /// Start nothing without these layers of confinement, as `landlock,userns,seccomp`; see `capsid doctor`
    #[arg(
        long,
        global = true,
        env = "CAPSID_REQUIRE",
        value_name = "LAYERS",
        value_delimiter = ','
    )]
    pub require: Vec<Layer>,

    #[command(subcommand)]
    pub command: Command,
}

/// Verbs of the command line.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container, in a microVM of its own
    #[command(
        disable_help_flag = true,
        override_usage = "capsid run [OPTIONS] IMAGE [COMMAND] [ARG...]",
        after_help = "Examples:\n  capsid run --rm busybox echo hello\n  capsid run --rm -it debian bash\n  \
                      echo hi | capsid run --rm -i busybox cat"
    )]
    Run(Box<RunArgs>),
    #[command(flatten)]
    Top(ContainerCommand),
    /// Manage containers
    #[command(subcommand, after_help = "Example:\n  capsid container ls -a")]
    Container(ContainerCommand),
    /// Manage pods of several containers, each pod in one microVM
    #[command(subcommand, after_help = "Example:\n  capsid pod create --name web")]
    Pod(PodCommand),
    /// Manage volumes: disks that outlive containers
    #[command(subcommand, after_help = "Example:\n  capsid volume ls")]
    Volume(VolumeCommand),
    /// Manage networks that containers and pods are on together
    #[command(subcommand, after_help = "Example:\n  capsid network ls")]
    Network(NetworkCommand),
    /// Look at and clean up all containers, images and volumes together
    #[command(subcommand, after_help = "Example:\n  capsid system df")]
    System(SystemCommand),
    /// Show what there is on this machine
    #[command(after_help = "Example:\n  capsid info --format '{{.ContainersRunning}}'")]
    Info(InfoArgs),
    /// Supervise a pod: started by `run` and `start`
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Download an image from a registry
    #[command(after_help = "Example:\n  capsid pull debian:12")]
    Pull(PullArgs),
    /// Load images from an archive or an OCI layout folder
    #[command(after_help = "Examples:\n  docker save app | capsid load\n  capsid load -i app.tar")]
    Load(LoadArgs),
    /// List images
    #[command(after_help = "Example:\n  capsid images --json")]
    Images(ImagesArgs),
    /// Manage images
    #[command(subcommand, after_help = "Example:\n  capsid image ls")]
    Image(ImageCommand),
    /// Remove images
    #[command(after_help = "Example:\n  capsid rmi busybox")]
    Rmi(RmiArgs),
    /// Say whether this host can run pods, and what to do where it cannot
    #[command(after_help = "Example:\n  capsid doctor")]
    Doctor(DoctorArgs),
    /// Show the version and the parts in use
    #[command(after_help = "Example:\n  capsid version --json")]
    Version(VersionArgs),
    /// Print a completion script
    #[command(after_help = "Example:\n  capsid completion bash > /etc/bash_completion.d/capsid")]
    Completion(CompletionArgs),
    /// Print the man page
    #[command(after_help = "Example:\n  capsid man | man -l -")]
    Man,
}

impl Command {
    /// Whether the exit code is a container's, or docker's code for the reason why there is none.
    pub(crate) fn has_dockers_codes(&self) -> bool {
        match self {
            Self::Run(_) => true,
            Self::Top(command) | Self::Container(command) => matches!(
                command,
                ContainerCommand::Create(_) | ContainerCommand::Exec(_) | ContainerCommand::Attach(_)
            ),
            _ => false,
        }
    }
}

/// Verbs of `capsid image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Show all that is known of images, as JSON
    #[command(after_help = "Example:\n  capsid image inspect busybox")]
    Inspect(InspectArgs),
    /// List images
    #[command(after_help = "Example:\n  capsid image ls --digests")]
    Ls(ImagesArgs),
    /// Download an image from a registry
    #[command(after_help = "Example:\n  capsid image pull debian:12")]
    Pull(PullArgs),
    /// Load images from an archive or an OCI layout folder
    #[command(after_help = "Example:\n  capsid image load -i app.tar")]
    Load(LoadArgs),
    /// Remove images
    #[command(after_help = "Example:\n  capsid image rm busybox")]
    Rm(RmiArgs),
}

/// Policy that decides when `run` pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Ask the registry at every run
    Always,
    /// Pull only when the image is not here
    Missing,
    /// Never pull
    Never,
}

/// Flags of `capsid run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    pub image_and_command: Vec<OsString>,

    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Put the container into a pod, which is started if it does not run
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// Set an environment variable; without a value it is taken from the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group, names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Additional group, name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Memory limit of the container
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory plus swap limit; -1 is unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that is reclaimed last, at most --memory
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Number of CPUs' worth of time
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Weight among the containers of a pod, 2 to 262144; 1024 is the ordinary one
    #[arg(short, long, value_name = "NUMBER")]
    pub cpu_shares: Option<u64>,
    /// CPUs of the machine to use, as 0-2 or 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Limit of processes and threads; -1 is unlimited
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Make the container's root read-only
    #[arg(long)]
    pub read_only: bool,
    /// Mount memory at a path
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Mount a volume, made when there is none of that name, or a folder or file of the host's; /path alone mounts a
    /// new volume
    #[arg(short, long, value_name = "NAME|/HOST/PATH:/PATH[:ro]")]
    pub volume: Vec<String>,
    /// Add a mount, as type=bind,source=/PATH,target=/PATH[,readonly], type=volume,source=NAME,target=/PATH[,readonly]
    /// [,volume-nocopy] or type=tmpfs,target=/PATH
    #[arg(long, value_name = "FIELDS")]
    pub mount: Vec<String>,
    /// Mount the volumes of another container
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub volumes_from: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices of the microVM, nothing of the host
    #[arg(long)]
    pub privileged: bool,
    /// Give the container a device of the microVM, as /dev/fuse or /dev/net/tun
    #[arg(long, value_name = "DEVICE[:PATH][:rwm]")]
    pub device: Vec<String>,
    /// no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Resource limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Kernel parameter of the microVM
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Run a small init that reaps orphans and forwards signals
    #[arg(long)]
    pub init: bool,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Policy for pulling the image
    #[arg(long, value_enum, default_value = "missing")]
    pub pull: PullPolicy,
    /// Platform of the image, as linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Accelerator that runs guest instructions
    #[arg(long, value_enum, env = "CAPSID_ACCEL")]
    pub accel: Option<AccelChoice>,
    /// Guest kernel: an ELF file with a PVH note
    #[arg(long, value_name = "FILE", env = "CAPSID_KERNEL")]
    pub kernel: Option<PathBuf>,
    /// Virtual CPUs of the microVM, 1 to 32
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: Option<u8>,
    /// Show where the time goes, on stderr
    #[arg(long)]
    pub timings: bool,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = boolean::value)]
    pub sig_proxy: bool,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Start the container again when it exits: no, on-failure[:RETRIES], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: RestartPolicy,
    /// Command that says by its exit code how healthy the container is
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,
    /// The longest a check may take [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,
    /// Time from the start in which failures do not count [default: 0s]
    #[arg(long, value_name = "TIME")]
    pub health_start_period: Option<String>,
    /// Failures in a row until the container is unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub health_retries: Option<u32>,
    /// No check, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever
    #[arg(long, value_name = "SECONDS", value_parser = patience::seconds, allow_negative_numbers = true)]
    pub stop_timeout: Option<u64>,
    /// Log driver that keeps the output: json-file, or none
    #[arg(long, value_name = "DRIVER", default_value = "json-file")]
    pub log_driver: String,
    /// max-size=BYTES or max-file=NUMBER of the log
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Do not show progress of a pull
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Flags of verbs that talk to registries.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArgs {
    /// Registry that may be talked to over plain HTTP, as host:port
    #[arg(
        long,
        value_name = "REGISTRY",
        env = "CAPSID_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    pub insecure_registry: Vec<String>,
}

/// Flags of `capsid pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Image, as busybox, debian:12 or registry:5000/name@sha256:...
    pub image: String,
    /// Platform, as linux/amd64
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print only the image's name
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Flags of `capsid load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Docker archive, OCI archive or OCI layout folder [default: stdin]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// Do not show progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `capsid images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// All images: the same list, as there are no intermediate ones
    #[arg(short, long, hide_short_help = true)]
    all: bool,
    /// Only images of this name
    pub image: Option<String>,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// With the digests that registries know them by
    #[arg(long)]
    pub digests: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only those with before=, since=, reference=, dangling=true|false, label=, label!=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.Repository}}:{{.Tag}}'; json; or 'table ' and columns
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<String>,
}

/// Flags of `capsid image inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names or ids
    #[arg(required = true)]
    pub images: Vec<String>,
    /// A line each, as '{{.Id}}'; json
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid rmi`.
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Names or ids
    #[arg(required = true)]
    pub images: Vec<String>,
    /// Also when an id has several names, or stopped containers were made from it: these keep it, without a name
    #[arg(short, long)]
    pub force: bool,
}

/// Flags of `capsid doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Examine for this accelerator
    #[arg(long, value_enum, env = "CAPSID_ACCEL")]
    pub accel: Option<AccelChoice>,
    /// Guest kernel to examine
    #[arg(long, value_name = "FILE", env = "CAPSID_KERNEL")]
    pub kernel: Option<PathBuf>,
}

/// Flags of `capsid version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Format of the output, as '{{.Server.Version}}'; json
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<String>,
}

/// Flags of `capsid completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// Flags of `docker run` that Capsid does not honor yet: refused by name, never ignored.
pub(crate) const NOT_YET: &[&str] = &[
    "--annotation",
    "--attach",
    "-a",
    "--blkio-weight",
    "--blkio-weight-device",
    "--cgroup-parent",
    "--cgroupns",
    "--cpu-count",
    "--cpu-percent",
    "--cpu-period",
    "--cpu-quota",
    "--cpu-rt-period",
    "--cpu-rt-runtime",
    "--cpuset-mems",
    "--device-cgroup-rule",
    "--device-read-bps",
    "--device-read-iops",
    "--device-write-bps",
    "--device-write-iops",
    "--disable-content-trust",
    "--domainname",
    "--gpus",
    "--health-start-interval",
    "--io-maxbandwidth",
    "--io-maxiops",
    "--ipc",
    "--isolation",
    "--kernel-memory",
    "--label-file",
    "--link",
    "--link-local-ip",
    "--memory-swappiness",
    "--oom-kill-disable",
    "--oom-score-adj",
    "--pid",
    "--runtime",
    "--storage-opt",
    "--use-api-socket",
    "--userns",
    "--uts",
    "--volume-driver",
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn without_example(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if !command.is_hide_set() && !help.starts_with("Example") {
            found.push(path.clone());
        }
        command
            .get_subcommands()
            .for_each(|below| without_example(below, &path, found));
    }

    #[test]
    fn refused_flags_are_documented() {
        let page = include_str!("../../docs/docker-flags.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `-"));
        let documented: Vec<String> = rows
            .filter_map(|row| Some(format!("-{}", row.split_once('`')?.0)))
            .collect();
        assert_eq!(documented, NOT_YET);
    }

    #[test]
    fn every_verb_has_an_example() {
        let mut found = Vec::new();
        without_example(&Cli::command(), "", &mut found);
        assert!(found.is_empty(), "no example: {found:?}");
    }
}
