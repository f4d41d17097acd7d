//! Disks of a pod's containers, plugged into the machine's slots and unplugged: see `capsid_vmm::disk_slots`.
//!
//! Containers of one image share one root disk, and containers with the same volume share its disk. A disk is unplugged
//! with its last container, unless the guest reports that it could not unmount it: then it stays until the machine
//! ends, and a container that needs it again finds it there.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{Slot, slot_serial};
use capsid_vmm::disk_slots::{Change, FILES_MAX, SLOT_BYTES, SLOTS};
use tokio::sync::Mutex;

use crate::accelerator::Disk;
use crate::process::{DeviceError, DeviceSocket};

/// Alignment to which the machine rounds up the files of a read-only disk.
const EXTENT_ALIGNMENT: u64 = 4096;

/// Error when a disk cannot be plugged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskSlotsError {
    #[error("the pod has no room for another disk: {} are the most", SLOTS - 1)]
    Full,
    #[error("volume {0} is read-only in this pod, where a container has it: stop that container first")]
    Readonly(String),
    #[error("a disk of {0} files is more than a running machine can be given")]
    TooManyFiles(usize),
    #[error("a disk of {0} bytes is larger than the {SLOT_BYTES} of a slot")]
    TooLarge(u64),
    #[error("cannot read the size of a disk's file")]
    Size(#[source] io::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Identity of a disk in this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiskKey {
    /// Root disk of containers of this image.
    Rootfs(String),
    /// Scratch disk of this container.
    Scratch(String),
    /// Disk of the volume of this name.
    Volume(String),
}

/// Disk that a container needs, opened when it is not plugged yet.
#[derive(Debug)]
pub(crate) struct Needed {
    pub key: DiskKey,
    /// Serial of the disk in the container's spec.
    pub serial: String,
    pub readonly: bool,
    pub disk: Option<Disk>,
}

/// Plugged disk of a container.
#[derive(Debug)]
pub(crate) struct Placed {
    serial: String,
    slot: Slot,
}

#[derive(Debug)]
struct Occupied {
    key: DiskKey,
    slot: Slot,
    users: usize,
}

/// Disk slots of a pod's machine.
#[derive(Debug)]
pub(crate) struct DiskSlots {
    control: DeviceSocket,
    occupied: RefCell<Vec<Occupied>>,
    /// Lock that permits one pending change at a time.
    changing: Mutex<()>,
}

impl DiskSlots {
    /// Creates slots without disks.
    pub(crate) fn new(control: DeviceSocket) -> Self {
        Self {
            control,
            occupied: RefCell::default(),
            changing: Mutex::default(),
        }
    }

    /// Whether a disk is plugged: then it need not, and mostly cannot, be opened again.
    pub(crate) fn has(&self, key: &DiskKey) -> bool {
        self.occupied.borrow().iter().any(|one| one.key == *key)
    }

    /// Plugs all of a container's disks, or none.
    pub(crate) async fn plug(&self, needed: Vec<Needed>) -> Result<Vec<Placed>, DiskSlotsError> {
        let mut placed = Vec::new();
        for one in needed {
            match self.plug_one(one).await {
                Ok(disk) => placed.push(disk),
                Err(error) => {
                    self.unplug(&placed).await;
                    return Err(error);
                }
            }
        }
        Ok(placed)
    }

    async fn plug_one(&self, needed: Needed) -> Result<Placed, DiskSlotsError> {
        let _turn = self.changing.lock().await;
        let Needed {
            key,
            serial,
            readonly,
            disk,
        } = needed;
        if let Some(there) = self.occupied.borrow_mut().iter_mut().find(|one| one.key == key) {
            if there.slot.readonly && !readonly {
                return Err(DiskSlotsError::Readonly(match key {
                    DiskKey::Volume(name) | DiskKey::Rootfs(name) | DiskKey::Scratch(name) => name,
                }));
            }
            there.users += 1;
            return Ok(Placed {
                serial,
                slot: there.slot,
            });
        }
        // The disk was unplugged between the check and the lock.
        let disk = disk.ok_or(DeviceError::Refused)?;
        let lengths = lengths(&disk)?;
        let slot = Slot {
            slot: u32::from(self.free_slot().ok_or(DiskSlotsError::Full)?),
            bytes: capacity(&lengths, disk.readonly),
            readonly: disk.readonly,
        };
        if slot.bytes > SLOT_BYTES {
            return Err(DiskSlotsError::TooLarge(slot.bytes));
        }
        let change = Change::Plug {
            slot: slot.slot as u16,
            readonly: disk.readonly,
            ignore_flush: !disk.is_durable,
            lengths,
        };
        self.change(&change, &disk.files).await?;
        let occupied = Occupied { key, slot, users: 1 };
        self.occupied.borrow_mut().push(occupied);
        Ok(Placed { serial, slot })
    }

