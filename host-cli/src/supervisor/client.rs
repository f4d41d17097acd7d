//! Connection of one command to the supervisor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::spec::{Limits, Task};
use capsid_protocol::{Measured, Process, ProcessSpec};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::{sleep, timeout};

use super::guest_process::{GuestProcess, ProcessError, status_code};
use super::orders::{freeze, resize, send_signal, signal, stop};
use super::output::Sink;
use super::pod::Pod;
use super::supervised_container::{Outcome, SupervisedContainer};
use super::{networks_changed, specs};
use crate::control::{
    Answer, Connection, ControlError, ExecRequest, Failure, ProcessLine, Reader, Request, UpdateRequest, Usage, Writer,
};
use crate::guest_text::GuestText;
use crate::log::LogStream;
use crate::model::{Exit, exit_code};
use crate::session::SessionError;
use crate::state::State;
use crate::{events, id};

/// Time for the request of a client that has connected just before the container's end.
const LAST_REQUEST: Duration = Duration::from_millis(10);
/// Maximum number of bytes of a process's arguments that are looked at: more than is shown.
const ARGUMENTS_BYTES_MAX: usize = 4096;
/// Time limit for the first request of the command that started this process.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Receives the request of the connection that this supervisor was started with, before anything is started: a client
/// that attaches misses nothing. The returned future handles the request.
pub(crate) async fn receive_first(
    supervised: &Rc<SupervisedContainer>,
    pod: &Rc<Pod>,
    mut connection: Connection,
) -> impl Future<Output = ()> + use<> {
    let received_first = timeout(FIRST_WORD, recv(&mut connection)).await.unwrap_or(None);
    let (supervised, pod) = (Rc::clone(supervised), Rc::clone(pod));
    let prepared = match received_first {
        Some(Request::Attach { stdin }) => Some(attach_streams(&supervised, &connection.writer, stdin, true).await),
        _ => None,
    };
    async move {
        match (received_first, prepared) {
            (Some(Request::Attach { .. }), Some(attached)) => {
                conclude(
                    &connection.writer.clone(),
                    follow(&supervised, connection, attached).await,
                )
                .await;
            }
            (Some(request), _) => answer(supervised, pod, connection, request).await,
            (None, _) => {}
        }
    }
}

/// Sends a client a failure in place of an answer.
pub(crate) async fn refuse(connection: &Connection, why: &str) {
    conclude(&connection.writer, Err(Failure::because(why))).await;
}

/// Serves a connection to its end.
pub(crate) async fn serve(supervised: Rc<SupervisedContainer>, pod: Rc<Pod>, mut connection: Connection) {
    let received_first = tokio::select! {
        biased;
        received_first = recv(&mut connection) => received_first,
        // A client that sends no request is not waited for. A request that has arrived already is answered.
        () = async { supervised.over().await; sleep(LAST_REQUEST).await } => None,
    };
    if let Some(request) = received_first {
        answer(supervised, pod, connection, request).await;
    }
}

async fn recv(connection: &mut Connection) -> Option<Request> {
    match connection.reader.receive::<Request>().await {
        Ok((request, _)) => Some(request),
        Err(ControlError::Message(_)) => {
            let failure =
                Failure::because("this container's supervisor does not know that request: it is of another version");
            conclude(&connection.writer, Err(failure)).await;
            None
        }
        Err(_) => None,
    }
}

