//! Commands on their connections.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::process::process_spec::Kind;
use capsid_protocol::{FailedStep, Listed, Measured, Process};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::supervised_container::{ContainerPhase, Outcome};
use super::fake_agent::failed;
use super::{World, run};
use crate::control::{Answer, Connection, ExecRequest, Request};
use crate::model::Exit;

/// Connection of a command, served by the container's supervisor.
struct Command {
    connection: Connection,
    _serving: JoinHandle<()>,
}

impl Command {
    /// Sends a request.
    async fn send(world: &World, request: &Request) -> Self {
        let (connection, theirs) = Connection::pair().unwrap();
        let serving = world.serve(theirs);
        let serving = tokio::task::spawn_local(serving);
        connection.writer.send(request).await.unwrap();
        Self {
            connection,
            _serving: serving,
        }
    }

    async fn answer(&mut self) -> (Answer, Vec<OwnedFd>) {
        self.connection.reader.receive().await.unwrap()
    }
}

fn exec(words: &[&str]) -> Request {
    Request::Exec(Box::new(ExecRequest {
        args: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        ..ExecRequest::default()
    }))
}

fn end(world: &World, code: u8) {
    let exit = Exit {
        code,
        ..Exit::default()
    };
    let over = ContainerPhase::Over(Rc::new(Outcome::Exited(exit)));
    world.supervised.phase.send_replace(over);
}

