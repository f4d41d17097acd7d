//! Orders to a running container.

use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::{Done, FailedStep};
use tokio::time::{Instant, timeout};

use super::super::orders;
use super::super::supervised_container::{ContainerPhase, Outcome};
use super::fake_agent::{FakeAgent, failed};
use super::{World, guest, run};
use crate::control::Failure;
use crate::model::{Exit, Status};

async fn agree(agent: &mut FakeAgent) -> bool {
    let (id, Intent::Freeze(freeze)) = agent.receive().await else {
        panic!("no Freeze");
    };
    agent.respond(id, Report::Done(Done {})).await;
    freeze.frozen
}

/// Ends the container as its supervisor does.
fn end(world: &World, code: u8) {
    let exit = Exit {
        code,
        ..Exit::default()
    };
    world.state.set_exited(world.id(), 1, &exit, Status::Exited).unwrap();
    world
        .supervised
        .phase
        .send_replace(ContainerPhase::Over(Rc::new(Outcome::Exited(exit))));
}

#[test]
fn pause_and_unpause_are_in_the_row() {
    run(async {
        let (world, mut agent) = World::running().await;
        let (paused, frozen) = tokio::join!(orders::freeze(&world.supervised, true), agree(&mut agent));
        paused.unwrap();
        assert!(frozen && world.supervised.is_paused());
        assert_eq!(world.status(), Status::Paused);
        let (resumed, frozen) = tokio::join!(orders::freeze(&world.supervised, false), agree(&mut agent));
        resumed.unwrap();
        assert!(!frozen && !world.supervised.is_paused());
        assert_eq!(world.status(), Status::Running);
    });
}

#[test]
fn a_container_is_paused_once() {
    run(async {
        let (world, mut agent) = World::running().await;
        let message = |result: Result<_, Failure>| result.map(drop).unwrap_err().message;
        let not_paused = orders::freeze(&world.supervised, false).await;
        assert_eq!(message(not_paused), "container web-a is not paused");
        // Of two at once, one pauses it.
        let (first, second, _) = tokio::join!(
            orders::freeze(&world.supervised, true),
            orders::freeze(&world.supervised, true),
            agree(&mut agent)
        );
        first.unwrap();
        assert_eq!(message(second), "container web-a is already paused");
    });
}

#[test]
fn a_pause_that_the_guest_refuses_changes_nothing() {
    run(async {
        let (world, mut agent) = World::running().await;
        let refuse = async {
            let (id, _) = agent.receive().await;
            agent
                .respond(id, failed("c", FailedStep::Cgroup, "it does not freeze"))
                .await;
        };
        let (refused, ()) = tokio::join!(orders::freeze(&world.supervised, true), refuse);
        assert_eq!(refused.unwrap_err().message, "it does not freeze");
        assert!(!world.supervised.is_paused());
        assert_eq!(world.status(), Status::Running);
    });
}

#[test]
fn a_pause_without_a_response_can_be_taken_back() {
    run(async {
        let (world, mut agent) = World::running().await;
        let ignore = async {
            agent.receive().await;
            timeout(Duration::from_secs(31), agent.only_live()).await.unwrap_err();
        };
        let (silent, ()) = tokio::join!(orders::freeze(&world.supervised, true), ignore);
        assert!(silent.is_err());
        let (resumed, frozen) = tokio::join!(orders::freeze(&world.supervised, false), agree(&mut agent));
        resumed.unwrap();
        assert!(!frozen && world.status() == Status::Running);
    });
}

#[test]
fn a_pause_that_meets_the_end_leaves_the_end_in_the_row() {
    run(async {
        let (world, mut agent) = World::running().await;
        let play = async {
            let (id, _) = agent.receive().await;
            end(&world, 3);
            agent.respond(id, Report::Done(Done {})).await;
        };
        let (paused, ()) = tokio::join!(orders::freeze(&world.supervised, true), play);
        assert_eq!(paused.unwrap_err().message, "container web-a is not running");
        assert_eq!(world.status(), Status::Exited);
    });
}

