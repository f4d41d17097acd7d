//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixListener;

/// Takes the listening socket that the supervisor passed under this number.
pub(crate) fn inherited_listener(fd: RawFd) -> UnixListener {
    // SAFETY: the supervisor hands this number to this process alone, and `server::serve`, which is called once, is the
    // only place that takes it.
    unsafe { UnixListener::from_raw_fd(fd) }
}
