//! The supervisor of one pod: machine, session, container, and the user's terminal.
//!
//! ```text
//! start machine ─► Hello ─► Create, streams, Start ─► Started ─► signals, resizes ─► Stopped ─► output drained ─► end
//!       └──────────────── whatever ends the machine, or the user's Ctrl-C, ends all of it ───────────┘
//! ```

use std::os::fd::OwnedFd;
use std::time::Duration;

use capsid_protocol::message::{agent_message, host_message};
use capsid_protocol::{ContainerSpec, Failed, Resize, Signal, Stage, Start, Stopped};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::accelerator::{Accelerator, MachineEnd, MachineParts, RunningMachine, StartError};
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::stdio::{Drained, StreamError, StreamOpener};
use crate::terminal::{self, RawMode};
use crate::timings::Timings;

/// From process start to the agent's Hello. Hundreds of milliseconds usually; a host with many busy pods or an
/// emulated one under load takes seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// From Create to Started: disks mounted, program executed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How many SIGINT and SIGTERM end the pod when the container does not care: docker's client counts to three as well.
const INTERRUPTIONS_MAX: u32 = 3;
/// How long a container may go on after its user's terminal is gone: what `docker stop` grants. Nobody could reach it
/// afterwards.
const HANG_UP_GRACE: Duration = Duration::from_secs(10);

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("cannot make a socket for the session")]
    Socket(#[source] std::io::Error),
    #[error("cannot start the machine")]
    Start(#[from] StartError),
    #[error("the machine did not become ready within {} s", BOOT_TIMEOUT.as_secs())]
    BootTimeout,
    #[error("the container did not start within {} s", START_TIMEOUT.as_secs())]
    StartTimeout,
    #[error("the session with the guest failed")]
    Session(#[from] SessionError),
    #[error("cannot attach the container's streams")]
    Streams(#[from] StreamError),
    #[error("cannot write the container's output")]
    Output(#[source] std::io::Error),
    #[error("cannot set the terminal to raw mode")]
    Terminal(#[source] std::io::Error),
    #[error("the machine ended: {}", .end.reason)]
    MachineEnded { end: MachineEnd, started: bool },
    #[error("{}", sanitise(&.0.message))]
    Failed(Failed),
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

/// Runs one container in one machine, attached to the user's stdio. The machine is gone on return.
pub(crate) async fn run(
    accelerator: &dyn Accelerator,
    sockets: Sockets,
    parts: MachineParts,
    spec: ContainerSpec,
    signals: &mut Signals,
    timings: &mut Timings,
) -> Result<Stopped, PodError> {
    let mut machine = accelerator.start(parts)?;
    timings.mark("machine processes started");
    let result = run_in(&mut machine, sockets, spec, signals, timings).await;
    machine.stop().await;
    result
}

/// The steps from a starting machine to a stopped container.
async fn run_in(
    machine: &mut RunningMachine,
    sockets: Sockets,
    spec: ContainerSpec,
    signals: &mut Signals,
    timings: &mut Timings,
) -> Result<Stopped, PodError> {
    let opened = while_machine_runs(machine, false, signals, async {
        timeout(BOOT_TIMEOUT, Session::open(sockets.session))
            .await
            .map_err(|_| PodError::BootTimeout)?
            .map_err(Into::into)
    });
    let session = opened.await?;
    timings.mark("agent ready");
    timings.agent_start_ns = session.hello.agent_start_ns;
    let mut container = Container::begin(session, sockets.control, spec).await?;
    let started = while_machine_runs(machine, false, signals, async {
        timeout(START_TIMEOUT, container.wait_started())
            .await
            .map_err(|_| PodError::StartTimeout)?
    });
    started.await?;
    timings.mark("container started");
    let stopped = tokio::select! {
        stopped = container.attend(signals) => stopped,
        end = &mut machine.end => return Err(ended(end.ok(), true)),
    };
    timings.mark("container stopped");
    match stopped {
        Ok(stopped) => Ok(stopped),
        Err(error) => Err(blame_machine(machine, error, true).await),
    }
}

/// Awaits `step`, unless the machine ends or the user interrupts first.
async fn while_machine_runs<T>(
    machine: &mut RunningMachine,
    started: bool,
    signals: &mut Signals,
    step: impl Future<Output = Result<T, PodError>>,
) -> Result<T, PodError> {
    let result = tokio::select! {
        result = step => result,
        end = &mut machine.end => return Err(ended(end.ok(), started)),
        number = signals.interruption() => return Err(PodError::Interrupted(number)),
    };
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(blame_machine(machine, error, started).await),
    }
}

/// Our ends of the sockets that lead into a machine.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub session: UnixStream,
    pub control: OwnedFd,
}

impl Sockets {
    /// Makes both; the second and third value are the machine's ends.
    pub(crate) fn pair() -> Result<(Self, OwnedFd, OwnedFd), PodError> {
        let (session, machine_session) = std::os::unix::net::UnixStream::pair().map_err(PodError::Socket)?;
        session.set_nonblocking(true).map_err(PodError::Socket)?;
        let session = UnixStream::from_std(session).map_err(PodError::Socket)?;
        let (control, machine_control) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| PodError::Socket(e.into()))?;
        Ok((Self { session, control }, machine_session.into(), machine_control))
    }
}

/// A container that has been asked for.
#[derive(Debug)]
struct Container {
    id: String,
    session: Session,
    outputs: Vec<Drained>,
    /// Held while the container has the terminal.
    raw: Option<RawMode>,
    terminal: bool,
}

impl Container {
    /// Sends Create, the streams and Start in one go: nothing is waited for in between.
    async fn begin(mut session: Session, control: OwnedFd, spec: ContainerSpec) -> Result<Self, PodError> {
        let id = spec.id.clone();
        let (terminal, stdin) = (spec.terminal.is_some(), spec.stdin);
        let opener = StreamOpener {
            control,
            nonce: session.nonce.clone(),
            container: id.clone(),
        };
        session.sender.send(host_message::Kind::Create(Box::new(spec))).await?;
        session
            .sender
            .send(host_message::Kind::Start(Start { container: id.clone() }))
            .await?;
        let raw = (terminal && stdin)
            .then(RawMode::enter)
            .transpose()
            .map_err(PodError::Terminal)?;
        let outputs = if terminal {
            opener.attach_terminal(stdin)?
        } else {
            opener.attach_pipes(stdin)?
        };
        Ok(Self {
            id,
            session,
            outputs,
            raw,
            terminal,
        })
    }

    async fn wait_started(&mut self) -> Result<(), PodError> {
        loop {
            match self.session.receiver.receive().await? {
                agent_message::Kind::Created(_) => {}
                agent_message::Kind::Started(_) => return Ok(()),
                agent_message::Kind::Failed(failed) => {
                    self.raw = None;
                    return Err(PodError::Failed(failed));
                }
                agent_message::Kind::Hello(_) | agent_message::Kind::Stopped(_) => {
                    return Err(SessionError::Unexpected.into());
                }
            }
        }
    }

    /// Forwards signals and sizes until the container has stopped and its output is written.
    async fn attend(&mut self, signals: &mut Signals) -> Result<Stopped, PodError> {
        // The terminal may have been resized while the machine booted.
        self.resize().await?;
        let mut interruptions = 0;
        let mut hung_up = None;
        let stopped = loop {
            tokio::select! {
                message = self.session.receiver.receive() => match message? {
                    agent_message::Kind::Stopped(stopped) => break stopped,
                    agent_message::Kind::Failed(failed) => return Err(PodError::Failed(failed)),
                    _ => return Err(SessionError::Unexpected.into()),
                },
                number = signals.next() => {
                    interruptions += u32::from(matches!(number, libc::SIGINT | libc::SIGTERM));
                    if interruptions >= INTERRUPTIONS_MAX {
                        return Err(PodError::Interrupted(number));
                    }
                    if number == libc::SIGHUP {
                        hung_up.get_or_insert_with(|| Instant::now() + HANG_UP_GRACE);
                    }
                    self.forward(number).await?;
                }
                () = until(hung_up) => return Err(PodError::Interrupted(libc::SIGHUP)),
            }
        };
        for output in std::mem::take(&mut self.outputs) {
            tokio::select! {
                // A thread that ended without a word has nothing left to write.
                written = output => written.unwrap_or(Ok(())).map_err(PodError::Output)?,
                number = signals.interruption() => return Err(PodError::Interrupted(number)),
            }
        }
        self.raw = None;
        Ok(stopped)
    }

    async fn forward(&mut self, number: i32) -> Result<(), PodError> {
        if number == libc::SIGWINCH {
            return self.resize().await;
        }
        let signal = Signal {
            container: self.id.clone(),
            number: number as u32,
        };
        Ok(self.session.sender.send(host_message::Kind::Signal(signal)).await?)
    }

    async fn resize(&mut self) -> Result<(), PodError> {
        let Some(size) = terminal::size().filter(|_| self.terminal) else {
            return Ok(());
        };
        let resize = Resize {
            container: self.id.clone(),
            rows: size.rows,
            columns: size.columns,
        };
        Ok(self.session.sender.send(host_message::Kind::Resize(resize)).await?)
    }
}

/// Waits for a moment that may never come.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A session that breaks mostly does so because the machine is ending: its reason is the better one.
async fn blame_machine(machine: &mut RunningMachine, error: PodError, started: bool) -> PodError {
    if !matches!(error, PodError::Session(SessionError::Closed | SessionError::Io(_))) {
        return error;
    }
    match timeout(Duration::from_secs(2), &mut machine.end).await {
        Ok(end) => ended(end.ok(), started),
        Err(_) => error,
    }
}

fn ended(end: Option<MachineEnd>, started: bool) -> PodError {
    let unknown = || MachineEnd {
        reason: "for an unknown reason".into(),
        killed: false,
        console: String::new(),
    };
    PodError::MachineEnded {
        end: end.unwrap_or_else(unknown),
        started,
    }
}

impl PodError {
    /// The exit code that tells it: docker's where docker has one.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(failed) => match failed.stage() {
                Stage::ExecNotFound => 127,
                Stage::ExecRefused => 126,
                _ => 125,
            },
            Self::Interrupted(number) => 128u8.saturating_add(*number as u8),
            Self::MachineEnded { end, started: true } if end.killed => 137,
            Self::MachineEnded { started: true, .. } => 255,
            _ => 125,
        }
    }
}

/// Text of the guest's on one line, without control characters that could steer the user's terminal.
pub(crate) fn sanitise(text: &str) -> String {
    text.chars()
        .take(1000)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
