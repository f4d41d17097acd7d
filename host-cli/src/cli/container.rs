//! Verbs of containers and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CpArgs, EventsArgs, ExportArgs, PortArgs, RunArgs, UpdateArgs, patience};
use crate::detach::DetachKeys;

/// Verbs of containers, at the top level and below `capsid container`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Make a container without starting it
    #[command(
        disable_help_flag = true,
        override_usage = "capsid create [OPTIONS] IMAGE [COMMAND] [ARG...]",
        after_help = "Example:\n  capsid create --name web nginx"
    )]
    Create(Box<RunArgs>),
    /// Start containers that were made or have exited
    #[command(after_help = "Examples:\n  capsid start web\n  capsid start -ai shell")]
    Start(StartArgs),
    /// Stop running containers: a signal, then SIGKILL
    #[command(after_help = "Example:\n  capsid stop -t 3 web")]
    Stop(StopArgs),
    /// Stop and start containers
    #[command(after_help = "Example:\n  capsid restart web")]
    Restart(StopArgs),
    /// Send a signal to running containers
    #[command(after_help = "Example:\n  capsid kill -s HUP web")]
    Kill(KillArgs),
    /// Let nothing of running containers run
    #[command(after_help = "Example:\n  capsid pause web")]
    Pause(NamesArgs),
    /// Let paused containers run again
    #[command(after_help = "Example:\n  capsid unpause web")]
    Unpause(NamesArgs),
    /// Wait for containers to exit, and print their exit codes
    #[command(after_help = "Example:\n  capsid wait job")]
    Wait(NamesArgs),
    /// Remove containers
    #[command(after_help = "Examples:\n  capsid rm web\n  capsid rm -f $(capsid ps -aq)")]
    Rm(RmArgs),
    /// Give a container another name
    #[command(after_help = "Example:\n  capsid rename web web-old")]
    Rename(RenameArgs),
    /// List containers
    #[command(
        visible_alias = "ls",
        alias = "list",
        after_help = "Examples:\n  capsid ps -a\n  capsid ps --format '{{.Names}} {{.Status}}'"
    )]
    Ps(PsArgs),
    /// Show all that is known of containers, as JSON
    #[command(after_help = "Examples:\n  capsid inspect web\n  capsid inspect -f '{{.State.Status}}' web")]
    Inspect(ContainerInspectArgs),
    /// Show what a container has printed
    #[command(after_help = "Examples:\n  capsid logs -f --tail 10 web\n  capsid logs --since 10m web")]
    Logs(LogsArgs),
    /// Attach to a running container's input and output
    #[command(after_help = "Example:\n  capsid attach shell    # leave with Ctrl-P Ctrl-Q")]
    Attach(AttachArgs),
    /// Run another command in a running container
    #[command(
        override_usage = "capsid exec [OPTIONS] CONTAINER COMMAND [ARG...]",
        after_help = "Examples:\n  capsid exec -it web sh\n  capsid exec -u www-data web id"
    )]
    Exec(ExecArgs),
    /// Show what happens to containers, as it happens
    #[command(
        after_help = "Examples:\n  capsid events --filter event=die\n  capsid events --since 1h --until 0s --json"
    )]
    Events(EventsArgs),
    /// Show which ports of a container are published
    #[command(after_help = "Example:\n  capsid port web")]
    Port(PortArgs),
    /// Change the limits or the restart policy of containers
    #[command(
        after_help = "Examples:\n  capsid update -m 256m --cpus 0.5 web\n  capsid update --restart unless-stopped web"
    )]
    Update(UpdateArgs),
    /// Copy files between a container and this machine
    #[command(
        after_help = "Examples:\n  capsid cp web:/etc/nginx ./conf\n  capsid cp app.tar.gz web:/tmp/\n  \
                      capsid cp web:/var/log - | tar t"
    )]
    Cp(CpArgs),
    /// Show what a container has changed of its image's files
    #[command(after_help = "Example:\n  capsid diff web    # A added, C changed, D deleted")]
    Diff(NameArgs),
    /// Write a container's files as a tar archive
    #[command(after_help = "Example:\n  capsid export -o web.tar web")]
    Export(ExportArgs),
    /// Show the processes of a container
    #[command(after_help = "Example:\n  capsid top web")]
    Top(NameArgs),
    /// Show what running containers use
    #[command(after_help = "Example:\n  capsid stats --no-stream")]
    Stats(StatsArgs),
    /// Remove all containers that do not run
    #[command(after_help = "Example:\n  capsid container prune -f")]
    Prune(PruneArgs),
}

