//! Processes and requests in a guest.

use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::spec::{Limits, Network, TerminalSize};
use capsid_protocol::{ContainerSpec, Created, Done, FailedStep, Listed, Measured, Stopped, StreamKind};
use tokio::time::{Instant, timeout};

use super::super::guest::{Guest, RequestError};
use super::super::guest_process::{ProcessError, status_code};
use super::fake_agent::{FakeAgent, failed};
use super::{conversation, guest, run};
use crate::session::SessionError;

fn spec(id: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.into(),
        ..ContainerSpec::default()
    }
}

/// Spawns a process that the agent treats in this way until it has ended. Returns docker's exit code for it.
async fn end_of(play: impl AsyncFnOnce(&mut FakeAgent)) -> Result<u8, ProcessError> {
    let (guest, mut agent) = guest().await;
    let mut process = guest.spawn(spec("p")).await?;
    agent.receive_process().await;
    play(&mut agent).await;
    process.ended().await.map(|stopped| status_code(&stopped))
}

#[test]
fn a_process_gets_its_streams_in_order() {
    run(async {
        let (guest, mut agent) = guest().await;
        let spec = ContainerSpec {
            stdin: true,
            ..spec("p")
        };
        let mut process = guest.spawn(spec.clone()).await.unwrap();
        assert_eq!(agent.receive_process().await, spec.into());
        for (index, kind) in [StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr]
            .into_iter()
            .enumerate()
        {
            let (hello, mut stream) = agent.take_stream();
            assert_eq!((hello.container.as_str(), hello.stream()), ("p", kind));
            stream.write_all(&[index as u8]).unwrap();
            let mut byte = [9];
            process.streams[index].read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), index);
        }
    });
}

#[test]
fn a_terminal_is_one_stream_with_input_or_without() {
    run(async {
        let (guest, mut agent) = guest().await;
        let spec = ContainerSpec {
            terminal: Some(TerminalSize { rows: 1, columns: 1 }),
            stdin: true,
            ..spec("p")
        };
        let process = guest.spawn(spec).await.unwrap();
        agent.receive_process().await;
        assert_eq!(process.streams.len(), 1);
        assert_eq!(agent.take_stream().0.stream(), StreamKind::Terminal);
    });
}

#[test]
fn a_process_without_input_has_two_streams() {
    run(async {
        let (guest, _agent) = guest().await;
        assert_eq!(guest.spawn(spec("p")).await.unwrap().streams.len(), 2);
    });
}

#[test]
fn a_program_ends_with_its_exit_code() {
    run(async {
        let code = end_of(async |agent| {
            agent.report_start("p").await;
            agent.report_exit("p", 3).await;
        });
        assert_eq!(code.await.unwrap(), 3);
    });
}

#[test]
fn a_program_that_dies_of_a_signal_ends_with_128_and_its_number() {
    run(async {
        let stopped = Stopped {
            container: "p".into(),
            signal: 9,
            ..Stopped::default()
        };
        let code = end_of(async |agent| {
            agent.report_start("p").await;
            agent.report(Report::Stopped(stopped)).await;
        });
        assert_eq!(code.await.unwrap(), 137);
    });
}

#[test]
fn exit_codes_of_a_hostile_agent_stay_in_range() {
    let code = |exit_code, signal| {
        let stopped = Stopped {
            exit_code,
            signal,
            ..Stopped::default()
        };
        super::super::guest_process::status_code(&stopped)
    };
    assert_eq!(
        (code(256, 0), code(u32::MAX, 0), code(0, u32::MAX), code(7, 15)),
        (255, 255, 255, 143)
    );
}

#[test]
fn a_program_that_is_killed_before_it_runs_has_ended() {
    run(async {
        let code = end_of(async |agent| {
            agent.report(Report::Created(Created { container: "p".into() })).await;
            agent.report_exit("p", 137).await;
        });
        assert_eq!(code.await.unwrap(), 137);
    });
}

#[test]
fn failed_starts_have_dockers_exit_codes() {
    let steps = [
        (FailedStep::ExecNotFound, 127),
        (FailedStep::ExecRefused, 126),
        (FailedStep::Mount, 125),
        (FailedStep::Unknown, 125),
    ];
    for (step, code) in steps {
        run(async move {
            let error = end_of(async |agent| agent.report(failed("p", step, "no \x1b[1m such")).await);
            let error = error.await.unwrap_err();
            assert_eq!(
                (error.exit_code(), error.to_string()),
                (code, "no \\u{1b}[1m such".into())
            );
        });
    }
}

#[test]
fn events_in_a_wrong_order_are_refused() {
    run(async {
        let error = end_of(async |agent| {
            agent.report_start("p").await;
            agent.report_start("p").await;
        });
        assert!(matches!(
            error.await,
            Err(ProcessError::Session(SessionError::Unexpected))
        ));
    });
}

