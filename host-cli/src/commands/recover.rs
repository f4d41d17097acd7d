//! Verb `capsid system recover`: makes folders usable again whose marker or databases are lost or damaged.
//!
//! Nothing is deleted: see [`capsid_image::Directory::recover`]. Volumes are identified by their folders, so they are
//! kept with their names; containers and images are known only from their databases.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use capsid_image::Recovered;

use crate::app::{Context, open_store};
use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::model::Volume;
use crate::state::State;
use crate::volumes::{self, VolumesLock};
use crate::{clock, id, plan};

/// Creates lost databases anew, and reports what happened to their data.
pub(crate) fn run(context: Context) -> anyhow::Result<u8> {
    let (folders, recovered) = Folders::recover(context.data, context.run, refuse_running)?;
    let state = State::open(&folders.data)?;
    open_store(&folders)?;
    for Recovered { moved_to, moved, lost } in recovered {
        for database in lost {
            println!("Begun anew: {}", folders.data.join(database).display());
        }
        let Some(place) = moved_to else { continue };
        let kept = keep_volumes(&state, &folders, &place)?;
        for name in &kept {
            println!("Kept: volume {name}");
        }
        println!(
            "Moved to {}: {} files and folders; remove it when nothing of it is needed",
            place.display(),
            moved.len() - kept.len()
        );
    }
    println!("{} and {} can be used", folders.data.display(), folders.run.display());
    Ok(0)
}

/// Returns an error when a supervisor runs: it has the old database open, and would write to it.
fn refuse_running(run: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(run.join("pods")).into_iter().flatten() {
        let name = entry?.file_name();
        let Some(id) = name.to_str().filter(|name| id::is_id(name)) else {
            continue;
        };
        if ContainerLock::try_take(run, id)?.is_none() {
            bail!(
                "pod {} is running: stop it first, or end its `capsid supervise` process where that is not possible",
                &id[..12]
            );
        }
    }
    Ok(())
}

/// Restores volumes that were moved away with their database. Returns their names.
fn keep_volumes(state: &State, folders: &Folders, place: &Path) -> anyhow::Result<Vec<String>> {
    let mut kept = Vec::new();
    let _lock = VolumesLock::take(&folders.data)?;
    let entries = match fs::read_dir(place.join("volumes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
        entries => entries.with_context(|| place.display().to_string())?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if plan::check_name(&name).is_err() || !is_volume(&entry.path()) {
            continue;
        }
        let folder = volumes::all(&folders.data).join(&name);
        fs::rename(entry.path(), &folder).with_context(|| format!("cannot bring volume {name} back"))?;
        state.add_volume(&Volume {
            name: name.clone(),
            created_ns: clock::now_ns(),
            labels: Vec::new(),
            // Whether the volume was named is unknown: `prune` must not remove it.
            anonymous: false,
            prepared: false,
        })?;
        kept.push(name);
    }
    kept.sort();
    Ok(kept)
}

fn is_volume(folder: &Path) -> bool {
    let is = |path: &Path, has_kind: fn(&fs::Metadata) -> bool| fs::symlink_metadata(path).is_ok_and(|m| has_kind(&m));
    is(folder, fs::Metadata::is_dir) && is(&folder.join("disk.ext4"), fs::Metadata::is_file)
}
