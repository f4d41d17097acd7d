//! Output of a container: its log, and the attached clients. Both apply back-pressure: a client that does not read
//! holds the container back, and nothing is buffered without bound. A log that cannot be written ends, and the reason
//! is reported as the container's error.

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
use crate::model::LogOptions;

/// Number of bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Time for which a client that did not start the container may stop reading after the container's end: afterwards it
/// does not get the rest. Before the end, nobody's output is dropped.
const STALLED_MAX: Duration = Duration::from_secs(10);
/// Time after which a client that reads nothing counts as stalled.
const SLOW: Duration = Duration::from_secs(1);

/// Outputs of a container.
#[derive(Debug)]
pub(crate) struct Output {
    /// Log of the container, while it can be written.
    log: RefCell<Option<LogWriter>>,
    /// Reason why the log cannot be written.
    log_failure: watch::Sender<Option<String>>,
    stdout: Sinks,
    stderr: Sinks,
    /// Input of the container, while it accepts any.
    input: RefCell<Option<Rc<Mutex<OwnedWriteHalf>>>>,
    /// Whether the owner of the output no longer reads it: the container notices by broken streams.
    closed: watch::Sender<bool>,
    /// Whether the container has ended; its last output may still be on its way.
    ended: watch::Sender<bool>,
    /// Number of changes of the input. Clients wait for one when the container accepts no input yet.
    arrivals: watch::Sender<u64>,
}

/// Clients of one stream.
#[derive(Debug, Default)]
struct Sinks(RefCell<Vec<Rc<Sink>>>);

/// Client's end of one stream.
#[derive(Debug)]
pub(crate) struct Sink {
    half: Mutex<OwnedWriteHalf>,
    /// Whether the client has left, or was given up.
    gone: watch::Sender<bool>,
    /// Whether the client started the container in the foreground: it owns the output, which waits for it.
    is_owner: bool,
    /// Time since which the output waits for this client.
    waited_for: Cell<Option<Instant>>,
}

impl Sink {
    /// Writes all bytes to the client; `false` when the client is gone.
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

    /// Waits until there is no reason to wait for this client any more.
    async fn given_up(&self, ended: &watch::Sender<bool>) {
        let stalled = async {
            if self.is_owner {
                std::future::pending::<()>().await;
            }
            // The senders live as long as this future.
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

    /// Resets the output for a new life.
    pub(crate) fn begin(&self) {
        self.closed.send_replace(false);
        self.ended.send_replace(false);
    }

    /// Notes that the container has ended; its output will end soon.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    fn sinks(&self, stream: LogStream) -> &Sinks {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }

    /// Adds a client: it receives the output from now on.
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

    /// Whether a client, except for the owner, has not read for a while.
    pub(crate) fn is_stalled(&self) -> bool {
        let is_slow = |since: Instant| since.elapsed() > SLOW;
        let is_stalled = |sink: &Rc<Sink>| !sink.is_owner && sink.waited_for.get().is_some_and(is_slow);
        let mut all = [&self.stdout, &self.stderr].into_iter();
        all.any(|sinks| sinks.0.borrow().iter().any(is_stalled))
    }

    /// Removes the sinks of a client that has left.
    pub(crate) fn remove(&self, sinks: &[Rc<Sink>]) {
        for sink in sinks {
            sink.gone.send_replace(true);
        }
        self.forget_gone();
    }

    /// Removes the sinks of a client whose reader is gone. If the client is the owner, the container notices by broken
    /// streams.
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

    /// Reason why the log is not written any more, if it is not.
    pub(crate) fn log_failure(&self) -> Option<String> {
        self.log_failure.borrow().clone()
    }

    /// Waits until the log cannot be written any more. Returns the reason.
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

    /// Writes to the log. A log that cannot be written ends; the container and its clients continue.
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

    /// Sets the container's input, or removes it.
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

    /// Copies a client's bytes to the container. With `ends_it`, the client's end of file ends the container's input.
    pub(crate) async fn feed(&self, mut from: OwnedReadHalf, ends_it: bool) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let input = self.input().await;
            // The container closed its input: the client notices by the end of its socket.
            if input.lock().await.write_all(&chunk[..count]).await.is_err() {
                return;
            }
        }
        if ends_it {
            // Fails when the guest has closed it already.
            let _ = self.input().await.lock().await.shutdown().await;
        }
    }

    /// Copies one stream to log and clients until it ends or its owner no longer reads it.
    pub(crate) async fn drain(&self, stream: LogStream, from: StdStream) -> io::Result<()> {
        from.set_nonblocking(true)?;
        let (read, _write) = UnixStream::from_std(from)?.into_split();
        self.drain_half(stream, read).await
    }

    /// Copies a terminal's output like [`Self::drain`]; the other half of its stream is the input.
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

    /// Finishes the output after the container's end: writes lines without an end to the log, and ends the clients'
    /// streams.
    pub(crate) fn finish(&self) {
        self.set_input(None);
        for sinks in [&self.stdout, &self.stderr] {
            sinks.0.borrow_mut().clear();
        }
        self.keep(LogWriter::finish);
    }
}
