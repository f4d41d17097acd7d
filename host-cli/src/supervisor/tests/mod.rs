//! Tests of the supervisor with an agent that the test plays, on the other ends of the machine's sockets. Time stands
//! still, and jumps when everybody waits.

mod boot;
mod clients;
mod fake_agent;
mod guests;
mod lifecycle;
mod lives;
mod orders;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use self::fake_agent::FakeAgent;
use super::client;
use super::conversation::Conversation;
use super::guest::Guest;
use super::pod::{Disks, Pod};
use super::supervised_container::{ContainerPhase, Running, SupervisedContainer};
use crate::control::Connection;
use crate::folders::Folders;
use crate::model::Status;
use crate::state::{self, State};

/// Runs a test that may spawn local tasks.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Guest whose agent is the test's, with a conversation that runs in the background.
async fn guest() -> (Rc<Guest>, FakeAgent) {
    let (conversation, agent) = conversation().await;
    let guest = conversation.guest();
    tokio::task::spawn_local(conversation.run());
    (guest, agent)
}

/// Conversation with the test's agent.
async fn conversation() -> (Conversation, FakeAgent) {
    let (sockets, mut agent) = FakeAgent::machine();
    let (booted, ()) = tokio::join!(super::boot::boot(sockets), agent.greet());
    (booted.unwrap().conversation, agent)
}

/// Container with a row, in folders of its own.
struct World {
    supervised: Rc<SupervisedContainer>,
    pod: Rc<Pod>,
    state: State,
    _data: tempfile::TempDir,
}

impl World {
    /// Creates a container that does not run.
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders {
            data: data.path().into(),
            run: data.path().join("run"),
        };
        let state = State::open(&folders.data).unwrap();
        let mut container = state::tests::container("a", None);
        container.spec.id = container.id.clone();
        state.add(&mut container, &[]).unwrap();
        crate::store_folder::make(&folders.data, &container.id).unwrap();
        let pod = Pod::new(&container.pod, Disks::AtBoot);
        let supervised = SupervisedContainer::new(container, &folders).unwrap();
        pod.add(&supervised);
        Self {
            supervised,
            pod,
            state,
            _data: data,
        }
    }

    /// Creates a container that runs in the test's guest.
    async fn running() -> (Self, FakeAgent) {
        let world = Self::new();
        let (guest, agent) = guest().await;
        world.run_in(guest);
        (world, agent)
    }

    /// Makes the container's program run in a guest.
    fn run_in(&self, guest: Rc<Guest>) {
        let spec = self.supervised.container.borrow().spec.clone();
        let running = Rc::new(Running::new(guest, spec));
        self.state.set_running(self.id(), 1, 1).unwrap();
        self.supervised.phase.send_replace(ContainerPhase::Running(running));
    }

    /// Serves a connection of a command.
    fn serve(&self, connection: OwnedFd) -> impl Future<Output = ()> + use<> {
        let connection = Connection::inherited(connection).unwrap();
        client::serve(Rc::clone(&self.supervised), Rc::clone(&self.pod), connection)
    }

    fn id(&self) -> &str {
        &self.supervised.id
    }

    fn status(&self) -> Status {
        self.state.container(self.id()).unwrap().status
    }
}
