//! Connection of one command to the supervisor.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::message::{List, Measure, Request as Asked, Update, agent_message, host_message};
use capsid_protocol::spec::{Limits, Task};
use capsid_protocol::{ContainerSpec, Measured, Start};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::timeout;

use super::lifecycle::{exit_code, failed_code, sanitise};
use super::networks_changed;
use super::orders::{ask, freeze, resize, send_signal, signal, stop, unexpected};
use super::output::Sink;
use super::supervised_container::{Outcome, SupervisedContainer};
use crate::control::{
    Answer, Connection, ControlError, ExecRequest, Failure, ProcessLine, Reader, Request, UpdateRequest, Usage, Writer,
};
use crate::log::LogStream;
use crate::model::Exit;
use crate::state::State;
use crate::{events, id, plan};

/// Time limit for the first request of the command that started this process.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Receives the request of the connection that this supervisor was started with, before anything is started: a client
/// that attaches misses nothing. The returned future handles the request.
pub(crate) async fn receive_first(
    supervised: &Rc<SupervisedContainer>,
    mut connection: Connection,
) -> impl Future<Output = ()> + use<> {
    let received_first = timeout(FIRST_WORD, recv(&mut connection)).await.unwrap_or(None);
    let supervised = Rc::clone(supervised);
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
            (Some(request), _) => answer(supervised, connection, request).await,
            (None, _) => {}
        }
    }
}

/// Sends a client a failure in place of an answer.
pub(crate) async fn refuse(connection: &Connection, why: &str) {
    conclude(&connection.writer, Err(Failure::because(why))).await;
}

