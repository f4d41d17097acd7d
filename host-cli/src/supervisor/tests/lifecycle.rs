//! One life of a container in a guest, and what becomes of its end.

use std::io::Write;
use std::time::Duration;

use capsid_protocol::{FailedStep, Stopped};
use tokio::time::Instant;

use super::super::container_supervisor::wants_restart;
use super::super::guest_process::ProcessError;
use super::super::lifecycle::{LifecycleError, conclude, run_in};
use super::super::supervised_container::{ContainerPhase, Outcome};
use super::fake_agent::{FakeAgent, failed};
use super::{World, guest, run};
use crate::control::Failure;
use crate::guest_text::GuestText;
use crate::model::{Exit, RestartPolicy, Status};
use crate::process::MachineEnd;
use crate::session::{GuestFailure, SessionError};

/// Runs the container in a guest whose agent does this. Returns whether the program started, too.
async fn life(world: &World, play: impl AsyncFnOnce(&mut FakeAgent)) -> (Result<Stopped, LifecycleError>, bool) {
    let (guest, mut agent) = guest().await;
    let spec = world.supervised.container.borrow().spec.clone();
    let mut started = false;
    let lived = run_in(&world.supervised, &world.state, &guest, spec, &mut started);
    let (lived, ()) = tokio::join!(lived, play(&mut agent));
    (lived, started)
}

#[test]
fn a_container_runs_in_its_row_from_its_start_to_its_end() {
    run(async {
        let world = World::new();
        let id = world.id().to_owned();
        let (lived, started) = life(&world, async |agent| {
            agent.receive_process().await;
            assert_eq!(world.status(), Status::Created);
            agent.report_start(&id).await;
            world.supervised.started().await.unwrap();
            assert_eq!(world.status(), Status::Running);
            assert!(world.supervised.running().is_ok());
            agent.report_exit(&id, 4).await;
            // The ends of its streams.
            drop((agent.take_stream(), agent.take_stream()));
        })
        .await;
        assert_eq!((lived.unwrap().exit_code, started), (4, true));
        assert!(matches!(*world.supervised.phase.borrow(), ContainerPhase::Ending));
        let moments = world.supervised.moments.borrow();
        let steps: Vec<&str> = moments.iter().map(|moment| moment.step.as_str()).collect();
        assert_eq!(steps, ["container started", "container stopped"]);
    });
}

#[test]
fn output_that_arrives_after_the_end_is_waited_for() {
    run(async {
        let world = World::new();
        let id = world.id().to_owned();
        let (lived, _) = life(&world, async |agent| {
            agent.receive_process().await;
            let (mut stdout, stderr) = (agent.take_stream().1, agent.take_stream());
            agent.report_start(&id).await;
            agent.report_exit(&id, 0).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            stdout.write_all(b"last words\n").unwrap();
            drop((stdout, stderr));
        })
        .await;
        lived.unwrap();
        world.supervised.output.finish();
        let log = std::fs::read_to_string(crate::store_folder::log(&world.supervised.data, &id)).unwrap();
        assert!(log.contains("last words"), "{log}");
    });
}

#[test]
fn a_container_that_fails_to_start_never_runs() {
    run(async {
        let world = World::new();
        let id = world.id().to_owned();
        let (lived, started) = life(&world, async |agent| {
            agent.receive_process().await;
            agent.report(failed(&id, FailedStep::Mount, "no such disk")).await;
        })
        .await;
        assert!(!started && world.status() == Status::Created);
        let Outcome::Failed(failure) = conclude(&lived.unwrap_err(), started, false) else {
            panic!("no failure");
        };
        assert_eq!((failure.code, failure.message.as_str()), (125, "no such disk"));
    });
}

#[test]
fn a_start_without_an_end_is_given_up() {
    run(async {
        let world = World::new();
        let began = Instant::now();
        let (guest, mut agent) = guest().await;
        let spec = world.supervised.container.borrow().spec.clone();
        let mut started = false;
        let lived = run_in(&world.supervised, &world.state, &guest, spec, &mut started);
        let play = async {
            agent.receive_process().await;
            agent.only_live().await;
        };
        tokio::select! {
            lived = lived => assert!(matches!(lived, Err(LifecycleError::StartTimeout))),
            () = play => unreachable!(),
        }
        assert!((60..65).contains(&began.elapsed().as_secs()));
    });
}

