//! Errors as the host reads them.

use capsid_protocol::{Failed, FailedStep};
use rustix::io::Errno;

use crate::log;

/// Converts an error for the protocol: the chain in one line, and the deepest `errno` in it.
pub(crate) fn failed(id: &str, step: FailedStep, error: &(dyn std::error::Error + 'static)) -> Failed {
    let mut errno = 0;
    let mut next = Some(error);
    while let Some(e) = next {
        let raw = e.downcast_ref::<Errno>().map(|e| e.raw_os_error());
        let raw = raw.or_else(|| {
            e.downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error)
        });
        errno = raw.unwrap_or(errno);
        next = e.source();
    }
    Failed {
        container: id.to_owned(),
        step: step as i32,
        errno,
        message: log::chain(error),
    }
}
