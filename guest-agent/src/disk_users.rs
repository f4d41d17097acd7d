//! Reference counts of disks: containers of a pod may share one, and the host may unplug it when nobody uses it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::disk;
use crate::limits::{DISK_WAIT, DISK_WAIT_ALL};

/// Interval between checks of a disk that is still being unmounted.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Disks in use, by serial, with the number of their users.
#[derive(Default)]
pub(crate) struct DiskUsers {
    users: Mutex<HashMap<String, usize>>,
}

impl DiskUsers {
    fn users(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Increments the reference count of each disk.
    pub(crate) fn take(&self, serials: &[String]) {
        let mut users = self.users();
        for serial in serials {
            *users.entry(serial.clone()).or_default() += 1;
        }
    }

    /// Decrements the reference count of each disk, and waits until the unused ones are unmounted, for which the kernel
    /// writes unwritten data: `false` if it writes nothing for [`DISK_WAIT`].
    pub(crate) fn give_back(&self, serials: &[String]) -> bool {
        let mut users = self.users();
        for serial in serials {
            match users.get_mut(serial) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(users.remove(serial)),
            }
        }
        drop(users);
        let mut writing = Writing::to(disk::names(serials));
        serials.iter().all(|serial| self.wait_until_free(serial, &mut writing))
    }

    /// Waits until one disk is free. If it has a user again, the disk is that user's concern.
    fn wait_until_free(&self, serial: &str, writing: &mut Writing) -> bool {
        loop {
            // Held over the check, which for its moment keeps the disk from being mounted.
            let users = self.users();
            if users.contains_key(serial) {
                return true;
            }
            // A slot's device is removed with its last user: the host may plug another disk there next.
            if disk::is_free(serial) && disk::remove_slot(serial).is_ok() {
                return true;
            }
            drop(users);
            if writing.is_stuck() {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Progress of the kernel's writes to certain disks: others may have data to write for ever.
pub(crate) struct Writing {
    /// Names of the devices.
    disks: Vec<String>,
    sectors: u64,
    began: Instant,
    since: Instant,
}

impl Writing {
    pub(crate) fn to(disks: Vec<String>) -> Self {
        Self {
            sectors: disk::sectors_written(&disks),
            disks,
            began: Instant::now(),
            since: Instant::now(),
        }
    }

    /// Whether nothing was written for [`DISK_WAIT`], or the writes take longer than [`DISK_WAIT_ALL`].
    pub(crate) fn is_stuck(&mut self) -> bool {
        if self.since.elapsed() < DISK_WAIT {
            return false;
        }
        let sectors = disk::sectors_written(&self.disks);
        let has_moved = std::mem::replace(&mut self.sectors, sectors) != sectors;
        self.since = Instant::now();
        !has_moved || self.began.elapsed() > DISK_WAIT_ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_disk_is_in_use_until_its_last_user_is_gone() {
        let disk_users = DiskUsers::default();
        let serials = ["a".to_owned()];
        disk_users.take(&serials);
        disk_users.take(&serials);
        assert!(disk_users.give_back(&serials));
        assert_eq!(disk_users.users().get("a"), Some(&1));
        assert!(disk_users.give_back(&serials));
        assert!(disk_users.users().is_empty());
    }
}