#[test]
fn an_end_before_the_creation_is_not_this_lifes() {
    run(async {
        let error = end_of(async |agent| agent.report_exit("p", 0).await);
        assert!(matches!(
            error.await,
            Err(ProcessError::Session(SessionError::Unexpected))
        ));
    });
}

#[test]
fn events_of_processes_that_nobody_waits_for_are_dropped() {
    run(async {
        let code = end_of(async |agent| {
            agent.report_start("gone").await;
            agent.report_exit("gone", 1).await;
            agent.report_start("p").await;
            agent.report_exit("p", 0).await;
        });
        assert_eq!(code.await.unwrap(), 0);
    });
}

#[test]
fn more_events_than_a_process_can_have_end_the_session() {
    run(async {
        let (conversation, mut agent) = conversation().await;
        let guest = conversation.guest();
        let flood = async {
            let process = guest.spawn(spec("p")).await.unwrap();
            for _ in 0..20 {
                agent.report(Report::Created(Created { container: "p".into() })).await;
            }
            // Nobody reads the events.
            std::future::pending::<()>().await;
            drop(process);
        };
        tokio::select! {
            error = conversation.run() => assert!(matches!(error, SessionError::Unexpected), "{error}"),
            () = flood => unreachable!(),
        }
    });
}

#[test]
fn a_slow_request_does_not_delay_another() {
    run(async {
        let (guest, mut agent) = guest().await;
        let list = async {
            let list = guest.list("a").await;
            assert_eq!(list.unwrap().packed, b"\x02\x08\x01");
        };
        let pause = async {
            let began = Instant::now();
            guest.freeze("b", true).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(1));
        };
        let play = async {
            let (slow, Intent::List(list)) = agent.receive().await else {
                panic!("no List");
            };
            let (quick, Intent::Freeze(freeze)) = agent.receive().await else {
                panic!("no Freeze");
            };
            assert_eq!((list.container.as_str(), freeze.container.as_str()), ("a", "b"));
            agent.respond(quick, Report::Done(Done {})).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let listed = Listed {
                packed: b"\x02\x08\x01".to_vec(),
                ..Listed::default()
            };
            agent.respond(slow, Report::Listed(listed)).await;
        };
        tokio::join!(list, pause, play);
    });
}

#[test]
fn a_late_response_is_not_taken_for_the_next_one() {
    run(async {
        let (guest, mut agent) = guest().await;
        let play = async {
            let (late, _) = agent.receive().await;
            let (next, _) = agent.receive().await;
            assert!(next > late && late > 0);
            agent
                .respond(late, failed("c", FailedStep::Cgroup, "the first one failed"))
                .await;
            agent.respond(next, Report::Done(Done {})).await;
        };
        let ask = async {
            let first = guest.update("c", Limits::default()).await;
            assert!(matches!(first, Err(RequestError::Session(SessionError::Silent))));
            guest.update("c", Limits::default()).await.unwrap();
        };
        tokio::join!(ask, play);
    });
}

#[test]
fn a_request_that_is_given_up_leaves_nothing_behind() {
    run(async {
        let (guest, mut agent) = guest().await;
        let given_up = timeout(Duration::from_secs(1), guest.measure("c")).await;
        assert!(given_up.is_err());
        let play = async {
            let (given_up, _) = agent.receive().await;
            agent.respond(given_up, Report::Measured(Measured::default())).await;
            let (id, _) = agent.receive().await;
            let measured = Measured {
                pids_current: 5,
                ..Measured::default()
            };
            agent.respond(id, Report::Measured(measured)).await;
        };
        let (measured, ()) = tokio::join!(guest.measure("c"), play);
        assert_eq!(measured.unwrap().pids_current, 5);
    });
}

#[test]
fn a_refusal_is_the_requests_error_and_nobody_elses() {
    run(async {
        let (guest, mut agent) = guest().await;
        let play = async {
            let (id, Intent::ConfigureNetwork(_)) = agent.receive().await else {
                panic!("no ConfigureNetwork");
            };
            agent
                .respond(id, failed("", FailedStep::Namespace, "no such device"))
                .await;
        };
        let (refused, ()) = tokio::join!(guest.configure_network("", Network::default()), play);
        assert!(matches!(&refused, Err(RequestError::Refused(failure)) if failure.to_string() == "no such device"));
        // The session goes on.
        let (done, ()) = tokio::join!(guest.freeze("c", true), respond_once(&mut agent));
        done.unwrap();
    });
}

async fn respond_once(agent: &mut FakeAgent) {
    let (id, _) = agent.receive().await;
    agent.respond(id, Report::Done(Done {})).await;
}