async fn answer(supervised: Rc<SupervisedContainer>, pod: Rc<Pod>, connection: Connection, request: Request) {
    let writer = connection.writer.clone();
    let answered = match request {
        Request::Start => started(&supervised).await,
        Request::Attach { stdin } => {
            let attached = attach_streams(&supervised, &writer, stdin, false).await;
            follow(&supervised, connection, attached).await
        }
        Request::Exec(request) => exec(&supervised, connection, *request).await,
        Request::Task(bytes) => task(&supervised, connection, &bytes).await,
        Request::Signal(number) => signal(&supervised, number).await.map(|()| Answer::Done),
        Request::Resize { rows, columns } => resize(&supervised, &supervised.id, rows, columns)
            .await
            .map(|()| Answer::Done),
        Request::HostStops => {
            stop(&supervised, None).await;
            Ok(over(&*supervised.over().await, &supervised))
        }
        Request::Stop { timeout_s } => {
            supervised.note_stopped(true);
            stop(&supervised, timeout_s).await;
            let end = supervised.over().await;
            supervised.record_event("stop", &[]);
            Ok(over(&end, &supervised))
        }
        Request::Pause => freeze(&supervised, true).await,
        Request::Unpause => freeze(&supervised, false).await,
        Request::Wait => Ok(over(&*supervised.over().await, &supervised)),
        Request::Renamed(name) => {
            supervised.container.borrow_mut().name = name;
            let renamed = networks_changed::rename(&pod, &supervised.data).await;
            renamed.map(|()| Answer::Done)
        }
        Request::NetworksChanged => networks_changed::reconcile(&pod, &supervised.data).await,
        Request::Adopt { .. } => Err(Failure::because(
            "this pod is implicit: it has room for its own container alone",
        )),
        Request::Update(request) => update(&supervised, &request).await,
        Request::List => list(&supervised).await,
        Request::Measure => measure(&supervised).await,
        Request::OutputClosed => Ok(Answer::Done),
    };
    conclude(&writer, answered).await;
}

/// Sends the final answer. A client that is gone needs none.
async fn conclude(writer: &Writer, answered: Result<Answer, Failure>) {
    let answer = answered.unwrap_or_else(Answer::Failed);
    let _ = writer.send(&answer).await;
}

async fn started(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    supervised.started().await?;
    Ok(start_answer(supervised))
}

fn start_answer(supervised: &SupervisedContainer) -> Answer {
    Answer::Started {
        moments: supervised.moments.borrow().clone(),
        agent_start_ns: supervised.agent_start_ns.get(),
    }
}

/// Converts the container's outcome to an answer.
fn over(outcome: &Outcome, supervised: &SupervisedContainer) -> Answer {
    let moments = supervised.moments.borrow().clone();
    match outcome {
        Outcome::Exited(exit) => Answer::Exited {
            exit: exit.clone(),
            moments,
        },
        Outcome::Ended(failure) | Outcome::Failed(failure) => Answer::Failed(failure.clone()),
    }
}

/// Creates the streams of an attached client and sends it their other ends. `is_owner` means that it started the
/// container.
async fn attach_streams(
    supervised: &Rc<SupervisedContainer>,
    writer: &Writer,
    stdin: bool,
    is_owner: bool,
) -> Result<Vec<Rc<Sink>>, Failure> {
    let (terminal, has_stdin, ends_it) = {
        let container = supervised.container.borrow();
        (
            container.spec.terminal.is_some(),
            container.spec.stdin,
            container.config.stdin_once,
        )
    };
    let cannot = |e: std::io::Error| Failure::because(format!("cannot make a stream: {e}"));
    let mut theirs: Vec<OwnedFd> = Vec::new();
    let mut sinks = Vec::new();
    let mut pair = || {
        let (ours, other) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.push(other.into());
        Ok(UnixStream::from_std(ours)?.into_split())
    };
    let feed = |from: OwnedReadHalf, ends_it: bool| {
        if has_stdin && stdin {
            let supervised = Rc::clone(supervised);
            tokio::task::spawn_local(async move { supervised.output.feed(from, ends_it).await });
        }
    };
    if terminal {
        let (read, write) = pair().map_err(cannot)?;
        sinks.push(supervised.output.add(LogStream::Stdout, write, is_owner));
        feed(read, false);
    } else {
        let (read, _) = pair().map_err(cannot)?;
        feed(read, ends_it);
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let (_, write) = pair().map_err(cannot)?;
            sinks.push(supervised.output.add(stream, write, is_owner));
        }
    }
    match writer.send_with(&Answer::Streams { terminal }, &theirs).await {
        Ok(()) => Ok(sinks),
        Err(error) => {
            supervised.output.remove(&sinks);
            Err(Failure::of(&error))
        }
    }
}

