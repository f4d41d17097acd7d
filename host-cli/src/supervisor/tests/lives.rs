//! Phases of a container, and who waits for them.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::super::supervised_container::{ContainerPhase, Outcome};
use super::{World, run};
use crate::control::Failure;
use crate::model::Exit;

fn exited(code: u8) -> Rc<Outcome> {
    Rc::new(Outcome::Exited(Exit {
        code,
        ..Exit::default()
    }))
}

#[test]
fn a_start_is_waited_for_until_the_program_runs() {
    run(async {
        let world = World::new();
        let waits = world.supervised.started();
        tokio::pin!(waits);
        assert!(timeout(Duration::from_secs(60), &mut waits).await.is_err());
        let (guest, _agent) = super::guest().await;
        world.run_in(guest);
        waits.await.unwrap();
    });
}

#[test]
fn a_program_that_has_ended_before_anybody_looked_has_started() {
    run(async {
        let world = World::new();
        for phase in [ContainerPhase::Ending, ContainerPhase::Over(exited(0))] {
            world.supervised.phase.send_replace(phase);
            world.supervised.started().await.unwrap();
        }
    });
}

#[test]
fn a_start_that_failed_is_the_error_of_those_who_wait_for_it() {
    run(async {
        let world = World::new();
        let failure = Failure {
            message: "no such program".into(),
            code: 127,
            console: String::new(),
        };
        let over = ContainerPhase::Over(Rc::new(Outcome::Failed(failure)));
        world.supervised.phase.send_replace(over);
        assert_eq!(world.supervised.started().await.unwrap_err().code, 127);
        assert_eq!(world.supervised.over().await.exit().code, 127);
    });
}

#[test]
fn the_end_is_seen_by_those_who_wait_and_by_those_who_come_later() {
    run(async {
        let world = World::new();
        let early = world.supervised.over();
        tokio::pin!(early);
        assert!(timeout(Duration::from_secs(60), &mut early).await.is_err());
        world.supervised.phase.send_replace(ContainerPhase::Ending);
        assert!(
            timeout(Duration::from_secs(60), &mut early).await.is_err(),
            "a restart is near"
        );
        world.supervised.phase.send_replace(ContainerPhase::Over(exited(5)));
        assert_eq!(early.await.exit().code, 5);
        assert_eq!(world.supervised.over().await.exit().code, 5);
    });
}

#[test]
fn what_belongs_to_a_life_is_gone_with_it() {
    run(async {
        let (world, _agent) = World::running().await;
        let running = Rc::downgrade(&world.supervised.running().unwrap());
        assert!(running.upgrade().is_some());
        world.supervised.phase.send_replace(ContainerPhase::Ending);
        assert!(world.supervised.running().is_err() && !world.supervised.is_paused());
        assert!(running.upgrade().is_none());
    });
}

#[test]
fn a_wanted_stop_is_noticed_by_those_who_wait_for_it() {
    run(async {
        let world = World::new();
        assert!(
            timeout(Duration::from_secs(9), world.supervised.stop_asked())
                .await
                .is_err()
        );
        world.supervised.ask_to_stop();
        world.supervised.stop_asked().await;
    });
}

#[test]
fn the_users_stop_is_kept_for_the_next_supervisor() {
    run(async {
        let world = World::new();
        world.supervised.note_stopped(true);
        assert!(world.state.container(world.id()).unwrap().config.was_stopped);
        world.supervised.note_stopped(false);
        assert!(!world.state.container(world.id()).unwrap().config.was_stopped);
    });
}