#[test]
fn a_response_of_another_kind_is_an_error() {
    run(async {
        let (guest, mut agent) = guest().await;
        let (listed, ()) = tokio::join!(guest.list("c"), respond_once(&mut agent));
        assert!(matches!(listed, Err(RequestError::Session(SessionError::Unexpected))));
    });
}

#[test]
fn a_response_to_no_request_ends_the_session() {
    run(async {
        let (conversation, mut agent) = conversation().await;
        let (error, ()) = tokio::join!(conversation.run(), agent.respond(1, Report::Done(Done {})));
        assert!(matches!(error, SessionError::Unexpected));
    });
}

#[test]
fn the_end_of_the_session_ends_all_waits() {
    run(async {
        let (guest, mut agent) = guest().await;
        let mut process = guest.spawn(spec("p")).await.unwrap();
        let play = async {
            agent.receive_process().await;
            agent.report_start("p").await;
            agent.receive().await;
            drop(agent);
        };
        let (ended, listed, ()) = tokio::join!(process.ended(), guest.list("c"), play);
        assert!(ended.unwrap_err().is_end_of_session());
        assert!(matches!(listed, Err(RequestError::Session(SessionError::Closed))));
    });
}

#[test]
fn nothing_is_asked_of_a_guest_that_is_gone() {
    run(async {
        let (guest, agent) = guest().await;
        drop(agent);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        assert!(guest.freeze("c", true).await.is_err());
        assert!(guest.spawn(spec("p")).await.is_err());
        assert!(began.elapsed().is_zero());
    });
}

#[test]
fn an_agent_that_gives_no_sign_of_life_ends_the_session_within_ten_seconds() {
    run(async {
        let (conversation, _agent) = conversation().await;
        let began = Instant::now();
        let error = conversation.run().await;
        assert!(matches!(error, SessionError::Unresponsive(_)), "{error}");
        assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    });
}

#[test]
fn an_agent_that_answers_pings_lives_for_ever() {
    run(async {
        let (conversation, mut agent) = conversation().await;
        let hour = tokio::time::sleep(Duration::from_secs(3600));
        tokio::select! {
            error = conversation.run() => panic!("{error}"),
            () = agent.only_live() => {}
            () = hour => {}
        }
    });
}

#[test]
fn a_guest_that_reads_nothing_does_not_hold_a_caller_for_ever() {
    run(async {
        let (guest, _agent) = guest().await;
        let began = Instant::now();
        let big = ContainerSpec {
            args: vec![vec![b'x'; 3 << 20]],
            ..spec("p")
        };
        let mut sent = 0;
        let error = loop {
            match guest.spawn(big.clone()).await {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 8, "a queue without an end");
        };
        assert!(matches!(
            error,
            ProcessError::Session(SessionError::Silent | SessionError::Closed)
        ));
        assert!(began.elapsed() <= Duration::from_secs(15), "{:?}", began.elapsed());
    });
}

#[test]
fn signals_and_sizes_of_terminals_have_no_response() {
    run(async {
        let (guest, mut agent) = guest().await;
        guest.signal("p", 15).await.unwrap();
        guest.resize("p", 24, 80).await.unwrap();
        guest.keep_free(Vec::new()).await.unwrap();
        let received = [agent.receive().await, agent.receive().await, agent.receive().await];
        assert!(matches!(&received[0], (0, Intent::Signal(signal)) if signal.number == 15));
        assert!(matches!(&received[1], (0, Intent::Resize(size)) if (size.rows, size.columns) == (24, 80)));
        assert!(matches!(&received[2], (0, Intent::KeepFree(_))));
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_no_half_of_a_message() {
    run(async {
        let (guest, mut agent) = guest().await;
        let big = ContainerSpec {
            args: vec![vec![b'x'; 3 << 20]],
            ..spec("p")
        };
        // Given up while the session's socket is full.
        let given_up = Rc::clone(&guest);
        let task = tokio::task::spawn_local(async move { send_all(&given_up, big).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        task.abort();
        let mut kinds = Vec::new();
        let read = async {
            loop {
                match agent.receive().await.1 {
                    Intent::Signal(_) => break,
                    kind => kinds.push(kind),
                }
            }
        };
        let (sent, ()) = tokio::join!(guest.signal("p", 15), read);
        sent.unwrap();
        assert!(
            kinds
                .iter()
                .all(|kind| matches!(kind, Intent::Create(_) | Intent::Start(_)))
        );
    });
}

async fn send_all(guest: &Guest, spec: ContainerSpec) {
    for _ in 0..3 {
        let _ = guest.spawn(spec.clone()).await;
    }
}
