//! Cancellation: the user's request to stop, passed to threads that wait for something else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tokio::sync::watch;

/// Request to stop, made once and for good. Clones share one request.
#[derive(Debug, Clone)]
pub(crate) struct Cancellation(Arc<State>);

#[derive(Debug)]
struct State {
    reported: watch::Sender<bool>,
    /// Readable after cancellation, and never read: for `poll`.
    event: OwnedFd,
}

/// Reason why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Ready,
    Cancelled,
    TimedOut,
}

impl Cancellation {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        let reported = watch::Sender::new(false);
        Ok(Self(Arc::new(State { reported, event })))
    }

    pub(crate) fn cancel(&self) {
        self.0.reported.send_replace(true);
        // Fails only when the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        *self.0.reported.borrow()
    }

    /// Completes after cancellation.
    pub(crate) async fn cancelled(&self) {
        // The sender lives in `self`, so the wait ends in no other way.
        let _ = self.0.reported.subscribe().wait_for(|reported| *reported).await;
    }

    /// Blocks until `fd` is ready for `events` or has an error, until cancellation, or until the time `most` is over.
    pub(crate) fn wait(&self, fd: impl AsFd, events: PollFlags, most: Option<Duration>) -> io::Result<Waited> {
        let most = most.map(|most| Timespec {
            tv_sec: most.as_secs() as i64,
            tv_nsec: most.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&fd, events), PollFd::new(&self.0.event, PollFlags::IN)];
        loop {
            match poll(&mut fds, most.as_ref()) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => return Ok(Waited::TimedOut),
                Ok(_) if !fds[1].revents().is_empty() => return Ok(Waited::Cancelled),
                Ok(_) => return Ok(Waited::Ready),
            }
        }
    }
}

/// File whose reads fail after cancellation, even those of a pipe that never delivers anything.
#[derive(Debug)]
pub(crate) struct CancellableFile {
    pub file: std::fs::File,
    pub cancellation: Cancellation,
}

impl io::Read for CancellableFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancellation.wait(&self.file, PollFlags::IN, None)? == Waited::Cancelled {
                return Err(cancelled_error());
            }
            match self.file.read(buffer) {
                // Another reader of a shared, non-blocking pipe was faster.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

/// Error of a read that was cancelled.
pub(crate) fn cancelled_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::Read;

    #[test]
    fn a_read_of_a_silent_pipe_ends_when_cancelled() {
        let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let cancellation = Cancellation::new().unwrap();
        let mut file = CancellableFile {
            file: reader.into(),
            cancellation: cancellation.clone(),
        };
        let reading = std::thread::spawn(move || file.read(&mut [0; 1]));
        cancellation.cancel();
        assert!(reading.join().unwrap().is_err());
        assert!(cancellation.is_cancelled());
    }

    #[test]
    fn a_wait_that_nobody_cancels_times_out() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let cancellation = Cancellation::new().unwrap();
        let wait = || cancellation.wait(&reader, PollFlags::IN, Some(Duration::from_millis(10)));
        assert_eq!(wait().unwrap(), Waited::TimedOut);
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(wait().unwrap(), Waited::Ready);
    }
}