fn exit_code(answer: &Answer) -> u8 {
    match answer {
        Answer::Exited { exit, .. } => exit.code,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_wait_is_answered_by_the_end_before_it_and_after_it() {
    run(async {
        let world = World::new();
        let mut early = Command::send(&world, &Request::Wait).await;
        assert!(timeout(Duration::from_secs(60), early.answer()).await.is_err());
        end(&world, 4);
        let mut late = Command::send(&world, &Request::Wait).await;
        assert_eq!(exit_code(&early.answer().await.0), 4);
        assert_eq!(exit_code(&late.answer().await.0), 4);
    });
}

#[test]
fn an_exec_connects_its_client_with_the_guest() {
    run(async {
        let (world, mut agent) = World::running().await;
        let mut command = Command::send(&world, &exec(&["cat"])).await;
        let spec = agent.receive_process().await;
        let Some(Kind::Exec(exec)) = &spec.kind else {
            panic!("no exec process");
        };
        assert_eq!((exec.container.as_str(), exec.args.len()), (world.id(), 1));
        let (Answer::Streams { terminal: false }, fds) = command.answer().await else {
            panic!("no streams");
        };
        let mut stdout = StdStream::from(fds.into_iter().next().unwrap());
        agent.take_stream().1.write_all(b"from the guest").unwrap();
        let mut text = [0; 14];
        stdout.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"from the guest");
        agent.report_start(spec.id()).await;
        assert!(matches!(command.answer().await.0, Answer::Started { .. }));
        agent.report_exit(spec.id(), 6).await;
        assert_eq!(exit_code(&command.answer().await.0), 6);
    });
}

#[test]
fn a_stream_that_its_client_closes_is_closed_for_the_guest() {
    run(async {
        let (world, mut agent) = World::running().await;
        let mut command = Command::send(&world, &exec(&["yes"])).await;
        agent.receive_process().await;
        let (Answer::Streams { .. }, fds) = command.answer().await else {
            panic!("no streams");
        };
        drop(fds);
        let (_, mut stdout) = agent.take_stream();
        assert_eq!(stdout.read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn an_exec_of_no_such_program_fails_with_127() {
    run(async {
        let (world, mut agent) = World::running().await;
        let mut command = Command::send(&world, &exec(&["nothing"])).await;
        let spec = agent.receive_process().await;
        agent
            .report(failed(spec.id(), FailedStep::ExecNotFound, "nothing: not found"))
            .await;
        command.answer().await;
        let (Answer::Failed(failure), _) = command.answer().await else {
            panic!("no failure");
        };
        assert_eq!((failure.code, failure.message.as_str()), (127, "nothing: not found"));
    });
}

#[test]
fn an_exec_whose_container_ends_with_its_machine_was_killed() {
    run(async {
        let (world, mut agent) = World::running().await;
        let mut command = Command::send(&world, &exec(&["sleep"])).await;
        let spec = agent.receive_process().await;
        agent.report_start(spec.id()).await;
        command.answer().await;
        command.answer().await;
        drop(agent);
        assert_eq!(exit_code(&command.answer().await.0), 137);
    });
}

#[test]
fn an_exec_goes_on_without_its_client() {
    run(async {
        let (world, mut agent) = World::running().await;
        let mut command = Command::send(&world, &exec(&["sleep"])).await;
        let spec = agent.receive_process().await;
        agent.report_start(spec.id()).await;
        command.answer().await;
        drop(command);
        // Nobody kills it, and its end is nobody's.
        timeout(Duration::from_secs(30), agent.only_live()).await.unwrap_err();
        agent.report_exit(spec.id(), 0).await;
        timeout(Duration::from_secs(30), agent.only_live()).await.unwrap_err();
    });
}

#[test]
fn signals_on_an_execs_connection_are_its_own() {
    run(async {
        let (world, mut agent) = World::running().await;
        let command = Command::send(&world, &exec(&["sleep"])).await;
        let spec = agent.receive_process().await;
        command.connection.writer.send(&Request::Signal(9)).await.unwrap();
        let (_, Intent::Signal(signal)) = agent.receive().await else {
            panic!("no Signal");
        };
        assert_eq!((signal.container, signal.number), (spec.id().into(), 9));
        assert!(!world.supervised.is_stop_asked());
    });
}

#[test]
fn an_exec_in_a_container_that_does_not_run_is_refused() {
    run(async {
        let world = World::new();
        let mut command = Command::send(&world, &exec(&["true"])).await;
        let (Answer::Failed(failure), _) = command.answer().await else {
            panic!("no failure");
        };
        assert_eq!(failure.message, "container web-a is not running");
    });
}

/// Sends a request that the agent responds to with this.
async fn asked(request: &Request, response: Report) -> Answer {
    let (world, mut agent) = World::running().await;
    let mut command = Command::send(&world, request).await;
    let (id, _) = agent.receive().await;
    agent.respond(id, response).await;
    command.answer().await.0
}

#[test]
fn what_processes_report_of_themselves_does_nothing_to_a_terminal() {
    run(async {
        let process = |args: &[u8], name: &[u8], state: u32| Process {
            inner_pid: 5,
            args: args.to_vec(),
            name: name.to_vec(),
            state,
            ..Process::default()
        };
        let some = [
            process(b"sh\0-c\0\x1b[2Jx\0", b"sh", u32::from('S')),
            process(b"", b"k\x07", 0x1b),
        ];
        let listed = Listed {
            packed: Listed::pack(&some),
            ..Listed::default()
        };
        let Answer::Listed(lines) = asked(&Request::List, Report::Listed(listed)).await else {
            panic!("no list");
        };
        let lines: Vec<_> = lines
            .iter()
            .map(|line| (line.args.as_str(), line.state.as_str()))
            .collect();
        assert_eq!(lines, [("sh -c \\u{1b}[2Jx", "S"), ("[k\\u{7}]", "?")]);
    });
}

#[test]
fn a_malformed_list_is_an_error() {
    run(async {
        let listed = Listed {
            packed: vec![9, 1],
            ..Listed::default()
        };
        let answer = asked(&Request::List, Report::Listed(listed)).await;
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    });
}

#[test]
fn memory_is_shown_without_what_can_be_dropped() {
    run(async {
        let measured = Measured {
            memory_current_bytes: 100,
            memory_inactive_file_bytes: 30,
            guest_memory_total_bytes: 1000,
            ..Measured::default()
        };
        let Answer::Measured(usage) = asked(&Request::Measure, Report::Measured(measured)).await else {
            panic!("no usage");
        };
        assert_eq!((usage.memory_bytes, usage.memory_max_bytes), (70, 1000));
    });
}

#[test]
fn a_command_without_a_request_does_not_outlive_the_container() {
    run(async {
        let world = World::new();
        let (_connection, theirs) = Connection::pair().unwrap();
        let serving = world.serve(theirs);
        end(&world, 0);
        timeout(Duration::from_secs(1), serving).await.unwrap();
    });
}

#[test]
fn a_request_of_another_version_is_answered() {
    run(async {
        let world = World::new();
        let (mut connection, theirs) = Connection::pair().unwrap();
        let serving = world.serve(theirs);
        connection.writer.send(&"Reboot").await.unwrap();
        let ((), answer) = tokio::join!(serving, connection.reader.receive::<Answer>());
        let Answer::Failed(failure) = answer.unwrap().0 else {
            panic!("no failure");
        };
        assert!(failure.message.contains("another version"), "{}", failure.message);
    });
}

#[test]
fn who_attaches_before_the_start_gets_the_start_and_the_end() {
    run(async {
        let world = World::new();
        let mut command = Command::send(&world, &Request::Attach { stdin: false }).await;
        let (Answer::Streams { terminal: false }, fds) = command.answer().await else {
            panic!("no streams");
        };
        assert_eq!(fds.len(), 3);
        let (guest, _agent) = super::guest().await;
        world.run_in(guest);
        assert!(matches!(command.answer().await.0, Answer::Started { .. }));
        end(&world, 2);
        assert_eq!(exit_code(&command.answer().await.0), 2);
    });
}

#[test]
fn a_start_that_failed_is_answered_with_its_code() {
    run(async {
        let world = World::new();
        let mut command = Command::send(&world, &Request::Start).await;
        let failure = crate::control::Failure {
            message: "no such file".into(),
            code: 126,
            console: String::new(),
        };
        let over = ContainerPhase::Over(Rc::new(Outcome::Failed(failure)));
        world.supervised.phase.send_replace(over);
        let (Answer::Failed(failure), _) = command.answer().await else {
            panic!("no failure");
        };
        assert_eq!(failure.code, 126);
    });
}

#[test]
fn a_measurement_of_a_guest_that_goes_is_an_error() {
    run(async {
        let (world, agent) = World::running().await;
        let mut command = Command::send(&world, &Request::Measure).await;
        drop(agent);
        assert!(matches!(command.answer().await.0, Answer::Failed(_)));
    });
}
