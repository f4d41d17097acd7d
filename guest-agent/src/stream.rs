//! Copying between a container's streams and their connections: one thread per direction.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use capsid_protocol::StreamKind;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::ioctl_fionread;
use rustix::net::Shutdown;

use crate::limits::{COPY_BYTES, TERMINAL_BUFFER_BYTES};
use crate::threads;

/// Connection to the host, shared by the threads of its two directions.
pub(crate) type Connection = Arc<OwnedFd>;

/// Running copies of a container's streams.
pub(crate) struct Copies {
    /// Event that is readable from the end of the process on.
    ended: Arc<OwnedFd>,
    outputs: Vec<JoinHandle<()>>,
    connections: Vec<Connection>,
}

impl Copies {
    /// Creates an empty set of copies.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            ended: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
            outputs: Vec::new(),
            connections: Vec::new(),
        })
    }

    /// Starts copying one stream between the agent's end and its connection. `takes_input`: whether a terminal does.
    pub(crate) fn start(
        &mut self,
        kind: StreamKind,
        end: OwnedFd,
        connection: OwnedFd,
        takes_input: bool,
    ) -> io::Result<()> {
        let connection = Arc::new(connection);
        self.connections.push(connection.clone());
        let end = File::from(end);
        match kind {
            StreamKind::Stdin => {
                threads::spawn("stdin", move || copy_in(&connection, end, InputEnd::Closes))?;
            }
            StreamKind::Stdout | StreamKind::Stderr => {
                let ended = Arc::clone(&self.ended);
                self.outputs.push(threads::spawn("output", move || {
                    copy_out(end, &connection, &ended, HangUp::Closes)
                })?);
            }
            StreamKind::Terminal => {
                if takes_input {
                    let (connection, end) = (connection.clone(), end.try_clone()?);
                    threads::spawn("terminal-in", move || copy_in(&connection, end, InputEnd::Stays))?;
                }
                let ended = Arc::clone(&self.ended);
                self.outputs.push(threads::spawn("terminal-out", move || {
                    copy_out(end, &connection, &ended, HangUp::Drops)
                })?);
            }
            StreamKind::Unspecified => {}
        }
        Ok(())
    }

    /// Finishes after the end of the process: waits until all of its output is sent to the host, then ends the inputs.
    /// Other processes that still hold the streams are not waited for.
    pub(crate) fn finish(self) {
        // A counter of 1 always fits.
        let _ = rustix::io::write(&*self.ended, &1u64.to_ne_bytes());
        for output in self.outputs {
            // A thread cannot panic without ending the machine.
            let _ = output.join();
        }
        for connection in self.connections {
            // Already closed by the host; otherwise the input's read ends here.
            let _ = rustix::net::shutdown(&*connection, Shutdown::Both);
        }
    }
}

/// Effect of the host's end of file on the container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InputEnd {
    /// The container reads an end of file: the pipe closes.
    Closes,
    /// The container sees nothing: a terminal has no end of file but the key for it.
    Stays,
}

/// Copies from the host to the container. A container that closed its end is reported to the host by a shutdown.
fn copy_in(connection: &OwnedFd, mut to: File, input_end: InputEnd) {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match read(connection, &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
    }
    if input_end == InputEnd::Closes {
        let _ = rustix::net::shutdown(connection, Shutdown::Both);
    }
}

/// Treatment of output after the host closed its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HangUp {
    /// The pipe closes: the container's next write breaks it.
    Closes,
    /// Output is dropped: a terminal stays open for resizing, and nobody else would empty it.
    Drops,
}

/// Copies from the container to the host, until nobody can write any more, or the process `ended` and everything
/// written by then is copied.
fn copy_out(mut from: File, connection: &OwnedFd, ended: &OwnedFd, hang_up: HangUp) {
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = None;
    while left != Some(0) && is_readable(&from, ended, &mut left) {
        // One reader: the data that poll saw is still there, so this does not block.
        let n = match from.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // EIO: nobody has the terminal open any more.
            Err(_) => 0,
        };
        if n == 0 {
            break;
        }
        left = left.map(|left: u64| left.saturating_sub(n as u64));
        if write_all(connection, &buffer[..n]).is_err() && hang_up == HangUp::Closes {
            return;
        }
    }
    let _ = rustix::net::shutdown(connection, Shutdown::Write);
}

