//! The contract between host and agent: the messages of a session, and their framing.
//!
//! A *session* is the connection between the host and the agent. The agent dials the host on
//! [`SESSION_PORT`] once, as soon as it is up: that connection is the readiness signal and carries
//! [`HostMessage`]s one way and [`AgentMessage`]s the other, as [`frame`]s. Each stdio stream is a vsock
//! connection of its own, opened by the host to [`STREAM_PORT`] in the guest, beginning with one
//! [`StreamHello`] frame and raw bytes from then on: back-pressure is vsock credit, end of file is a shutdown,
//! cancel is a close.
//!
//! ```text
//!  host                                   agent (PID 1)
//!   │ ◄───────────── connect SESSION_PORT ── │
//!   │ ── Hello{version, nonce} ───────────►  │
//!   │ ◄── Hello{version, nonce} ──────────── │   the nonce comes back: same session
//!   │ ── Ping{host's clock} ──────────────►  │   sets the guest's wall clock
//!   │ ── Create(ProcessSpec) ─────────────►  │   disks mounted, namespaces made, process waits before exec
//!   │ ◄── Created ────────────────────────── │
//!   │ ── connect STREAM_PORT, StreamHello ►  │   one per stream of the spec
//!   │ ── Start ───────────────────────────►  │   waits for the streams, then exec
//!   │ ◄── Started | Failed ───────────────── │
//!   │ ── Signal, Resize ──────────────────►  │
//!   │ ◄── Stopped{status} ────────────────── │   after every stream is drained
//!   │ ── Freeze, Measure, List, Update, ──►  │   requests: at any time while a container runs, many at a time
//!   │    ConfigureNetwork                    │
//!   │ ◄── Done, Measured, Listed | Failed ── │   one response each, with the request's id, in any order
//!   │ ── KeepFree{disks} ─────────────────►  │   when the host's disk fills up
//!   │ ── Ping{clocks} ────────────────────►  │   every few seconds: an agent that does not answer is
//!   │ ◄── Pong{clocks} ───────────────────── │   taken for dead, and its machine is ended
//!   │ ── Shutdown ────────────────────────►  │   disks unmounted, machine off
//! ```
//!
//! The host may send `Create`, connect the streams and send `Start` without waiting in between. A spec that joins a
//! running container (`exec`) has the same lifecycle under an id of its own; its process ends with the container.
//! `Signal`, `Resize` and `Start` have no answer: they may cross the end of a container, and have no effect then.
//! Messages state intent, not system calls. Types only: no sockets, no unsafe. To the host, every agent frame is
//! hostile.

#![forbid(unsafe_code)]

pub mod frame;
pub mod message;
pub mod process;
pub mod spec;
pub mod upkeep;

pub use frame::{FrameError, read_frame, write_frame};
pub use message::*;
pub use process::*;
pub use spec::ContainerSpec;

/// Version of the contract between host and agent. Added fields keep the version; a change of meaning bumps it. Host
/// and agent of unequal versions refuse each other at `Hello`.
pub const VERSION: u32 = 6;

/// Vsock port on the host (CID 2) that the agent dials.
pub const SESSION_PORT: u32 = 1024;

/// Vsock port in the guest that the host connects stdio streams to.
pub const STREAM_PORT: u32 = 1025;
