//! Verbs that change containers' limits or report changes.

use clap::Args;

use crate::model::RestartPolicy;

/// Flags of `capsid events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// From a time on, as 2026-02-03T04:05:06 or 10m (ago) [default: now]
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to a time [default: for ever]
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only those with container=, event=, image=, label=, network=, type=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.Action}} {{.Actor.Attributes.name}}'; json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// A JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Flags of `capsid port`.
#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Name or id
    pub container: String,
    /// Only this port of the container, as 80 or 80/tcp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<String>,
}

/// Flags of `capsid update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// Memory limit, at most what the machine was made for
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory plus swap limit; -1 is unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that is reclaimed last, at most --memory
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Number of CPUs' worth of time, at most the machine's; 0 is no limit
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
    /// no, on-failure[:RETRIES], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<RestartPolicy>,
}
