//! Verb `capsid supervise`, which `run` and `start` start. Not for users.

use crate::app::Context;
use crate::cli::SuperviseArgs;
use crate::supervisor::{self, Inheritance};

/// Supervises a pod to its end.
pub(crate) async fn run(context: Context, args: SuperviseArgs) -> anyhow::Result<u8> {
    let folders = context.folders()?;
    let inheritance = Inheritance::take(&folders, args.id, args.lock_fd, args.connection_fd)?;
    supervisor::supervise(folders, inheritance).await?;
    Ok(0)
}
