//! The agent's side of the session with the host.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use capsid_protocol::message::REQUESTS_MAX;
use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::process::process_spec::Kind as Process;
use capsid_protocol::spec::{Network, TerminalSize};
use capsid_protocol::{
    AgentMessage, FailedStep, FrameError, Hello, HostMessage, KeepFree, ProcessSpec, SESSION_PORT, STREAM_PORT, Signal,
    StreamHello, VERSION, read_frame, write_frame,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

use crate::arguments::ArgumentReaders;
use crate::container::Container;
use crate::exec_process::ExecProcess;
use crate::limits::{
    CONTAINERS_MAX, DIAL_WAIT, EXEC_PROCESSES_MAX, KEEP_FREE_MAX, LINGER, SHUTDOWN_WAIT, STREAM_WAIT,
    WAITING_STREAMS_MAX,
};
use crate::process_lifecycle::{AgentContext, LifecycleError, ProcessLifecycle};
use crate::request::{RequestError, SessionRequest};
use crate::spec::{self, SpecError};
use crate::{clock, failure, free_space, log, sys, threads};

/// Error that ended a session other than by `Shutdown`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The agent cannot listen for stream connections.
    #[error("cannot listen on vsock port {STREAM_PORT}")]
    Listen(#[source] std::io::Error),
    /// The host does not accept the connection.
    #[error("cannot connect to vsock port {SESSION_PORT} of the host")]
    Dial(#[source] std::io::Error),
    /// A frame from the host is missing or wrong.
    #[error("cannot read from the host")]
    Read(#[source] FrameError),
    /// The host does not accept a frame of the agent.
    #[error("cannot write to the host")]
    Write(#[source] FrameError),
    /// The first message of the host is not `Hello`.
    #[error("the host did not say hello")]
    NoHello,
    /// The host has another version.
    #[error("the host speaks version {0}, the agent {VERSION}")]
    Version(u32),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The entropy could not be used.
    #[error("cannot add the host's entropy")]
    Entropy(#[source] Errno),
}

/// Session after its hellos.
struct Session {
    nonce: Vec<u8>,
    /// Connection for frames to the host, each written whole.
    writer: Mutex<VsockStream>,
    members: Mutex<HashMap<String, SessionProcess>>,
    /// Ids of processes that were refused, each with its time; locked after `members`.
    refused: Mutex<VecDeque<(String, Instant)>>,
    /// Signaled when a member is added or removed.
    changed: Condvar,
    waiting_streams: AtomicUsize,
    /// Number of requests that are being performed.
    pending_requests: AtomicUsize,
    /// Threads that read the arguments of processes.
    readers: Arc<ArgumentReaders>,
    /// Queue to the thread that keeps disks free, in the order of the host's messages.
    keep_free: SyncSender<KeepFree>,
    context: Arc<AgentContext>,
}

/// Maximum number of refused ids that are known.
const REFUSED_MAX: usize = 64;
/// Time for which a refused id is known: its streams come at the same time. The host may use it again later.
const REFUSED_KNOWN: Duration = Duration::from_secs(1);

/// Member of the session, identified by its id.
#[derive(Clone)]
enum SessionProcess {
    Container(Arc<Container>),
    Exec(Arc<ExecProcess>),
}

impl SessionProcess {
    fn lifecycle(&self) -> &Arc<ProcessLifecycle> {
        match self {
            Self::Container(container) => &container.lifecycle,
            Self::Exec(exec_process) => &exec_process.lifecycle,
        }
    }

    fn run_once(&self, context: &AgentContext, report: impl Fn(Report)) {
        match self {
            Self::Container(container) => container.run_once(context, report),
            Self::Exec(exec_process) => exec_process.run_once(context, report),
        }
    }
}

/// Serves the host until it sends `Shutdown`, which is `Ok`, or is lost. Containers are gone afterwards.
pub(crate) fn run(context: Arc<AgentContext>, agent_start_ns: u64) -> Result<(), SessionError> {
    // Before dialing: the host may connect streams as soon as it has the session.
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, STREAM_PORT).map_err(SessionError::Listen)?;
    let mut reader = dial()?;
    let nonce = greet(&mut reader, agent_start_ns)?;
    let writer = reader.try_clone().map_err(SessionError::Dial)?;
    let (keep_free, keep_free_queue) = sync_channel(KEEP_FREE_MAX);
    let session = Arc::new(Session {
        nonce,
        keep_free,
        pending_requests: AtomicUsize::new(0),
        readers: Arc::default(),
        writer: Mutex::new(writer),
        members: Mutex::default(),
        refused: Mutex::default(),
        changed: Condvar::new(),
        waiting_streams: AtomicUsize::new(0),
        context,
    });
    let acceptor = Arc::clone(&session);
    threads::spawn("accept", move || accept(&acceptor, &listener)).map_err(SessionError::Thread)?;
    threads::spawn("keep-free", move || {
        keep_free_queue.iter().for_each(|parts| free_space::keep(&parts));
    })
    .map_err(SessionError::Thread)?;
    let end = serve(&session, &mut reader);
    if session.end_members() && end.is_ok() {
        linger(&mut reader);
    }
    end
}

/// Waits until the last messages have left the machine: until the host closes, or a moment.
fn linger(host: &mut VsockStream) {
    let closing = host
        .shutdown(Shutdown::Write)
        .and_then(|()| host.set_read_timeout(Some(LINGER)));
    if closing.is_ok() {
        // Whatever arrives, or does not, the time is over.
        let _ = host.read(&mut [0; 64]);
    }
}

/// Connects to the host; waits a little for a device that is still being probed.
fn dial() -> Result<VsockStream, SessionError> {
    let deadline = Instant::now() + DIAL_WAIT;
    loop {
        match VsockStream::connect_with_cid_port(VMADDR_CID_HOST, SESSION_PORT) {
            Ok(stream) => return Ok(stream),
            Err(e) if is_too_early(&e) && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => return Err(SessionError::Dial(e)),
        }
    }
}

/// Whether there is no transport to the host yet.
fn is_too_early(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
    )
}

/// Exchanges hellos. Returns the session's nonce.
fn greet(host: &mut VsockStream, agent_start_ns: u64) -> Result<Vec<u8>, SessionError> {
    let message: HostMessage = read_frame(host).map_err(SessionError::Read)?;
    let Some(Intent::Hello(hello)) = message.kind else {
        return Err(SessionError::NoHello);
    };
    let answer = Hello {
        version: VERSION,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        nonce: hello.nonce.clone(),
        agent_start_ns,
        ..Hello::default()
    };
    // Also sent to a host of another version: it shows its user both numbers.
    write_frame(host, &AgentMessage::from(Report::Hello(answer))).map_err(SessionError::Write)?;
    if hello.version != VERSION {
        return Err(SessionError::Version(hello.version));
    }
    if let Ok(entropy) = <[u8; sys::ENTROPY_BYTES]>::try_from(hello.entropy.as_slice()) {
        add_entropy(entropy).map_err(SessionError::Entropy)?;
    }
    Ok(hello.nonce)
}

fn add_entropy(entropy: [u8; sys::ENTROPY_BYTES]) -> Result<(), Errno> {
    let random = rustix::fs::open("/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::add_entropy(rustix::fd::AsFd::as_fd(&random), entropy)
}

/// Performs the host's intents until `Shutdown`.
fn serve(session: &Arc<Session>, host: &mut VsockStream) -> Result<(), SessionError> {
    loop {
        let message: HostMessage = read_frame(host).map_err(SessionError::Read)?;
        match message.kind {
            Some(Intent::Create(spec)) => session.create(*spec),
            Some(Intent::Start(start)) => session.with(&start.container, ProcessLifecycle::start),
            Some(Intent::Signal(signal)) => session.signal(&signal),
            Some(Intent::Resize(resize)) => {
                let size = TerminalSize {
                    rows: resize.rows,
                    columns: resize.columns,
                };
                session.with(&resize.container, |c| c.resize(size));
            }
            Some(Intent::Shutdown(_)) => return Ok(()),
            // Answered by this thread, which waits for no container and no request.
            Some(Intent::Ping(ping)) => session.report(Report::Pong(clock::answer(&ping))),
            Some(Intent::KeepFree(parts)) => session.keep_free(parts),
            Some(intent) => match SessionRequest::of(intent) {
                Some(request) => session.request(message.request_id, request),
                // Versions are equal, so this is a mistake of the host; there is nothing in it to act on.
                None => log::warn("ignoring an unexpected message of the host"),
            },
            None => log::warn("ignoring an empty message of the host"),
        }
    }
}

impl Session {
    fn members(&self) -> MutexGuard<'_, HashMap<String, SessionProcess>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a report to the host.
    fn report(&self, report: Report) {
        self.send(&AgentMessage::from(report));
    }

    /// Sends the response to a request to the host.
    fn respond(&self, request_id: u64, response: Report) {
        self.send(&AgentMessage {
            request_id,
            kind: Some(response),
        });
    }

    /// Sends a message to the host. The reader notices a host that is gone.
    fn send(&self, message: &AgentMessage) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = write_frame(&mut *writer, message) {
            log::warn(&format!("cannot write to the host: {}", log::chain(&e)));
        }
    }

    /// Starts a container, or a process that joins one, in a thread of its own.
    fn create(self: &Arc<Self>, spec: ProcessSpec) {
        let id = spec.id().to_owned();
        let failed = |step, error: &(dyn std::error::Error + 'static)| {
            self.report(Report::Failed(failure::failed(&id, step, error)));
        };
        let member = match self.admit(spec) {
            Ok(member) => member,
            Err(error) => {
                self.refuse(&id, &error);
                return failed(FailedStep::Spec, &error);
            }
        };
        self.changed.notify_all();
        let session = Arc::clone(self);
        let lifecycle = move || {
            member.run_once(&session.context, |report| {
                // Held over the report of an end: a host that reads it may use the id again, and a shutdown that
                // finds no member left finds the report sent.
                let mut members = session.members();
                if matches!(report, Report::Failed(_) | Report::Stopped(_)) {
                    members.remove(&member.lifecycle().id);
                }
                session.report(report);
            });
            session.changed.notify_all();
        };
        if let Err(e) = threads::spawn("lifecycle", lifecycle) {
            self.members().remove(&id);
            failed(FailedStep::Unknown, &SessionError::Thread(e));
        }
    }

    /// Adds the container or process of `spec` to the members, if it is valid and there is room for it.
    fn admit(&self, spec: ProcessSpec) -> Result<SessionProcess, AdmitError> {
        spec::check(&spec)?;
        let id = spec.id().to_owned();
        let target = target(&spec).map(str::to_owned);
        let mut members = self.members();
        if members.contains_key(&id) {
            return Err(AdmitError::Taken(id));
        }
        let exec_processes = members
            .values()
            .filter(|m| matches!(m, SessionProcess::Exec(_)))
            .count();
        let (count, max) = match &target {
            Some(_) => (exec_processes, EXEC_PROCESSES_MAX),
            None => (members.len() - exec_processes, CONTAINERS_MAX),
        };
        if count >= max {
            return Err(AdmitError::TooMany(max));
        }
        let member = match (target, spec.kind) {
            (None, Some(Process::Container(spec))) => SessionProcess::Container(Arc::new(Container::new(*spec))),
            (None, Some(Process::Task(spec))) => SessionProcess::Container(Arc::new(Container::for_task(*spec))),
            (Some(target), kind) => match members.get(&target) {
                Some(SessionProcess::Container(container)) => {
                    let container = Arc::clone(container);
                    SessionProcess::Exec(Arc::new(ExecProcess::new(ProcessSpec { kind }, container)))
                }
                _ => return Err(AdmitError::Target(LifecycleError::NotRunning(target))),
            },
            (None, Some(Process::Exec(_)) | None) => return Err(SpecError::Kind.into()),
        };
        members.insert(id, member.clone());
        Ok(member)
    }

    /// Calls `act` with a member, unless it is gone already.
    fn with(&self, id: &str, act: impl FnOnce(&ProcessLifecycle)) {
        let member = self.members().get(id).cloned();
        if let Some(member) = member {
            act(member.lifecycle());
        }
    }

    /// Performs a request in a thread of its own: a container that delays its response delays no other request.
    fn request(self: &Arc<Self>, id: u64, request: SessionRequest) {
        let session = Arc::clone(self);
        if self.pending_requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            self.pending_requests.fetch_sub(1, Ordering::Relaxed);
            return self.respond(id, request.failure(&RequestError::TooMany));
        }
        let spawned = threads::spawn("request", move || {
            let find = |id: &str| match session.members().get(id) {
                Some(SessionProcess::Container(container)) => Some(Arc::clone(container)),
                _ => None,
            };
            let configure_network = |network: &Network| session.context.configure_pod_network(network);
            let response = request.perform(find, configure_network, &session.readers);
            session.pending_requests.fetch_sub(1, Ordering::Relaxed);
            session.respond(id, response);
        });
        if let Err(e) = spawned {
            self.pending_requests.fetch_sub(1, Ordering::Relaxed);
            let failed = failure::failed("", FailedStep::Unknown, &SessionError::Thread(e));
            self.respond(id, Report::Failed(failed));
        }
    }

    /// Queues a change of what the host can store. One that finds no room has no effect until the next.
    fn keep_free(&self, parts: KeepFree) {
        if self.keep_free.try_send(parts).is_err() {
            log::warn("too many changes of the host's free space wait");
        }
    }

    fn signal(&self, signal: &Signal) {
        match i32::try_from(signal.number) {
            Ok(number @ 1..=64) => self.with(&signal.container, |c| c.signal(number)),
            _ => log::warn("ignoring a signal that is none"),
        }
    }

    /// Kills all members and waits for their ends; `false` if there were none.
    fn end_members(&self) -> bool {
        if self.members().is_empty() {
            return false;
        }
        for member in self.members().values() {
            member.lifecycle().signal(libc::SIGKILL);
        }
        let deadline = Instant::now() + SHUTDOWN_WAIT;
        let mut members = self.members();
        while !members.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn("containers are left at shutdown");
                break;
            }
            (members, _) = self
                .changed
                .wait_timeout(members, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Closes the streams of a process that was refused: those that wait already, and those that come soon.
    fn refuse(&self, id: &str, error: &AdmitError) {
        if matches!(error, AdmitError::Taken(_)) {
            // They belong to the process that has the id.
            return;
        }
        let members = self.members();
        let mut refused = self.refused();
        if refused.len() == REFUSED_MAX {
            refused.pop_front();
        }
        refused.push_back((id.to_owned(), Instant::now()));
        drop((refused, members));
        self.changed.notify_all();
    }

    fn refused(&self) -> MutexGuard<'_, VecDeque<(String, Instant)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_refused(&self, id: &str) -> bool {
        let refused = self.refused();
        let mut recent = refused.iter().filter(|(_, at)| at.elapsed() < REFUSED_KNOWN);
        recent.any(|(known, _)| known == id)
    }

    /// Waits for a member that the host is just creating: connections may overtake messages. `None` for one that was
    /// refused, or that does not come.
    fn wait_for(&self, id: &str) -> Option<SessionProcess> {
        let deadline = Instant::now() + STREAM_WAIT;
        let mut members = self.members();
        loop {
            if let Some(member) = members.get(id) {
                return Some(member.clone());
            }
            if self.was_refused(id) {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (members, _) = self
                .changed
                .wait_timeout(members, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Returns the id of the running container that a process is to join.
fn target(spec: &ProcessSpec) -> Option<&str> {
    match spec.kind.as_ref()? {
        Process::Exec(spec) => Some(&spec.container),
        Process::Task(spec) if spec.is_running => Some(&spec.container.id),
        Process::Task(_) | Process::Container(_) => None,
    }
}

/// Reason why the pod takes no further member.
#[derive(Debug, thiserror::Error)]
enum AdmitError {
    /// The spec is not valid.
    #[error("the spec is refused")]
    Spec(#[from] SpecError),
    /// The id is in use.
    #[error("the pod has a container {0} already")]
    Taken(String),
    /// The maximum number of members is reached.
    #[error("the pod has {0} of them already")]
    TooMany(usize),
    /// The container to join is not running.
    #[error(transparent)]
    Target(LifecycleError),
}

/// Accepts stream connections, each handled by a thread until it has found its container.
fn accept(session: &Arc<Session>, listener: &VsockListener) {
    loop {
        let connection = match listener.accept() {
            // A container may dial us through the loopback transport, but only the host is CID 2.
            Ok((connection, peer)) if peer.cid() == VMADDR_CID_HOST => connection,
            Ok(_) => continue,
            Err(e) => {
                log::warn(&format!("cannot accept a stream: {e}"));
                // Out of descriptors or memory: others may give some back.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if session.waiting_streams.fetch_add(1, Ordering::Relaxed) >= WAITING_STREAMS_MAX {
            session.waiting_streams.fetch_sub(1, Ordering::Relaxed);
            log::warn("too many streams wait for their container");
            continue;
        }
        let welcome = Arc::clone(session);
        let spawned = threads::spawn("stream-hello", move || {
            if let Err(e) = find_container(&welcome, connection) {
                log::warn(&format!("refusing a stream: {}", log::chain(&e)));
            }
            welcome.waiting_streams.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(e) = spawned {
            session.waiting_streams.fetch_sub(1, Ordering::Relaxed);
            log::warn(&format!("cannot serve a stream: {e}"));
        }
    }
}

/// Reason why a stream connection is refused.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    /// The time limit for the hello cannot be set.
    #[error("cannot set a time limit")]
    Timeout(#[source] std::io::Error),
    /// The hello is missing or malformed.
    #[error("no hello")]
    Hello(#[source] FrameError),
    /// The nonce belongs to another session.
    #[error("wrong nonce")]
    Nonce,
    /// There is no such container.
    #[error("no such container")]
    Container,
}

/// Reads a connection's hello and attaches the connection to its container.
fn find_container(session: &Session, mut connection: VsockStream) -> Result<(), StreamError> {
    connection
        .set_read_timeout(Some(STREAM_WAIT))
        .map_err(StreamError::Timeout)?;
    let hello: StreamHello = read_frame(&mut connection).map_err(StreamError::Hello)?;
    connection.set_read_timeout(None).map_err(StreamError::Timeout)?;
    if hello.nonce != session.nonce {
        return Err(StreamError::Nonce);
    }
    let member = session.wait_for(&hello.container).ok_or(StreamError::Container)?;
    member.lifecycle().attach(hello.stream(), OwnedFd::from(connection));
    Ok(())
}
