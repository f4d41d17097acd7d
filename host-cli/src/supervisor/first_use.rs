//! First use of a volume by a container that may only read it. A new volume is filled from the image and loses its
//! `lost+found` like any other (as in docker). This requires a machine that may write to its disk: a separate one,
//! without the container's program, which ends before the container's machine gets the disk read-only.

use std::time::{Duration, Instant};

use anyhow::bail;
use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::task::Kind;
use capsid_protocol::spec::{Task, Unit};
use tokio::time::sleep;

use super::offline_task;
use crate::folders::Folders;
use crate::model::Container;
use crate::state::State;
use crate::volumes::{self, FirstUseLock, Needed, VolumeError};

/// Time limit for another container to prepare a volume that both use first.
const OTHER_WAIT: Duration = Duration::from_secs(60);
/// Interval of checking whether another container has prepared the volume.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prepares the volumes of a container that are new and read-only in it, or waits until another container has.
pub(super) async fn prepare(folders: &Folders, state: &State, container: &Container) -> anyhow::Result<()> {
    let deadline = Instant::now() + OTHER_WAIT;
    loop {
        let needed = unprepared(state, container)?;
        let mut names: Vec<&str> = needed.iter().map(|volume| volume.name.as_str()).collect();
        // In one order, so that no two containers wait for each other.
        names.sort_unstable();
        names.dedup();
        let Some(_lock) = FirstUseLock::try_take(&folders.data, &names)? else {
            if Instant::now() > deadline {
                bail!(
                    "another container did not prepare a new volume ({}) in time",
                    names.join(", ")
                );
            }
            sleep(LOOK_EVERY).await;
            continue;
        };
        // Another container may have prepared some before the lock was free.
        let needed = unprepared(state, container)?;
        if needed.is_empty() {
            return Ok(());
        }
        let with_these = with_volumes(container, &needed);
        match mount_once(folders, state, &with_these).await {
            Ok(()) => return Ok(volumes::record_prepared(state, &with_these)?),
            Err(error) if is_in_use(&error) && Instant::now() < deadline => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error.context("cannot prepare the container's new volumes")),
        }
    }
}

/// Returns the volumes of a container that are new and read-only in it.
fn unprepared(state: &State, container: &Container) -> anyhow::Result<Vec<Needed>> {
    let mut needed = volumes::needed(state, container, &state.containers_of(&container.pod.id)?)?;
    needed.retain(|volume| volume.is_to_be_prepared);
    Ok(needed)
}

/// Returns the container with these volumes alone: its others may be in use, and are of no use to the machine.
fn with_volumes(container: &Container, volumes: &[Needed]) -> Container {
    let mut container = container.clone();
    let is_one = |serial: &str| volumes.iter().any(|volume| volume.serial == serial);
    container.config.mounts.retain(|mount| is_one(&mount.serial));
    container.spec.mounts.retain(|mount| match &mount.source {
        Some(Source::Volume(volume)) => is_one(&volume.serial),
        _ => true,
    });
    container
}

async fn mount_once(folders: &Folders, state: &State, container: &Container) -> anyhow::Result<()> {
    let task = Task {
        kind: Some(Kind::Mount(Unit {})),
    };
    let (_streams, offline_task) = offline_task::start(folders, state, container, None, task).await?;
    match offline_task.finish().await? {
        0 => Ok(()),
        code => bail!("the agent failed with {code}"),
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(VolumeError::InUse { .. })))
}

#[cfg(test)]
mod tests {
    use super::super::machine::MachineError;
    use super::*;

    #[test]
    fn a_volume_in_use_is_recognized_below_what_wraps_it() {
        let in_use = VolumeError::InUse {
            name: "data".into(),
            holder: "another pod".into(),
        };
        let error = anyhow::Error::from(MachineError::prepare(in_use.into()));
        assert!(is_in_use(&error.context("cannot start the machine")));
        let error = MachineError::prepare(VolumeError::NeedsRecovery("data".into()).into());
        assert!(!is_in_use(&error.into()));
    }
}
