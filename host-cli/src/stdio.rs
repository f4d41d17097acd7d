//! User's stdio and a process's streams: bytes copied between the two.
//!
//! Each pump is a thread with blocking reads and writes: terminals and regular files cannot be polled. A slow reader
//! blocks its pump, the socket fills, and so on down to the container: nothing is buffered without limit.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use tokio::sync::oneshot;

use crate::detach::{DetachKeys, Typed};
use crate::nonblocking::{read, write_all};
use crate::output;

/// Reason why streams could not be connected to the user's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("cannot use a stream")]
    Socket(#[source] io::Error),
    #[error("the pod's supervisor handed over {0} streams")]
    Count(usize),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Result of writing an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// All output was written.
    Whole,
    /// Closed pipe or terminal: the user no longer reads.
    ReaderGone,
}

/// Receiver of the result when an output is written, or cannot be.
pub(crate) type Draining = oneshot::Receiver<io::Result<Drained>>;

/// Running copies between the user and a process.
#[derive(Debug)]
pub(crate) struct Pumps {
    pub outputs: Vec<Draining>,
    /// Receives a value when the user has typed the detach keys.
    pub detached: oneshot::Receiver<()>,
}

/// Connects streams in the form that a supervisor sends them: the terminal alone, or stdin (when there are three),
/// stdout and stderr.
pub(crate) fn join(streams: Vec<OwnedFd>, terminal: bool, stdin: bool, keys: DetachKeys) -> Result<Pumps, StreamError> {
    let count = streams.len();
    let mut streams: Vec<UnixStream> = streams.into_iter().map(UnixStream::from).collect();
    for stream in &streams {
        stream.set_nonblocking(false).map_err(StreamError::Socket)?;
    }
    let (detach, detached) = oneshot::channel();
    let mut outputs = Vec::new();
    match (terminal, count) {
        (true, 1) => {
            let stream = streams.remove(0);
            if stdin {
                let input = stream.try_clone().map_err(StreamError::Socket)?;
                feed(input, Some((keys, detach)))?;
            }
            outputs.push(drain("stdout", stream, output::stdout_file())?);
        }
        (false, 2 | 3) => {
            if count == 3 {
                let input = streams.remove(0);
                if stdin {
                    feed(input, None)?;
                }
            }
            let stderr = streams.pop().ok_or(StreamError::Count(count))?;
            let stdout = streams.pop().ok_or(StreamError::Count(count))?;
            outputs.push(drain("stdout", stdout, output::stdout_file())?);
            outputs.push(drain("stderr", stderr, output::stderr_file())?);
        }
        _ => return Err(StreamError::Count(count)),
    }
    Ok(Pumps { outputs, detached })
}

/// Copies stdin to the process; its end is passed on as a half-close. On a terminal, checks for the detach keys.
fn feed(mut to: UnixStream, mut keys: Option<(DetachKeys, oneshot::Sender<()>)>) -> Result<(), StreamError> {
    let body = move || -> io::Result<()> {
        let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut buffer = vec![0u8; 64 << 10];
        while let Some(count) = read(&mut from, &mut buffer)? {
            let bytes = match &mut keys {
                None => write_all(&buffer[..count], &mut to),
                Some((keys, _)) => match keys.take(&buffer[..count]) {
                    Typed::Bytes(bytes) => write_all(&bytes, &mut to),
                    Typed::Detach => break,
                },
            };
            bytes?;
        }
        match keys {
            Some((keys, detach)) if keys.is_complete() => {
                // The receiver may have been dropped.
                let _ = detach.send(());
                Ok(())
            }
            _ => to.shutdown(Shutdown::Write),
        }
    };
    // Nobody waits for the end of an input: the process closes it when it likes.
    spawn("stdin", move || drop(body()))
}

/// Copies a process's output to the user.
fn drain(name: &str, mut from: UnixStream, to: io::Result<File>) -> Result<Draining, StreamError> {
    let mut to = to.map_err(StreamError::Socket)?;
    let (done, draining) = oneshot::channel();
    let mut body = move || -> io::Result<Drained> {
        let mut buffer = vec![0u8; 64 << 10];
        // A reset by the guest is the end of the stream.
        while let Ok(Some(count)) = read(&mut from, &mut buffer) {
            match write_all(&buffer[..count], &mut to) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EIO)) => return Ok(Drained::ReaderGone),
                written => written?,
            }
        }
        Ok(Drained::Whole)
    };
    spawn(name, move || {
        // Nobody may be waiting any more.
        let _ = done.send(body());
    })?;
    Ok(draining)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StreamError> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(StreamError::Thread)
}
