//! Verbs of `capsid system`.

use clap::{Args, Subcommand};

/// Verbs of `capsid system`, which concern all containers, images and volumes together.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show the disk space that images, containers and volumes take
    #[command(after_help = "Examples:\n  capsid system df\n  capsid system df -v")]
    Df(DfArgs),
    /// Remove what is not used: stopped containers, networks and images without a name
    #[command(after_help = "Example:\n  capsid system prune -a --volumes")]
    Prune(SystemPruneArgs),
    /// Start the containers whose restart policy asks for it, as after a reboot of this machine
    #[command(after_help = "Example:\n  capsid system start    # contrib/capsid.service does this at login")]
    Start,
    /// Stop all containers, as for a reboot: those with a restart policy are started by `system start`
    #[command(after_help = "Example:\n  capsid system stop")]
    Stop,
    /// Read all of every image and show what is damaged; the exit code is 1 then
    #[command(after_help = "Example:\n  capsid system verify    # `capsid pull` of a damaged image puts it right")]
    Verify,
    /// Make data usable again whose databases are lost or damaged: deletes nothing, keeps volumes
    #[command(after_help = "Example:\n  capsid system recover")]
    Recover,
    /// Show what there is on this machine
    #[command(after_help = "Example:\n  capsid system info --json")]
    Info(InfoArgs),
}

/// Flags of `capsid system df`.
#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// Each of them
    #[arg(short, long)]
    pub verbose: bool,
    /// A line each, as '{{.Type}} {{.Size}}'; json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid system prune`.
#[derive(Debug, Args)]
pub(crate) struct SystemPruneArgs {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Also volumes that were made without a name and that no container has
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Flags of `capsid system info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Format of the output, as '{{.ContainersRunning}}'; json
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