/// Notifies an attached client of start and end, and handles its requests meanwhile.
async fn follow(
    supervised: &Rc<SupervisedContainer>,
    connection: Connection,
    attached: Result<Vec<Rc<Sink>>, Failure>,
) -> Result<Answer, Failure> {
    let sinks = attached?;
    let Connection { mut reader, writer } = connection;
    let course = async {
        supervised.started().await?;
        writer
            .send(&start_answer(supervised))
            .await
            .map_err(|e| Failure::of(&e))?;
        Ok(over(&*supervised.over().await, supervised))
    };
    let commands = handle_control(supervised, &supervised.id, &sinks, &mut reader);
    tokio::select! {
        answer = course => answer,
        // The client is gone, or has detached.
        () = commands => {
            supervised.output.remove(&sinks);
            Err(Failure::because("detached"))
        }
    }
}

/// Handles signals and terminal sizes for a process, until the client hangs up. `sinks` are the client's ends of the
/// container's output.
async fn handle_control(supervised: &Rc<SupervisedContainer>, process: &str, sinks: &[Rc<Sink>], reader: &mut Reader) {
    while let Ok((request, _)) = reader.receive::<Request>().await {
        // A request that arrives too early or too late is lost, as in docker.
        let _ = match request {
            Request::Signal(number) if process == supervised.id => signal(supervised, number).await,
            Request::Signal(number) => send_signal(supervised, process, number).await,
            Request::Resize { rows, columns } => resize(supervised, process, rows, columns).await,
            Request::OutputClosed => {
                supervised.output.close(sinks);
                Ok(())
            }
            _ => return,
        };
    }
}

/// Updates limits and restart policy. The guest's limits are changed first: what it refuses is not recorded.
async fn update(supervised: &Rc<SupervisedContainer>, request: &UpdateRequest) -> Result<Answer, Failure> {
    let decode = |bytes: &[u8]| Limits::decode(bytes).map_err(|e| Failure::of(&e));
    let (changes, limits) = (decode(&request.changes)?, decode(&request.limits)?);
    let running = supervised.running()?;
    let _turn = running.changing.lock().await;
    if changes != Limits::default() {
        let updated = running.guest.update(&supervised.id, changes).await;
        updated.map_err(|e| Failure::of(&e))?;
    }
    let mut container = supervised.container.borrow_mut();
    container.spec.limits = limits;
    container.config.restart = request.restart.unwrap_or(container.config.restart);
    let written = State::open(&supervised.data).and_then(|state| state.set_plan(&container));
    events::record(&supervised.data, &container, "update", &[]);
    written.map(|()| Answer::Done).map_err(|e| Failure::of(&e))
}

async fn list(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    let running = supervised.running()?;
    let listed = running.guest.list(&supervised.id).await;
    let processes = listed.map_err(|e| Failure::of(&e))?.processes();
    let processes = processes.map_err(|_| Failure::of(&SessionError::Unexpected))?;
    Ok(Answer::Listed(processes.iter().map(process_line).collect()))
}

/// Converts a process of the guest: its text is what the process reports about itself.
fn process_line(process: &Process) -> ProcessLine {
    let args = if process.args.is_empty() {
        GuestText::new(&[b"[", process.name.as_slice(), b"]"].concat())
    } else {
        let args = &process.args[..process.args.len().min(ARGUMENTS_BYTES_MAX)];
        let args = args.strip_suffix(b"\0").unwrap_or(args);
        let spaced: Vec<u8> = args.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
        GuestText::new(&spaced)
    };
    ProcessLine {
        pid: process.inner_pid,
        ppid: process.inner_ppid,
        uid: process.uid,
        state: char::from_u32(process.state)
            .filter(char::is_ascii_alphabetic)
            .unwrap_or('?')
            .to_string(),
        cpu_ms: process.cpu_time_ms,
        start_ms: process.start_time_ms,
        args: args.into(),
    }
}

async fn measure(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    let running = supervised.running()?;
    let measured = running.guest.measure(&supervised.id).await;
    Ok(Answer::Measured(usage(&measured.map_err(|e| Failure::of(&e))?)))
}

/// Converts the guest's measurement of a container, or of itself.
pub(super) fn usage(measured: &Measured) -> Usage {
    Usage {
        memory_bytes: measured
            .memory_current_bytes
            .saturating_sub(measured.memory_inactive_file_bytes),
        memory_max_bytes: measured.memory_max_bytes.unwrap_or(measured.guest_memory_total_bytes),
        cpu_us: measured.cpu_usage_us,
        pids: measured.pids_current,
        read_bytes: measured.io_read_bytes,
        write_bytes: measured.io_write_bytes,
        guest_total_bytes: measured.guest_memory_total_bytes,
        guest_available_bytes: measured.guest_memory_available_bytes,
    }
}

