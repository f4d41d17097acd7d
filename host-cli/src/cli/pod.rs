//! Verbs of `capsid pod`: podman's.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{NetworkArgs, patience};
use crate::model::AccelChoice;

/// Verbs of `capsid pod`.
#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// Make a pod: containers in it share a microVM, its network, ipc and host name
    #[command(
        after_help = "Examples:\n  capsid pod create --name web\n  capsid run -d --pod web --name db postgres\n  \
                            capsid run -d --pod web --name app app\n  \
                            capsid pod create --name site -v ./pages:/srv:ro"
    )]
    Create(Box<PodCreateArgs>),
    /// List pods
    #[command(
        visible_alias = "ps",
        alias = "list",
        after_help = "Example:\n  capsid pod ls --format '{{.Name}} {{.Status}}'"
    )]
    Ls(PodLsArgs),
    /// Show all that is known of pods, as JSON
    #[command(after_help = "Example:\n  capsid pod inspect web")]
    Inspect(PodInspectArgs),
    /// Start pods and all containers in them
    #[command(after_help = "Example:\n  capsid pod start web")]
    Start(PodNamesArgs),
    /// Stop pods: all containers in them, then their microVMs
    #[command(after_help = "Example:\n  capsid pod stop -t 3 web")]
    Stop(PodStopArgs),
    /// Remove pods that do not run, with all containers in them
    #[command(
        alias = "remove",
        after_help = "Examples:\n  capsid pod rm web\n  capsid pod rm -f web"
    )]
    Rm(PodRmArgs),
    /// Show what the containers of running pods use
    #[command(after_help = "Example:\n  capsid pod stats --no-stream web")]
    Stats(PodStatsArgs),
}

/// Flags of `capsid pod create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PodCreateArgs {
    /// Name of the pod, as with --name
    #[arg(value_name = "NAME", conflicts_with = "name")]
    pub plain_name: Option<String>,
    /// Name of the pod [default: one is made up]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Host name of its containers [default: the pod's name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Namespaces that its containers share: net, ipc and uts always; also pid
    #[arg(long, value_name = "LIST", default_value = "ipc,net,uts")]
    pub share: String,
    /// Memory limit of all containers together; the microVM has a little more
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Number of CPUs' worth of time of all containers together
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Virtual CPUs of the microVM, 1 to 32
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: Option<u8>,
    /// Limit of processes and threads of all containers together; -1 is unlimited
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Give all its containers a volume, or a folder or file of the host's
    #[arg(short, long, value_name = "NAME|/HOST/PATH:/PATH[:ro]")]
    pub volume: Vec<String>,
    /// Give all its containers a mount, as type=bind,source=/PATH,target=/PATH[,readonly] or
    /// type=volume,source=NAME,target=/PATH[,readonly]
    #[arg(long, value_name = "FIELDS")]
    pub mount: Vec<String>,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Size of /dev/shm, which its containers share
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Kernel parameter of the microVM
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Write the pod's id to a file
    #[arg(long, value_name = "FILE")]
    pub pod_id_file: Option<PathBuf>,
    /// Accelerator that runs guest instructions
    #[arg(long, value_enum, env = "CAPSID_ACCEL")]
    pub accel: Option<AccelChoice>,
    /// Guest kernel: an ELF file with a PVH note
    #[arg(long, value_name = "FILE", env = "CAPSID_KERNEL")]
    pub kernel: Option<PathBuf>,
}

/// Flags of `capsid pod ls`.
#[derive(Debug, Args)]
pub(crate) struct PodLsArgs {
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Only those with name=, id=, status=, label=, label!=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.Name}} {{.Status}}'; json; or 'table ' and columns
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid pod inspect`.
#[derive(Debug, Args)]
pub(crate) struct PodInspectArgs {
    /// Names or ids
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// A line each, as '{{.State}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Names of several pods.
#[derive(Debug, Args)]
pub(crate) struct PodNamesArgs {
    /// Names or ids
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
}

/// Flags of `capsid pod stop`.
#[derive(Debug, Args)]
pub(crate) struct PodStopArgs {
    /// Names or ids
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// Seconds between a container's stop signal and SIGKILL; -1 waits for ever
    #[arg(
        short = 't',
        long = "time",
        alias = "timeout",
        value_name = "SECONDS",
        value_parser = patience::seconds,
        allow_negative_numbers = true
    )]
    pub timeout: Option<u64>,
}

/// Flags of `capsid pod rm`.
#[derive(Debug, Args)]
pub(crate) struct PodRmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "POD")]
    pub pods: Vec<String>,
    /// Also running ones, which are killed, and no error for those that are not there
    #[arg(short, long)]
    pub force: bool,
}

/// Flags of `capsid pod stats`.
#[derive(Debug, Args)]
pub(crate) struct PodStatsArgs {
    /// Names or ids [default: all that run]
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
    /// Once, not again and again
    #[arg(long)]
    pub no_stream: bool,
    /// A line each, as '{{.Name}} {{.MemUsage}}'; json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}