/// Waits for something to read, or an end of file; `false` if there is nothing after the end of the process. Sets
/// `left` once that end is seen: other writers are not followed for ever.
fn is_readable(from: &File, ended: &OwnedFd, left: &mut Option<u64>) -> bool {
    loop {
        let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match rustix::io::retry_on_intr(|| poll(&mut fds, None)) {
            Ok(_) => {}
            // Out of memory: reading blocks until there is something, too.
            Err(_) => return true,
        }
        let (has_input, has_ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if has_ended && left.is_none() {
            *left = Some(ioctl_fionread(from).unwrap_or(0).max(TERMINAL_BUFFER_BYTES));
            // The first poll may be from before the end, and anything that arrived in between was written by the
            // process.
            continue;
        }
        return has_input;
    }
}

fn read(from: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut *buffer))
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(&to, bytes))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Starts a stream's copy between a pipe and a connection. Returns the container's end and the host's.
    fn started(kind: StreamKind) -> (Copies, File, UnixStream) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (agent, host) = UnixStream::pair().unwrap();
        let (end, own) = if kind == StreamKind::Stdin {
            (writer, reader)
        } else {
            (reader, writer)
        };
        let mut copies = Copies::new().unwrap();
        copies.start(kind, end, agent.into(), true).unwrap();
        (copies, File::from(own), host)
    }

    #[test]
    fn output_arrives_whole_and_then_ends() {
        let (copies, mut container, mut host) = started(StreamKind::Stdout);
        let sent = vec![7; 300_000];
        let writer = std::thread::spawn(move || container.write_all(&sent).unwrap());
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        assert_eq!(got, vec![7; 300_000]);
        copies.finish();
    }

    #[test]
    fn the_hosts_end_of_input_is_the_containers() {
        let (_copies, mut container, mut host) = started(StreamKind::Stdin);
        host.write_all(b"words").unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = String::new();
        container.read_to_string(&mut got).unwrap();
        assert_eq!(got, "words");
    }

    #[test]
    fn a_host_that_hangs_up_breaks_the_containers_pipe() {
        sys_ignore_sigpipe();
        let (copies, mut container, host) = started(StreamKind::Stdout);
        drop(host);
        // The first bytes may still find the pipe open.
        let broken = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            container.write_all(b"x").is_err()
        });
        assert!(broken);
        copies.finish();
    }

    #[test]
    fn a_terminal_whose_host_hung_up_does_not_block_the_container() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (agent, host) = UnixStream::pair().unwrap();
        let mut copies = Copies::new().unwrap();
        copies.start(StreamKind::Terminal, reader, agent.into(), false).unwrap();
        drop(host);
        // More than a pipe and a socket hold.
        File::from(writer).write_all(&vec![0; 1 << 20]).unwrap();
        copies.finish();
    }

    #[test]
    fn finishing_ends_an_input_that_waits() {
        let (copies, _container, mut host) = started(StreamKind::Stdin);
        copies.finish();
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_end_is_not_kept_by_others_who_hold_the_output() {
        let (copies, mut container, mut host) = started(StreamKind::Stdout);
        container.write_all(&[7; 60_000]).unwrap();
        let background = container.try_clone().unwrap();
        drop(container);
        copies.finish();
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        assert_eq!(got, vec![7; 60_000]);
        drop(background);
    }

    #[test]
    fn an_end_is_not_kept_by_others_who_go_on_writing() {
        sys_ignore_sigpipe();
        let (copies, mut container, mut host) = started(StreamKind::Stdout);
        let writer = std::thread::spawn(move || while container.write_all(&[1; 4096]).is_ok() {});
        let reader = std::thread::spawn(move || io::copy(&mut host, &mut io::sink()).unwrap());
        copies.finish();
        writer.join().unwrap();
        reader.join().unwrap();
    }

    fn sys_ignore_sigpipe() {
        crate::sys::ignore_sigpipe();
    }
}
