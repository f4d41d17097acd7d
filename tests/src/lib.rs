//! Capsid's promises, tested from outside through its binaries.
//!
//! A test names its promise and is about three lines long on these fixtures:
//!
//! ```text
//!   Capsid      folders of its own, images loaded   ── run([...]) ──►  Invocation ── wait ──►  Outcome
//!   TestImage   busybox, probe, debian-python, ...  made once, cached under target/test-images by recipe
//!   Registry    docker-registry on loopback: TLS and password, or plain HTTP, or tokens of a TokenServer
//!   TokenServer gives tokens for a registry, honestly or not
//!   Recorder    answers HTTP by a script and records every byte that it is sent
//!   FlakyProxy  cuts or holds up what a registry sends
//!   Terminal    a pseudo terminal with `capsid` in it
//!   SmallDisk   a data folder that fills up; Dice: chance that is the same each time
//!   live        containers in the background: started, asked, killed
//!   World       a network of its own: a host in one namespace, the world in another
//!   Census      processes, mounts, sockets, cgroups, files: before and after
//! ```
//!
//! Inside the container the static `capsid-probe` (see `probe/`) reports what it sees and attempts attacks; every
//! assertion stays on the host's side. `CAPSID_ACCEL` chooses the accelerator, `CAPSID_LAB=1` stretches time limits.

// A fixture that fails is a failed test: panics are its errors.
#![allow(clippy::unwrap_used)]

pub mod capsid;
pub mod census;
pub mod dice;
pub mod environment;
pub mod flaky_proxy;
pub mod http;
pub mod image;
pub mod invocation;
pub mod layer;
pub mod recorder;
pub mod registry;
pub mod requirement;
pub mod resident;
pub mod running;
pub mod server;
pub mod small_disk;
pub mod snapshot;
pub mod stream;
pub mod sys;
pub mod terminal;
pub mod test_images;
pub mod token_server;
pub mod tree;
pub mod walls;
pub mod world;

pub use capsid::Capsid;
pub use census::Census;
pub use flaky_proxy::FlakyProxy;
pub use image::ImageBuilder;
pub use invocation::{Invocation, Outcome};
pub use layer::Layer;
pub use recorder::{Recorder, Reply};
pub use registry::Registry;
pub use terminal::Terminal;
pub use test_images::TestImage;
pub use token_server::TokenServer;
pub use world::World;
