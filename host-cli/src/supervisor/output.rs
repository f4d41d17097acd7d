//! Where a container's output goes: its log, and the clients that are attached. Back-pressure is theirs: a client that
//! does not read holds the container back, and nothing is buffered without bound.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};

use crate::log::{LogStream, LogWriter};
use crate::state::LogOptions;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// The outputs of a container.
#[derive(Debug)]
pub(crate) struct Output {
    log: RefCell<Option<LogWriter>>,
    stdout: Sinks,
    stderr: Sinks,
    /// The container's input, while it takes any.
    input: RefCell<Option<Rc<Mutex<OwnedWriteHalf>>>>,
    /// The owner of the output no longer reads it: the container is told by broken streams.
    pub closed: watch::Sender<bool>,
    /// Clients whose input waits for a container that takes it.
    arrivals: watch::Sender<u64>,
}

/// The clients of one stream.
#[derive(Debug, Default)]
struct Sinks(RefCell<Vec<Rc<Mutex<Option<OwnedWriteHalf>>>>>);

impl Output {
    pub(crate) fn open(log: &Path, options: LogOptions) -> io::Result<Self> {
        let log = options.keep.then(|| LogWriter::open(log, options)).transpose()?;
        Ok(Self {
            log: RefCell::new(log),
            stdout: Sinks::default(),
            stderr: Sinks::default(),
            input: RefCell::default(),
            closed: watch::Sender::new(false),
            arrivals: watch::Sender::new(0),
        })
    }

    fn sinks(&self, stream: LogStream) -> &Sinks {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }

    /// Adds a client: it gets what comes from now on.
    pub(crate) fn add(&self, stream: LogStream, client: OwnedWriteHalf) {
        self.sinks(stream)
            .0
            .borrow_mut()
            .push(Rc::new(Mutex::new(Some(client))));
    }

    /// The container has an input from now on, or none any more.
    pub(crate) fn set_input(&self, input: Option<OwnedWriteHalf>) {
        *self.input.borrow_mut() = input.map(|half| Rc::new(Mutex::new(half)));
        self.arrivals.send_modify(|count| *count += 1);
    }

    async fn input(&self) -> Rc<Mutex<OwnedWriteHalf>> {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            if let Some(input) = self.input.borrow().clone() {
                return input;
            }
            if arrivals.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Copies a client's bytes to the container. `ends_it`: the client's end of file is the container's.
    pub(crate) async fn feed(&self, mut from: OwnedReadHalf, ends_it: bool) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let input = self.input().await;
            // The container closed its input: the client is told by its socket's end.
            if input.lock().await.write_all(&chunk[..count]).await.is_err() {
                return;
            }
        }
        if ends_it {
            // Fails when the guest has closed it already.
            let _ = self.input().await.lock().await.shutdown().await;
        }
    }

    /// Copies one stream to log and clients until it ends or nobody may have it any more.
    pub(crate) async fn drain(&self, stream: LogStream, from: StdStream) -> io::Result<()> {
        from.set_nonblocking(true)?;
        let (read, _write) = UnixStream::from_std(from)?.into_split();
        self.drain_half(stream, read).await
    }

    /// As [`Self::drain`], for a terminal, whose other half is the input.
    pub(crate) async fn drain_half(&self, stream: LogStream, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut closed = self.closed.subscribe();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = tokio::select! {
                read = from.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(count) => count,
                },
                _ = closed.wait_for(|closed| *closed) => return Ok(()),
            };
            self.put(stream, &chunk[..count], &mut closed).await?;
        }
    }

    async fn put(&self, stream: LogStream, bytes: &[u8], closed: &mut watch::Receiver<bool>) -> io::Result<()> {
        if let Some(log) = &mut *self.log.borrow_mut() {
            log.write(stream, bytes)?;
        }
        let clients: Vec<_> = self.sinks(stream).0.borrow().clone();
        for client in clients {
            let write = async {
                let mut slot = client.lock().await;
                if let Some(half) = &mut *slot
                    && half.write_all(bytes).await.is_err()
                {
                    // It has gone.
                    *slot = None;
                }
            };
            tokio::select! {
                () = write => {}
                _ = closed.wait_for(|closed| *closed) => return Ok(()),
            }
        }
        self.sinks(stream)
            .0
            .borrow_mut()
            .retain(|client| client.try_lock().is_ok_and(|slot| slot.is_some()) || Rc::strong_count(client) > 1);
        Ok(())
    }

    /// The container has ended: lines without an end are written, clients see the end of their streams.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.set_input(None);
        for sinks in [&self.stdout, &self.stderr] {
            sinks.0.borrow_mut().clear();
        }
        match &mut *self.log.borrow_mut() {
            Some(log) => log.finish(),
            None => Ok(()),
        }
    }
}
