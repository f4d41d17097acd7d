//! Verbs of `capsid volume`.

use clap::{Args, Subcommand};

/// Verbs of `capsid volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    #[command(after_help = "Example:\n  capsid volume create data")]
    Create(VolumeCreateArgs),
    /// List volumes
    #[command(alias = "list", after_help = "Example:\n  capsid volume ls -f dangling=true")]
    Ls(VolumeLsArgs),
    /// Show all that is known of volumes, as JSON
    #[command(after_help = "Example:\n  capsid volume inspect data")]
    Inspect(VolumeInspectArgs),
    /// Remove volumes that no container has
    #[command(alias = "remove", after_help = "Example:\n  capsid volume rm data")]
    Rm(VolumeRmArgs),
    /// Remove all volumes without a name that no container has
    #[command(after_help = "Examples:\n  capsid volume prune -f\n  capsid volume prune -a    # named ones as well")]
    Prune(VolumePruneArgs),
}

/// Flags of `capsid volume create`.
#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// Name of the volume [default: a new id]
    pub name: Option<String>,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Driver that keeps it
    #[arg(short, long, value_enum, default_value = "local")]
    pub driver: VolumeDriver,
}

/// Driver that keeps a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VolumeDriver {
    /// A disk in the data directory
    Local,
}

/// Flags of `capsid volume ls`.
#[derive(Debug, Args)]
pub(crate) struct VolumeLsArgs {
    /// Only names
    #[arg(short, long)]
    pub quiet: bool,
    /// Only those with name=, dangling=true|false, label=, label!=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.Name}} {{.Labels}}'; json; or 'table ' and columns
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid volume inspect`.
#[derive(Debug, Args)]
pub(crate) struct VolumeInspectArgs {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// A line each, as '{{.CreatedAt}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid volume rm`.
#[derive(Debug, Args)]
pub(crate) struct VolumeRmArgs {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// No error for those that are not there
    #[arg(short, long)]
    pub force: bool,
}

/// Flags of `capsid volume prune`.
#[derive(Debug, Args)]
pub(crate) struct VolumePruneArgs {
    /// Named ones as well
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