#[test]
fn a_pause_that_meets_a_restart_does_not_pause_the_next_life() {
    run(async {
        let (world, mut agent) = World::running().await;
        let (next, _agent) = guest().await;
        let play = async {
            let (id, _) = agent.receive().await;
            world.run_in(next);
            agent.respond(id, Report::Done(Done {})).await;
        };
        let (paused, ()) = tokio::join!(orders::freeze(&world.supervised, true), play);
        assert!(paused.is_err() && !world.supervised.is_paused());
        assert_eq!(world.status(), Status::Running);
    });
}

#[test]
fn orders_to_a_container_that_does_not_run_are_refused() {
    run(async {
        let world = World::new();
        for phase in [ContainerPhase::Starting, ContainerPhase::Ending] {
            world.supervised.phase.send_replace(phase);
            let refused = [
                orders::freeze(&world.supervised, true).await.map(drop),
                orders::signal(&world.supervised, 15).await,
                orders::resize(&world.supervised, world.id(), 1, 1).await,
            ];
            for result in refused {
                assert_eq!(result.unwrap_err().message, "container web-a is not running");
            }
        }
    });
}

async fn signal(agent: &mut FakeAgent) -> u32 {
    let (_, Intent::Signal(signal)) = agent.receive().await else {
        panic!("no Signal");
    };
    signal.number
}

#[test]
fn a_container_that_stops_by_its_signal_is_not_killed() {
    run(async {
        let (world, mut agent) = World::running().await;
        let play = async {
            assert_eq!(signal(&mut agent).await, 15);
            end(&world, 0);
            timeout(Duration::from_secs(60), agent.only_live()).await.unwrap_err();
        };
        tokio::join!(orders::stop(&world.supervised, None), play);
        assert!(world.supervised.is_stop_asked());
    });
}

#[test]
fn a_container_that_ignores_its_signal_is_killed_after_the_time_for_it() {
    run(async {
        let (world, mut agent) = World::running().await;
        let play = async {
            assert_eq!(signal(&mut agent).await, 15);
            let asked = Instant::now();
            assert_eq!(signal(&mut agent).await, 9);
            let waited = asked.elapsed();
            end(&world, 137);
            waited
        };
        let ((), waited) = tokio::join!(orders::stop(&world.supervised, Some(3)), play);
        assert!(
            (Duration::from_secs(3)..Duration::from_secs(4)).contains(&waited),
            "{waited:?}"
        );
    });
}

#[test]
fn a_guest_that_does_not_kill_its_container_loses_its_machine() {
    run(async {
        let (world, mut agent) = World::running().await;
        let stopped = async {
            orders::stop(&world.supervised, Some(0)).await;
            // The supervisor of its machine is asked to end it.
            timeout(Duration::from_secs(1), world.supervised.kill.notified())
                .await
                .unwrap();
        };
        tokio::select! {
            () = stopped => {}
            () = async { loop { agent.receive().await; } } => {}
        }
    });
}

#[test]
fn a_paused_container_is_resumed_to_be_stopped() {
    run(async {
        let (world, mut agent) = World::running().await;
        let (paused, _) = tokio::join!(orders::freeze(&world.supervised, true), agree(&mut agent));
        paused.unwrap();
        let play = async {
            assert!(!agree(&mut agent).await);
            assert_eq!(signal(&mut agent).await, 15);
            end(&world, 0);
        };
        tokio::join!(orders::stop(&world.supervised, None), play);
    });
}

#[test]
fn a_container_that_has_not_started_is_stopped_without_a_signal() {
    run(async {
        let world = World::new();
        let stopped = async {
            orders::stop(&world.supervised, Some(30)).await;
            timeout(Duration::from_secs(1), world.supervised.kill.notified())
                .await
                .unwrap();
        };
        let began = Instant::now();
        stopped.await;
        assert!(began.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn sigkill_is_a_stop_that_the_user_wants_and_other_signals_are_not() {
    run(async {
        let (world, mut agent) = World::running().await;
        orders::signal(&world.supervised, 10).await.unwrap();
        assert_eq!(signal(&mut agent).await, 10);
        assert!(!world.supervised.is_stop_asked());
        let play = async {
            assert_eq!(signal(&mut agent).await, 9);
            end(&world, 137);
        };
        let (killed, ()) = tokio::join!(orders::signal(&world.supervised, 9), play);
        killed.unwrap();
        assert!(world.supervised.is_stop_asked());
        assert!(world.state.container(world.id()).unwrap().config.was_stopped);
    });
}