/// Names of several containers.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Name of one container.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Flags of `capsid start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Show the container's output and wait for its end
    #[arg(short, long)]
    pub attach: bool,
    /// Pass stdin on as well
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
}

/// Flags of `capsid stop` and `capsid restart`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Seconds between the stop signal and SIGKILL; -1 waits for ever
    #[arg(
        short = 't',
        long = "timeout",
        alias = "time",
        value_name = "SECONDS",
        value_parser = patience::seconds,
        allow_negative_numbers = true
    )]
    pub timeout: Option<u64>,
}

/// Flags of `capsid kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Signal, as KILL, SIGHUP or 15
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
}

/// Flags of `capsid rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Also running ones, which are killed, and no error for those that are not there
    #[arg(short, long)]
    pub force: bool,
    /// The volumes that were made for it without a name as well
    #[arg(short, long)]
    pub volumes: bool,
}

/// Flags of `capsid rename`.
#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id
    pub container: String,
    /// New name of the container
    pub name: String,
}

/// Flags of `capsid ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// With the pods that they are in
    #[arg(short, long)]
    pub pod: bool,
    /// With the space that they take on disk
    #[arg(short, long)]
    pub size: bool,
    /// The last so many, whatever their state
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub last: Option<usize>,
    /// The last one, whatever its state
    #[arg(short, long)]
    pub latest: bool,
    /// Only those with name=, id=, status=, exited=, label=, label!=, ancestor=, before=, since=, publish=, expose=,
    /// volume=, network=, health=, is-task=, pod=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.ID}} {{.Names}}'; json; or 'table ' and columns
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectKind {
    Container,
    Image,
    Network,
    Volume,
}

/// Flags of `capsid inspect`.
#[derive(Debug, Args)]
pub(crate) struct ContainerInspectArgs {
    /// Names or ids of containers, or of images, networks and volumes
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Only objects of this kind
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<ObjectKind>,
    /// A line each, as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id
    pub container: String,
    /// Go on with what comes, until the container exits
    #[arg(short, long)]
    pub follow: bool,
    /// A time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// So many lines from the end; -1 or all is the whole log
    #[arg(
        short = 'n',
        long,
        value_name = "NUMBER",
        default_value = "all",
        allow_negative_numbers = true
    )]
    pub tail: String,
    /// From a time on, as 2026-02-03T04:05:06 or 10m (ago)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to a time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Flags of `capsid attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Name or id
    pub container: String,
    /// Do not pass stdin on
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = super::boolean::value)]
    pub sig_proxy: bool,
}

/// Flags of `capsid exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Container, then the command and its arguments
    #[arg(
        required = true,
        num_args = 2..,
        trailing_var_arg = true,
        value_name = "CONTAINER COMMAND"
    )]
    pub container_and_command: Vec<std::ffi::OsString>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    pub detach: bool,
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
    /// All capabilities and devices of the microVM, nothing of the host
    #[arg(long)]
    pub privileged: bool,
    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
}

/// Flags of `capsid stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Once, not again and again
    #[arg(long)]
    pub no_stream: bool,
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// A line each, as '{{.Name}} {{.MemUsage}}'; json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid container prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Arguments of the hidden `capsid supervise`.
#[derive(Debug, Args)]
pub(crate) struct SuperviseArgs {
    /// Id of the pod.
    pub id: String,
    #[arg(long)]
    pub lock_fd: i32,
    #[arg(long)]
    pub connection_fd: i32,
}
