//! Reads and writes on descriptors that may be non-blocking, as a shell may have left them.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// Reads bytes; `None` at the end. The source may be non-blocking: a shell may have left stdin so.
pub(crate) fn read(from: &mut (impl Read + AsFd), buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => return Ok(Some(count)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(from.as_fd(), rustix::event::PollFlags::IN)?,
            // A terminal that hangs up.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Writes all bytes; the target may be non-blocking, like the source of [`read`].
pub(crate) fn write_all(mut bytes: &[u8], to: &mut (impl Write + AsFd)) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(to.as_fd(), rustix::event::PollFlags::OUT)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn wait(fd: std::os::fd::BorrowedFd<'_>, events: rustix::event::PollFlags) -> io::Result<()> {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, events)];
    rustix::event::poll(&mut fds, None)?;
    Ok(())
}
