//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixListener;

/// The listening socket that the supervisor handed over under this number.
pub(crate) fn inherited_listener(fd: RawFd) -> UnixListener {
    // SAFETY: the supervisor hands this number to this process alone, and `server::serve`, which is called once, is the
    // only place that takes it.
    unsafe { UnixListener::from_raw_fd(fd) }
}
