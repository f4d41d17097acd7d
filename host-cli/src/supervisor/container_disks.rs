//! Disks of a container: those that its machine boots with, or that are plugged into it.

use anyhow::Context as _;

use super::disk_slots::{DiskKey, DiskSlots, Needed};
use crate::accelerator::Disk;
use crate::folders::Folders;
use crate::model::Container;
use crate::plan::{ROOTFS_SERIAL, SCRATCH_SERIAL};
use crate::state::State;
use crate::{scratch, store_folder, volumes};

/// Opens the disks that a container's machine boots with.
pub(super) fn boot_disks(container: &Container, state: &State, folders: &Folders) -> anyhow::Result<Vec<Disk>> {
    let mut disks = vec![rootfs_disk(container, folders)?, scratch_disk(container, folders)?];
    disks.extend(volumes::open(state, &folders.data, container)?);
    Ok(disks)
}

/// Returns the disks of a container in a pod, opened unless they are in the machine's slots already.
pub(super) fn needed_slots(
    container: &Container,
    state: &State,
    folders: &Folders,
    slots: &DiskSlots,
) -> anyhow::Result<Vec<Needed>> {
    let need = |key: DiskKey, serial: &str, readonly: bool, open: &dyn Fn() -> anyhow::Result<Disk>| {
        let disk = if slots.has(&key) { None } else { Some(open()?) };
        Ok::<_, anyhow::Error>(Needed {
            key,
            serial: serial.into(),
            readonly,
            disk,
        })
    };
    let root = DiskKey::Rootfs(container.image_id.clone());
    let own = DiskKey::Scratch(container.id.clone());
    let mut needed = vec![
        need(root, ROOTFS_SERIAL, true, &|| rootfs_disk(container, folders))?,
        need(own, SCRATCH_SERIAL, false, &|| scratch_disk(container, folders))?,
    ];
    for volume in volumes::needed(state, container, &state.containers_of(&container.pod.id)?)? {
        let open = || Ok(volumes::open_disk(state, &folders.data, container, &volume)?);
        let key = DiskKey::Volume(volume.name.clone());
        needed.push(need(key, &volume.serial, volume.readonly, &open)?);
    }
    Ok(needed)
}

fn rootfs_disk(container: &Container, folders: &Folders) -> anyhow::Result<Disk> {
    let store = crate::app::open_store(folders)?;
    let image = store
        .find(&container.image_id)?
        .with_context(|| format!("the image {} of this container is gone", container.image))?;
    let rootfs = store.rootfs(&image)?;
    Ok(Disk {
        serial: ROOTFS_SERIAL.into(),
        readonly: true,
        is_durable: false,
        files: std::iter::once(rootfs.metadata).chain(rootfs.data).collect(),
    })
}

fn scratch_disk(container: &Container, folders: &Folders) -> anyhow::Result<Disk> {
    let path = store_folder::scratch(&folders.data, &container.id);
    Ok(Disk {
        serial: SCRATCH_SERIAL.into(),
        readonly: false,
        is_durable: !container.config.remove,
        files: vec![scratch::open(&path)?],
    })
}