/// Serves a connection to its end.
pub(crate) async fn serve(supervised: Rc<SupervisedContainer>, mut connection: Connection) {
    let received_first = tokio::select! {
        biased;
        received_first = recv(&mut connection) => received_first,
        // A client that sends no request is not waited for.
        _ = supervised.over() => None,
    };
    if let Some(request) = received_first {
        answer(supervised, connection, request).await;
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

async fn answer(supervised: Rc<SupervisedContainer>, connection: Connection, request: Request) {
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
            // The other members of its networks resolve the new name from now on.
            networks_changed::rename(&supervised).await.map(|()| Answer::Done)
        }
        Request::NetworksChanged => networks_changed::container(&supervised).await,
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
    if changes != Limits::default() {
        let update = Update {
            container: supervised.id.clone(),
            limits: changes,
        };
        let answer = ask(supervised, Asked::Update, host_message::Kind::Update(update)).await?;
        let agent_message::Kind::Updated(_) = answer else {
            return Err(unexpected());
        };
    }
    let mut container = supervised.container.borrow_mut();
    container.spec.limits = limits;
    container.config.restart = request.restart.unwrap_or(container.config.restart);
    let written = State::open(&supervised.data).and_then(|state| state.set_plan(&container));
    events::record(&supervised.data, &container, "update", &[]);
    written.map(|()| Answer::Done).map_err(|e| Failure::of(&e))
}

async fn list(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    let list = List {
        container: supervised.id.clone(),
    };
    let agent_message::Kind::Listed(listed) = ask(supervised, Asked::List, host_message::Kind::List(list)).await?
    else {
        return Err(unexpected());
    };
    let line = |process: capsid_protocol::message::Process| {
        let words = if process.args.is_empty() {
            format!("[{}]", String::from_utf8_lossy(&process.name))
        } else {
            let args = process.args.strip_suffix(b"\0").unwrap_or(&process.args);
            String::from_utf8_lossy(args).replace('\0', " ")
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
            args: sanitise(&words),
        }
    };
    let processes = listed.processes().map_err(|_| unexpected())?;
    Ok(Answer::Listed(processes.into_iter().map(line).collect()))
}

async fn measure(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    let measure = Measure {
        container: supervised.id.clone(),
    };
    let agent_message::Kind::Measured(measured) =
        ask(supervised, Asked::Measure, host_message::Kind::Measure(measure)).await?
    else {
        return Err(unexpected());
    };
    Ok(Answer::Measured(usage(&measured)))
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
    let spec = exec_spec(supervised, &id, &request);
    let words: Vec<_> = request.args.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let words = sanitise(&words.join(" "));
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
    let spec = super::offline_task::beside(&supervised.spec_in_guest(), id, task);
    run_beside(supervised, connection, spec, false).await
}

/// Runs a process that joins the container, from its start to its end.
async fn run_beside(
    supervised: &Rc<SupervisedContainer>,
    connection: Connection,
    spec: ContainerSpec,
    detached: bool,
) -> Result<Answer, Failure> {
    let Connection { mut reader, writer } = connection;
    let guest = supervised.guest()?;
    let id = spec.id.clone();
    let (terminal, stdin) = (spec.terminal.is_some(), spec.stdin);
    let mut messages = guest.listen_to(&id);
    let send = async {
        guest.send(host_message::Kind::Create(Box::new(spec))).await?;
        guest
            .send(host_message::Kind::Start(Start { container: id.clone() }))
            .await
    };
    send.await.map_err(|e| Failure::of(&e))?;
    let streams = guest
        .opener
        .open_all(&id, terminal, stdin)
        .map_err(|e| Failure::of(&e))?;
    let course = async {
        if detached {
            streams.into_iter().for_each(discard);
        } else {
            let fds: Vec<OwnedFd> = streams.into_iter().map(OwnedFd::from).collect();
            writer
                .send_with(&Answer::Streams { terminal }, &fds)
                .await
                .map_err(|e| Failure::of(&e))?;
        }
        loop {
            match messages.recv().await {
                Some(agent_message::Kind::Created(_)) => {}
                Some(agent_message::Kind::Started(_)) if detached => return Ok(start_answer(supervised)),
                Some(agent_message::Kind::Started(_)) => {
                    writer
                        .send(&start_answer(supervised))
                        .await
                        .map_err(|e| Failure::of(&e))?;
                }
                Some(agent_message::Kind::Stopped(stopped)) => {
                    return Ok(Answer::Exited {
                        exit: Exit {
                            code: exit_code(&stopped),
                            oom_killed: false,
                            error: String::new(),
                        },
                        moments: Vec::new(),
                    });
                }
                Some(agent_message::Kind::Failed(failed)) => {
                    return Err(Failure {
                        message: sanitise(&failed.message),
                        code: failed_code(&failed),
                        console: String::new(),
                    });
                }
                Some(_) => return Err(unexpected()),
                // The container ended, and the machine with it.
                None => {
                    return Ok(Answer::Exited {
                        exit: Exit {
                            code: 137,
                            ..Exit::default()
                        },
                        moments: Vec::new(),
                    });
                }
            }
        }
    };
    tokio::select! {
        answer = course => answer,
        // docker's exec continues without its client, and so does this one.
        () = handle_control(supervised, &id, &[], &mut reader) => Err(Failure::because("detached")),
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

/// Creates the spec of an exec process: the container's own, except for what the request changes.
pub(super) fn exec_spec(supervised: &SupervisedContainer, id: &str, request: &ExecRequest) -> ContainerSpec {
    let container = supervised.container.borrow();
    let spec = &container.spec;
    let mut env = spec.env.clone();
    for variable in &request.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|known| known.split(|byte| *byte == b'=').next() != Some(name.as_bytes()));
        env.push(variable.clone().into_bytes());
    }
    let (capabilities, seccomp) = if request.privileged {
        (plan::all_capabilities(), Vec::new())
    } else {
        (spec.capabilities, spec.seccomp.clone())
    };
    ContainerSpec {
        id: id.into(),
        join: Some(supervised.id.clone()),
        args: request.args.clone(),
        env,
        cwd: request.cwd.clone().unwrap_or_else(|| spec.cwd.clone()),
        user: request.user.clone().unwrap_or_else(|| spec.user.clone()),
        additional_groups: spec.additional_groups.clone(),
        terminal: request.size(),
        stdin: request.stdin,
        capabilities,
        no_new_privs: spec.no_new_privs && !request.privileged,
        seccomp,
        rlimits: spec.rlimits.clone(),
        all_devices: spec.all_devices || request.privileged,
        ..ContainerSpec::default()
    }
}