/// Runs another process in the container. Its streams connect the client with the guest, not through this process.
async fn exec(
    supervised: &Rc<SupervisedContainer>,
    connection: Connection,
    request: ExecRequest,
) -> Result<Answer, Failure> {
    let id = id::new().map_err(|e| Failure::of(&e))?;
    let spec = specs::exec(&supervised.container.borrow().spec, id.clone(), &request);
    let words = GuestText::new(&request.args.join(&b' '));
    supervised.record_event(&format!("exec_create: {words}"), &[("execID", &id)]);
    supervised.record_event(&format!("exec_start: {words}"), &[("execID", &id)]);
    let ended = run_beside(supervised, connection, spec, request.detached).await;
    if let Ok(Answer::Exited { exit, .. }) = &ended {
        supervised.record_event("exec_die", &[("execID", &id), ("exitCode", &exit.code.to_string())]);
    }
    ended
}

/// Runs a task of the agent in the container.
async fn task(supervised: &Rc<SupervisedContainer>, connection: Connection, task: &[u8]) -> Result<Answer, Failure> {
    let task = Task::decode(task).map_err(|e| Failure::of(&e))?;
    let id = id::new().map_err(|e| Failure::of(&e))?;
    let spec = specs::task_beside(&supervised.running()?.spec, id, task);
    run_beside(supervised, connection, spec, false).await
}

/// Runs a process that joins the container, from its start to its end.
async fn run_beside(
    supervised: &Rc<SupervisedContainer>,
    connection: Connection,
    spec: impl Into<ProcessSpec>,
    detached: bool,
) -> Result<Answer, Failure> {
    let Connection { mut reader, writer } = connection;
    let guest = Rc::clone(&supervised.running()?.guest);
    let spec = spec.into();
    let terminal = spec.stdio().terminal.is_some();
    let mut process = guest.spawn(spec).await?;
    let id = process.id.clone();
    let course = async {
        let streams = std::mem::take(&mut process.streams);
        if detached {
            streams.into_iter().for_each(discard);
            process.started().await?;
            return Ok(start_answer(supervised));
        }
        hand_over(streams, terminal, &writer).await?;
        match run_to_end(supervised, &mut process, &writer).await {
            Ok(exit) => Ok(exited(exit)),
            // The container ended, and the machine with it.
            Err(error) if error.is_end_of_session() => Ok(exited(exit_code::KILLED)),
            Err(error) => Err(error.into()),
        }
    };
    tokio::select! {
        answer = course => answer,
        // docker's exec continues without its client, and so does this one.
        () = handle_control(supervised, &id, &[], &mut reader) => Err(Failure::because("detached")),
    }
}

/// Hands the streams of a process over to its client, which alone has them then: the guest notices when it closes them.
async fn hand_over(streams: Vec<StdStream>, terminal: bool, writer: &Writer) -> Result<(), Failure> {
    let fds: Vec<OwnedFd> = streams.into_iter().map(OwnedFd::from).collect();
    let sent = writer.send_with(&Answer::Streams { terminal }, &fds).await;
    sent.map_err(|e| Failure::of(&e))
}

/// Reports the start of a process to its client, and waits for its end. Returns its exit code.
async fn run_to_end(
    supervised: &SupervisedContainer,
    process: &mut GuestProcess,
    writer: &Writer,
) -> Result<u8, ProcessError> {
    process.started().await?;
    // A client that is gone ends this by hanging up.
    let _ = writer.send(&start_answer(supervised)).await;
    Ok(status_code(&process.stopped().await?))
}

fn exited(code: u8) -> Answer {
    let exit = Exit {
        code,
        ..Exit::default()
    };
    Answer::Exited {
        exit,
        moments: Vec::new(),
    }
}

/// Reads a stream and drops the data, so that its writer does not block.
fn discard(stream: StdStream) {
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    if let Ok(mut stream) = UnixStream::from_std(stream) {
        tokio::task::spawn_local(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
    }
}
