//! Step: closes every file descriptor except the kept ones.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, RawFd};

use crate::{JailError, sys};

/// Closes every fd that is not in `keep`; see [`crate::Jail::keep_fds`].
pub(crate) fn close_all_but(keep: &[RawFd]) -> Result<(), JailError> {
    replace_standard_streams(keep)?;
    for (first, last) in gaps(keep) {
        sys::close_range(first, last).map_err(JailError::CloseFds)?;
    }
    Ok(())
}

/// Closes every fd except `fd`, including the standard streams: for a process that opens nothing any more. Needs no
/// file, because the root directory may be empty already.
pub(crate) fn close_all_but_one(fd: RawFd) -> Result<(), JailError> {
    let fd = fd.unsigned_abs();
    if let Some(last) = fd.checked_sub(1) {
        sys::close_range(0, last).map_err(JailError::CloseFds)?;
    }
    sys::close_range(fd + 1, u32::MAX).map_err(JailError::CloseFds)
}

/// Ranges of fd numbers, both ends included, that hold neither a standard stream nor a kept fd.
fn gaps(keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = keep
        .iter()
        .filter_map(|&fd| u32::try_from(fd).ok())
        .filter(|&fd| fd > 2)
        .collect();
    kept.sort_unstable();
    kept.dedup();
    let mut first = 3;
    let mut ranges = Vec::with_capacity(kept.len() + 1);
    for fd in kept {
        if first < fd {
            ranges.push((first, fd - 1));
        }
        first = fd + 1;
    }
    ranges.push((first, u32::MAX));
    ranges
}

fn replace_standard_streams(keep: &[RawFd]) -> Result<(), JailError> {
    if [0, 1, 2].iter().all(|fd| keep.contains(fd)) {
        return Ok(());
    }
    let fail = |fd: i32| move |source: io::Error| JailError::StandardStream { fd, source };
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(fail(-1))?;
    if !keep.contains(&0) {
        rustix::stdio::dup2_stdin(null.as_fd()).map_err(|errno| fail(0)(errno.into()))?;
    }
    if !keep.contains(&1) {
        rustix::stdio::dup2_stdout(null.as_fd()).map_err(|errno| fail(1)(errno.into()))?;
    }
    if !keep.contains(&2) {
        rustix::stdio::dup2_stderr(null.as_fd()).map_err(|errno| fail(2)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn everything_above_the_standard_streams_is_a_gap() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2]), [(3, u32::MAX)]);
    }

    #[test]
    fn kept_fds_are_left_out_in_any_order() {
        assert_eq!(gaps(&[7, 3, 2, 4, 7, -1]), [(5, 6), (8, u32::MAX)]);
        assert_eq!(gaps(&[5]), [(3, 4), (6, u32::MAX)]);
    }
}
