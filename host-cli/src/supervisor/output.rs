//! Where a container's output goes: its log, and the clients that are attached. Back-pressure is theirs: a client that
//! does not read holds the container back, and nothing is buffered without bound. A log that cannot be written ends,
//! and the reason is told as the container's error.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::log::{LogStream, LogWriter};
use crate::state::LogOptions;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// How long a client that did not start the container may stop reading after the container's end: what it has not
/// read by then it does not get. Before the end, nobody's output is dropped.
const STALLED_MAX: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is looked after.
const SLOW: Duration = Duration::from_secs(1);

/// The outputs of a container.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its log, while it can be written.
    log: RefCell<Option<LogWriter>>,
    /// Why it cannot.
    log_failure: watch::Sender<Option<String>>,
    stdout: Sinks,
    stderr: Sinks,
    /// The container's input, while it takes any.
    input: RefCell<Option<Rc<Mutex<OwnedWriteHalf>>>>,
    /// The owner of the output no longer reads it: the container is told by broken streams.
    closed: watch::Sender<bool>,
    /// The container has ended; its last output may still be on its way.
    ended: watch::Sender<bool>,
    /// Clients whose input waits for a container that takes it.
    arrivals: watch::Sender<u64>,
}

/// The clients of one stream.
#[derive(Debug, Default)]
struct Sinks(RefCell<Vec<Rc<Sink>>>);

/// A client's end of one stream.
#[derive(Debug)]
pub(crate) struct Sink {
    half: Mutex<OwnedWriteHalf>,
    /// Its client has left, or was given up.
    gone: watch::Sender<bool>,
    /// Its client started the container in the foreground: the output is its own, and waits for it.
    is_owner: bool,
    /// Since when it has been waited for.
    waited_for: Cell<Option<Instant>>,
}

impl Sink {
    /// Hands over all of it; `false` when the client is gone.
    async fn take(&self, mut bytes: &[u8], ended: &watch::Sender<bool>) -> bool {
        let mut half = self.half.lock().await;
        while !bytes.is_empty() {
            self.waited_for.set(Some(Instant::now()));
            tokio::select! {
                written = half.write(bytes) => match written {
                    Ok(0) | Err(_) => return false,
                    Ok(count) => bytes = &bytes[count..],
                },
                () = self.given_up(ended) => return false,
            }
        }
        self.waited_for.set(None);
        true
    }

    /// Waits until there is no reason to wait for this client.
    async fn given_up(&self, ended: &watch::Sender<bool>) {
        let stalled = async {
            if self.is_owner {
                std::future::pending::<()>().await;
            }
            // The senders live as long as whoever waits here.
            let _ = ended.subscribe().wait_for(|ended| *ended).await;
            sleep(STALLED_MAX).await;
        };
        let mut gone = self.gone.subscribe();
        tokio::select! {
            _ = gone.wait_for(|gone| *gone) => {}
            () = stalled => {}
        }
    }
}

impl Output {
    pub(crate) fn open(log: &Path, options: LogOptions) -> io::Result<Self> {
        let log = options.keep.then(|| LogWriter::open(log, options)).transpose()?;
        Ok(Self {
            log: RefCell::new(log),
            log_failure: watch::Sender::new(None),
            stdout: Sinks::default(),
            stderr: Sinks::default(),
            input: RefCell::default(),
            closed: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            arrivals: watch::Sender::new(0),
        })
    }

    /// A life begins.
    pub(crate) fn begin(&self) {
        self.closed.send_replace(false);
        self.ended.send_replace(false);
    }

    /// The container has ended, and its output will.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    fn sinks(&self, stream: LogStream) -> &Sinks {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }

    /// Adds a client: it gets what comes from now on.
    pub(crate) fn add(&self, stream: LogStream, client: OwnedWriteHalf, is_owner: bool) -> Rc<Sink> {
        let sink = Rc::new(Sink {
            half: Mutex::new(client),
            gone: watch::Sender::new(false),
            is_owner,
            waited_for: Cell::default(),
        });
        self.sinks(stream).0.borrow_mut().push(Rc::clone(&sink));
        sink
    }

    /// A client has not read for a while.
    pub(crate) fn is_stalled(&self) -> bool {
        let is_slow = |since: Instant| since.elapsed() > SLOW;
        let is_stalled = |sink: &Rc<Sink>| !sink.is_owner && sink.waited_for.get().is_some_and(is_slow);
        let mut all = [&self.stdout, &self.stderr].into_iter();
        all.any(|sinks| sinks.0.borrow().iter().any(is_stalled))
    }

    /// A client has left.
    pub(crate) fn remove(&self, sinks: &[Rc<Sink>]) {
        for sink in sinks {
            sink.gone.send_replace(true);
        }
        self.forget_gone();
    }

    /// A client's reader has gone. When the output is its own, the container is told by broken streams.
    pub(crate) fn close(&self, sinks: &[Rc<Sink>]) {
        if sinks.iter().any(|sink| sink.is_owner) {
            self.closed.send_replace(true);
        }
        self.remove(sinks);
    }

    fn forget_gone(&self) {
        for sinks in [&self.stdout, &self.stderr] {
            sinks.0.borrow_mut().retain(|sink| !*sink.gone.borrow());
        }
    }

    /// Why the log is not written any more, once it is not.
    pub(crate) fn log_failure(&self) -> Option<String> {
        self.log_failure.borrow().clone()
    }

    /// Waits until the log cannot be written any more: why.
    pub(crate) async fn log_failed(&self) -> String {
        let mut failure = self.log_failure.subscribe();
        loop {
            if let Some(words) = &*failure.borrow_and_update() {
                return words.clone();
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Writes to the log. One that cannot be written ends; the container and its clients go on.
    fn keep(&self, write: impl FnOnce(&mut LogWriter) -> io::Result<()>) {
        let mut log = self.log.borrow_mut();
        if let Some(writer) = &mut *log
            && let Err(error) = write(writer)
        {
            *log = None;
            let words = format!("the log ends early: it could not be written: {error}");
            self.log_failure.send_replace(Some(words));
        }
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
            self.put(stream, &chunk[..count], &mut closed).await;
        }
    }

    async fn put(&self, stream: LogStream, bytes: &[u8], closed: &mut watch::Receiver<bool>) {
        self.keep(|log| log.write(stream, bytes));
        let clients: Vec<_> = self.sinks(stream).0.borrow().clone();
        for client in clients {
            tokio::select! {
                took = client.take(bytes, &self.ended) => if !took {
                    client.gone.send_replace(true);
                },
                _ = closed.wait_for(|closed| *closed) => return,
            }
        }
        self.forget_gone();
    }

    /// The container has ended: lines without an end are written, clients see the end of their streams.
    pub(crate) fn finish(&self) {
        self.set_input(None);
        for sinks in [&self.stdout, &self.stderr] {
            sinks.0.borrow_mut().clear();
        }
        self.keep(LogWriter::finish);
    }
}
