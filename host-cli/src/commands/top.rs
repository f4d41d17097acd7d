//! Verb `capsid top`.

use anyhow::bail;

use super::lifecycle::ask;
use super::table;
use crate::app::Context;
use crate::cli::NameArgs;
use crate::clock;
use crate::container_lock;
use crate::control::{self, Answer, ProcessLine, Request};

/// Shows a container's processes, with pids as seen in the container.
pub(crate) async fn run(context: Context, args: NameArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let container = state.find(&args.container)?;
    let Ok(mut connection) = control::connect(&container_lock::folder(&folders.run, &container.id)) else {
        bail!("container {} is not running", container.name);
    };
    let Answer::Listed(processes) = ask(&mut connection, &Request::List).await? else {
        bail!("unexpected answer of the pod's supervisor");
    };
    table::print(
        ["UID", "PID", "PPID", "STAT", "STARTED", "TIME", "COMMAND"],
        processes.into_iter().map(row),
    );
    Ok(0)
}

fn row(process: ProcessLine) -> [String; 7] {
    let started = clock::rfc3339(i64::try_from(process.start_ms).unwrap_or(0).saturating_mul(1_000_000));
    let seconds = process.cpu_ms / 1000;
    [
        process.uid.to_string(),
        process.pid.to_string(),
        process.ppid.to_string(),
        process.state,
        started.get(11..19).unwrap_or_default().to_string(),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        process.args,
    ]
}
