//! From a started machine to a ready guest.

use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::{Hello, Pong, VERSION};
use tokio::time::{Instant, sleep};

use super::super::boot::{BootError, Booted, boot};
use super::super::machine::{Interruption, StepError, while_running};
use super::super::{BOOT_TIMEOUT, LAST_WORDS};
use super::fake_agent::FakeAgent;
use super::run;
use crate::process::{MachineEnd, RunningMachine};
use crate::session::SessionError;

/// Boots with an agent that answers the host's Hello with this one.
async fn boot_with(answer: impl FnOnce(Hello) -> Hello) -> Result<Booted, BootError> {
    let (sockets, mut agent) = FakeAgent::machine();
    let agent = async {
        let hello = agent.receive_hello().await;
        agent.report(Report::Hello(answer(hello))).await;
        // The session stays open.
        agent
    };
    tokio::join!(boot(sockets), agent).0
}

fn true_answer(hello: Hello) -> Hello {
    Hello {
        version: VERSION,
        nonce: hello.nonce,
        agent_start_ns: 7,
        ..Hello::default()
    }
}

#[test]
fn a_guest_is_ready_with_the_agents_hello() {
    run(async {
        let booted = boot_with(true_answer).await.unwrap();
        assert_eq!(booted.agent_start_ns, 7);
    });
}

#[test]
fn the_guest_gets_entropy_and_the_hosts_clock() {
    run(async {
        let (sockets, mut agent) = FakeAgent::machine();
        let play = async {
            let hello = agent.receive_hello().await;
            assert_eq!((hello.entropy.len(), hello.nonce.len()), (32, 16));
            agent.report(Report::Hello(true_answer(hello))).await;
            let first = agent.receive_any().await.kind.unwrap();
            let capsid_protocol::message::host_message::Kind::Ping(ping) = first else {
                panic!("{first:?}");
            };
            assert!(ping.is_first && ping.host_clock_ns > 0);
        };
        tokio::join!(boot(sockets), play).0.unwrap();
    });
}

#[test]
fn an_agent_of_another_version_is_refused() {
    run(async {
        let booted = boot_with(|hello| Hello {
            version: 3,
            ..true_answer(hello)
        });
        assert!(matches!(
            booted.await,
            Err(BootError::Session(SessionError::Version(3)))
        ));
    });
}

#[test]
fn an_agent_that_does_not_know_the_nonce_is_refused() {
    run(async {
        let booted = boot_with(|hello| Hello {
            nonce: vec![0; 16],
            ..true_answer(hello)
        });
        assert!(matches!(
            booted.await,
            Err(BootError::Session(SessionError::WrongNonce))
        ));
    });
}

#[test]
fn a_first_message_that_is_no_hello_is_refused() {
    run(async {
        let (sockets, mut agent) = FakeAgent::machine();
        let (booted, ()) = tokio::join!(boot(sockets), agent.report(Report::Pong(Pong::default())));
        assert!(matches!(booted, Err(BootError::Session(SessionError::Unexpected))));
    });
}

#[test]
fn a_frame_over_the_limit_is_refused_unread() {
    run(async {
        let (sockets, mut agent) = FakeAgent::machine();
        let (booted, ()) = tokio::join!(boot(sockets), agent.send_bytes(&[0xff; 4]));
        assert!(matches!(booted, Err(BootError::Session(SessionError::Frame(_)))));
    });
}

#[test]
fn a_guest_that_says_nothing_is_not_waited_for_longer_than_the_limit() {
    run(async {
        let (sockets, _agent) = FakeAgent::machine();
        let began = Instant::now();
        assert!(matches!(boot(sockets).await, Err(BootError::Timeout)));
        assert!((BOOT_TIMEOUT..BOOT_TIMEOUT + Duration::from_secs(1)).contains(&began.elapsed()));
    });
}

#[test]
fn half_a_hello_is_not_waited_for() {
    run(async {
        let (sockets, mut agent) = FakeAgent::machine();
        let began = Instant::now();
        let (booted, ()) = tokio::join!(boot(sockets), agent.send_bytes(&[9, 0, 0, 0, 1]));
        assert!(matches!(booted, Err(BootError::Session(SessionError::Silent))));
        assert!(began.elapsed() < BOOT_TIMEOUT);
    });
}

#[derive(Debug)]
enum TestError {
    Ended(String),
    Halted,
    Broken,
    Other,
}

impl From<Interruption> for TestError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Ended(end) => Self::Ended(end.reason),
            Interruption::Halted => Self::Halted,
        }
    }
}

impl StepError for TestError {
    fn is_broken_session(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

fn panicked() -> MachineEnd {
    MachineEnd {
        reason: "the guest's kernel panicked".into(),
        killed: false,
        console: String::new(),
    }
}

#[test]
fn the_end_of_the_machine_ends_every_step() {
    run(async {
        let (mut machine, fake) = RunningMachine::fake();
        fake.send(panicked()).unwrap();
        let step = std::future::pending::<Result<(), TestError>>();
        let result = while_running(&mut machine, std::future::pending(), step).await;
        assert!(matches!(result, Err(TestError::Ended(reason)) if reason.contains("panicked")));
    });
}

#[test]
fn a_halt_ends_every_step() {
    run(async {
        let (mut machine, _fake) = RunningMachine::fake();
        let step = std::future::pending::<Result<(), TestError>>();
        let result = while_running(&mut machine, std::future::ready(()), step).await;
        assert!(matches!(result, Err(TestError::Halted)));
    });
}

#[test]
fn a_broken_session_is_explained_by_the_machine_that_ends_a_moment_later() {
    run(async {
        let (mut machine, fake) = RunningMachine::fake();
        tokio::task::spawn_local(async move {
            sleep(LAST_WORDS / 2).await;
            fake.send(panicked()).unwrap();
        });
        let step = std::future::ready(Err::<(), _>(TestError::Broken));
        let result = while_running(&mut machine, std::future::pending(), step).await;
        assert!(matches!(result, Err(TestError::Ended(reason)) if reason.contains("panicked")));
    });
}

#[test]
fn a_session_that_broke_in_a_running_machine_is_the_reason_itself() {
    run(async {
        let (mut machine, _fake) = RunningMachine::fake();
        let step = std::future::ready(Err::<(), _>(TestError::Broken));
        let result = while_running(&mut machine, std::future::pending(), step).await;
        assert!(matches!(result, Err(TestError::Broken)));
    });
}

#[test]
fn another_error_does_not_wait_for_the_machine() {
    run(async {
        let (mut machine, _fake) = RunningMachine::fake();
        let began = Instant::now();
        let step = std::future::ready(Err::<(), _>(TestError::Other));
        let result = while_running(&mut machine, std::future::pending(), step).await;
        assert!(matches!(result, Err(TestError::Other)) && began.elapsed().is_zero());
    });
}

#[test]
fn a_machine_that_vanishes_without_a_word_has_ended() {
    run(async {
        let (mut machine, fake) = RunningMachine::fake();
        drop(fake);
        let step = std::future::pending::<Result<(), TestError>>();
        let result = while_running(&mut machine, std::future::pending(), step).await;
        assert!(matches!(result, Err(TestError::Ended(_))));
    });
}
