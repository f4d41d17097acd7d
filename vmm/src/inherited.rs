//! Inherited fds: those that this process was started with, each taken once.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;

use crate::config::FdNumber;
use crate::sys;

/// Reason why an inherited fd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// An fd is claimed twice, or it is a standard stream.
    #[error("fd {number} is not one of the fds handed over, or is named twice")]
    NotOurs {
        /// Number of the fd.
        number: FdNumber,
    },
    /// No file is open under that number.
    #[error("fd {number} is not open")]
    NotOpen {
        /// Number of the fd.
        number: FdNumber,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// Set of fds that may still be taken. Made before this process opens any of its own.
#[derive(Debug)]
pub struct Inherited(HashSet<FdNumber>);

impl Inherited {
    /// Makes the set of the fds that a config names. A number that is named twice is left out: it has no single owner.
    #[must_use]
    pub fn new(numbers: &[FdNumber]) -> Self {
        let once = |number: &&FdNumber| **number > 2 && numbers.iter().filter(|other| other == number).count() == 1;
        Self(numbers.iter().filter(once).copied().collect())
    }

    /// Takes the fd `number`.
    ///
    /// # Errors
    /// [`InheritedError`].
    pub fn take(&mut self, number: FdNumber) -> Result<OwnedFd, InheritedError> {
        if !self.0.remove(&number) {
            return Err(InheritedError::NotOurs { number });
        }
        sys::take_inherited(number).map_err(|source| InheritedError::NotOpen { number, source })
    }

    /// Takes the fd `number` as a file.
    ///
    /// # Errors
    /// [`InheritedError`].
    pub fn take_file(&mut self, number: FdNumber) -> Result<File, InheritedError> {
        self.take(number).map(File::from)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn an_fd_has_one_owner() {
        let number = tempfile::tempfile().expect("a file").into_raw_fd();
        let mut inherited = Inherited::new(&[number, 1, 1]);
        let owner = inherited.take(number).expect("it is open");
        assert!(matches!(inherited.take(number), Err(InheritedError::NotOurs { .. })));
        assert!(matches!(inherited.take(1), Err(InheritedError::NotOurs { .. })));
        drop(owner);
        assert!(matches!(
            Inherited::new(&[number, number]).take(number),
            Err(InheritedError::NotOurs { .. })
        ));
        assert!(matches!(
            Inherited::new(&[-1]).take(-1),
            Err(InheritedError::NotOurs { .. })
        ));
    }
}