    /// Unplugs a container's disks that no other container has. A machine that does not answer is about to end.
    pub(crate) async fn unplug(&self, placed: &[Placed]) {
        for Placed { slot, .. } in placed {
            let _turn = self.changing.lock().await;
            let is_last = self.occupied.borrow_mut().iter_mut().any(|one| {
                let is_it = one.slot.slot == slot.slot;
                one.users -= usize::from(is_it);
                is_it && one.users == 0
            });
            let change = Change::Unplug { slot: slot.slot as u16 };
            if is_last && self.change(&change, &[]).await.is_ok() {
                self.occupied.borrow_mut().retain(|one| one.slot.slot != slot.slot);
            }
        }
    }

    /// Releases the disks of a container that is gone, but leaves them plugged: the guest may still have them mounted.
    pub(crate) fn leave(&self, placed: &[Placed]) {
        for one in self.occupied.borrow_mut().iter_mut() {
            one.users -= usize::from(placed.iter().any(|disk| disk.slot.slot == one.slot.slot));
        }
    }

    fn free_slot(&self) -> Option<u16> {
        let occupied = self.occupied.borrow();
        (1..SLOTS).find(|slot| occupied.iter().all(|one| one.slot.slot != u32::from(*slot)))
    }

    /// Sends the machine a change, and waits until it is done.
    async fn change(&self, change: &Change, files: &[std::fs::File]) -> Result<(), DiskSlotsError> {
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        Ok(self.control.change(&change.encode(), &files).await?)
    }
}

/// Returns a container's spec with its disks named by their slots.
pub(crate) fn with_slots(spec: &ContainerSpec, placed: &[Placed]) -> ContainerSpec {
    let mut spec = spec.clone();
    let rename = |serial: &mut String| {
        if let Some(disk) = placed.iter().find(|disk| disk.serial == *serial) {
            *serial = slot_serial(disk.slot.slot);
        }
    };
    rename(&mut spec.root.rootfs_serial);
    rename(&mut spec.root.scratch_serial);
    for mount in &mut spec.mounts {
        if let Some(Source::Volume(volume)) = &mut mount.source {
            rename(&mut volume.serial);
        }
    }
    spec.slots = placed.iter().map(|disk| disk.slot).collect();
    spec
}

fn lengths(disk: &Disk) -> Result<Vec<u64>, DiskSlotsError> {
    if disk.files.len() > FILES_MAX {
        return Err(DiskSlotsError::TooManyFiles(disk.files.len()));
    }
    let lengths = disk.files.iter().map(|file| Ok(file.metadata()?.len()));
    lengths.collect::<io::Result<_>>().map_err(DiskSlotsError::Size)
}

/// Capacity of the disk that the machine makes of files of these lengths.
fn capacity(lengths: &[u64], readonly: bool) -> u64 {
    let alignment = if readonly { EXTENT_ALIGNMENT } else { 1 };
    let rounded = lengths.iter().map(|length| length.next_multiple_of(alignment));
    rounded.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_what_the_machine_makes_of_it() {
        assert_eq!(capacity(&[4096, 5000], true), 4096 + 8192);
        assert_eq!(capacity(&[512], false), 512);
    }

    #[test]
    fn a_spec_names_its_slots() {
        let mut spec = ContainerSpec::default();
        spec.root.rootfs_serial = "r".into();
        spec.root.scratch_serial = "s".into();
        let place = |serial: &str, slot| Placed {
            serial: serial.into(),
            slot: Slot {
                slot,
                bytes: 512,
                readonly: false,
            },
        };
        let spec = with_slots(&spec, &[place("s", 3), place("r", 7)]);
        assert_eq!(
            (spec.root.rootfs_serial.as_str(), spec.root.scratch_serial.as_str()),
            ("capsid-slot-7", "capsid-slot-3")
        );
        assert_eq!(spec.slots.len(), 2);
    }
}
