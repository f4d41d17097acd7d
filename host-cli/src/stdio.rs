//! The user's stdio and a container's streams: bytes pumped between the two.
//!
//! Each pump is a thread with blocking reads and writes: terminals and regular files cannot be polled, and
//! `io::copy` moves bytes between pipes and sockets inside the kernel. A slow reader blocks its pump, the socket
//! fills, vsock credit runs out, and the container blocks: nothing is buffered without bound.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use capsid_protocol::{StreamHello, StreamKind, write_frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::sync::oneshot;

/// Why streams could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("cannot make a stream")]
    Socket(#[source] io::Error),
    #[error("cannot ask the machine for a stream")]
    Ask(#[source] io::Error),
    #[error("cannot begin a stream")]
    Hello(#[source] capsid_protocol::FrameError),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Opens streams into the guest.
#[derive(Debug)]
pub(crate) struct StreamOpener {
    /// Where the machine takes requests: `capsid_vmm::config::VsockConfig`.
    pub control: OwnedFd,
    pub nonce: Vec<u8>,
    pub container: String,
}

/// Ends when the container's output is all written, or cannot be.
pub(crate) type Drained = oneshot::Receiver<io::Result<()>>;

impl StreamOpener {
    fn open(&self, kind: StreamKind) -> Result<UnixStream, StreamError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(StreamError::Socket)?;
        let port = capsid_protocol::STREAM_PORT.to_le_bytes();
        let fds = [theirs.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(
            &self.control,
            &[io::IoSlice::new(&port)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map_err(|e| StreamError::Ask(e.into()))?;
        let hello = StreamHello {
            nonce: self.nonce.clone(),
            container: self.container.clone(),
            stream: kind.into(),
        };
        write_frame(&mut ours, &hello).map_err(StreamError::Hello)?;
        Ok(ours)
    }

    /// Three streams, stdin only when wanted.
    pub(crate) fn attach_pipes(&self, stdin: bool) -> Result<Vec<Drained>, StreamError> {
        if stdin {
            let stream = self.open(StreamKind::Stdin)?;
            pump("stdin", move || feed(stream))?;
        }
        let stdout = self.open(StreamKind::Stdout)?;
        let stderr = self.open(StreamKind::Stderr)?;
        let out = own(io::stdout().as_fd())?;
        let err = own(io::stderr().as_fd())?;
        Ok(vec![
            pump("stdout", move || drain(stdout, out))?,
            pump("stderr", move || drain(stderr, err))?,
        ])
    }

    /// One stream both ways.
    pub(crate) fn attach_terminal(&self, stdin: bool) -> Result<Vec<Drained>, StreamError> {
        let stream = self.open(StreamKind::Terminal)?;
        if stdin {
            let input = stream.try_clone().map_err(StreamError::Socket)?;
            pump("stdin", move || feed(input))?;
        }
        let out = own(io::stdout().as_fd())?;
        Ok(vec![pump("stdout", move || drain(stream, out))?])
    }
}

/// Stdin to the container; its end is passed on as a half-close.
fn feed(mut to: UnixStream) -> io::Result<()> {
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let copied = copy(&mut from, &mut to);
    to.shutdown(Shutdown::Write)?;
    copied
}

/// The container's output to the user. When the user no longer reads, the container is told by a broken pipe.
fn drain(mut from: UnixStream, mut to: File) -> io::Result<()> {
    let copied = copy(&mut from, &mut to);
    // Fails when the guest has closed it already.
    let _ = from.shutdown(Shutdown::Both);
    match copied {
        // A closed pipe or terminal is the user's choice.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EIO)) => Ok(()),
        copied => copied,
    }
}

/// `io::copy` for a destination that may be non-blocking: a shell may have left our stdout so.
fn copy(from: &mut (impl Read + AsFd), to: &mut (impl Write + AsFd)) -> io::Result<()> {
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let filled = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(filled) => filled,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(from.as_fd(), rustix::event::PollFlags::IN)?;
                continue;
            }
            // A terminal that hangs up, a reset by the guest: the end of the stream.
            Err(_) => return Ok(()),
        };
        write_all(&buffer[..filled], to)?;
    }
}

fn write_all(mut bytes: &[u8], to: &mut (impl Write + AsFd)) -> io::Result<()> {
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

fn own(fd: std::os::fd::BorrowedFd<'_>) -> Result<File, StreamError> {
    fd.try_clone_to_owned().map(File::from).map_err(StreamError::Socket)
}

/// Runs `work` on a thread of its own; the receiver ends with it.
fn pump(name: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<Drained, StreamError> {
    let (done, drained) = oneshot::channel();
    let body = move || {
        // Nobody asks for the end of an input: the container closes it when it likes.
        let _ = done.send(work());
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(StreamError::Thread)?;
    Ok(drained)
}