#[test]
fn an_end_of_the_session_is_noticed_while_the_container_runs() {
    run(async {
        let world = World::new();
        let id = world.id().to_owned();
        let (guest, mut agent) = guest().await;
        let spec = world.supervised.container.borrow().spec.clone();
        let mut started = false;
        let lived = run_in(&world.supervised, &world.state, &guest, spec, &mut started);
        let play = async {
            agent.receive_process().await;
            agent.report_start(&id).await;
            world.supervised.started().await.unwrap();
            drop(agent);
        };
        let (lived, ()) = tokio::join!(lived, play);
        assert!(matches!(lived, Err(LifecycleError::Session(SessionError::Closed))));
        assert!(started && world.supervised.running().is_err());
    });
}

fn machine_end(killed: bool) -> LifecycleError {
    LifecycleError::MachineEnded(MachineEnd {
        reason: "it panicked".into(),
        killed,
        console: "\n[1.0] first\n\n[1.1] Kernel panic\x1b[0m\n".into(),
    })
}

#[test]
fn the_end_of_the_machine_is_the_end_of_a_container_that_ran() {
    let code = |killed, started| match conclude(&machine_end(killed), started, false) {
        Outcome::Ended(failure) => (failure.code, true),
        Outcome::Failed(failure) => (failure.code, false),
        outcome @ Outcome::Exited(_) => panic!("{outcome:?}"),
    };
    assert_eq!(code(true, true), (137, true));
    assert_eq!(code(false, true), (255, true));
    assert_eq!(code(true, false), (125, false));
    assert_eq!(code(false, false), (125, false));
}

#[test]
fn the_console_is_shown_without_what_moves_the_cursor() {
    let Outcome::Ended(failure) = conclude(&machine_end(false), true, false) else {
        panic!("not ended");
    };
    assert_eq!(failure.console, "[1.0] first\n[1.1] Kernel panic\\u{1b}[0m");
    assert_eq!(failure.message, "the machine ended: it panicked");
}

#[test]
fn a_container_that_was_killed_exits_like_one() {
    let outcome = conclude(&LifecycleError::Killed, true, false);
    assert!(matches!(outcome, Outcome::Exited(Exit { code: 137, .. })));
    let outcome = conclude(&LifecycleError::Killed, true, true);
    assert!(matches!(outcome, Outcome::Exited(Exit { error, .. }) if error.contains("disk was full")));
    let outcome = conclude(&LifecycleError::Killed, false, false);
    assert!(matches!(outcome, Outcome::Failed(Failure { code: 137, .. })));
}

#[test]
fn an_agent_that_stopped_responding_has_its_container_killed() {
    let unresponsive = LifecycleError::Session(SessionError::Unresponsive("silent".into()));
    let outcome = conclude(&unresponsive, true, false);
    assert!(matches!(outcome, Outcome::Ended(Failure { code: 137, .. })));
    let outcome = conclude(&unresponsive, false, false);
    assert!(matches!(outcome, Outcome::Failed(Failure { code: 125, .. })));
}

#[test]
fn a_program_that_is_not_found_is_dockers_127() {
    let failure = GuestFailure {
        step: FailedStep::ExecNotFound,
        text: GuestText::new(b"no such program"),
    };
    let outcome = conclude(&ProcessError::Failed(failure).into(), false, false);
    assert!(matches!(outcome, Outcome::Failed(Failure { code: 127, .. })));
}

#[test]
fn restarts_follow_the_policy() {
    let world = World::new();
    let exited = |code| {
        Outcome::Exited(Exit {
            code,
            ..Exit::default()
        })
    };
    let wants = |policy, outcome: &Outcome, restarts| {
        world.supervised.container.borrow_mut().config.restart = policy;
        wants_restart(&world.supervised.container.borrow(), outcome, restarts)
    };
    let on_failure = |retries_max| RestartPolicy::OnFailure { retries_max };
    assert!(!wants(RestartPolicy::No, &exited(1), 0));
    assert!(wants(RestartPolicy::Always, &exited(0), 1000));
    assert!(wants(RestartPolicy::UnlessStopped, &exited(0), 1000));
    assert!(!wants(on_failure(0), &exited(0), 0));
    assert!(wants(on_failure(0), &exited(1), 1000), "without a limit");
    assert!(wants(on_failure(3), &exited(1), 2));
    assert!(!wants(on_failure(3), &exited(1), 3));
    // A machine that ended is a failure, and a start that failed is none.
    let ended = Outcome::Ended(Failure::because("the machine ended"));
    assert!(wants(on_failure(3), &ended, 0));
    let failed = Outcome::Failed(Failure::because("no such file"));
    assert!(!wants(RestartPolicy::Always, &failed, 0));
}
