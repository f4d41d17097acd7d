//! The contract between host and agent: what is said in a session, and how it is framed.
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
//!   │ ── Create(ContainerSpec) ───────────►  │   disks mounted, namespaces made, process waits before exec
//!   │ ◄── Created ────────────────────────── │
//!   │ ── connect STREAM_PORT, StreamHello ►  │   one per stream of the spec
//!   │ ── Start ───────────────────────────►  │   waits for the streams, then exec
//!   │ ◄── Started | Failed ───────────────── │
//!   │ ── Signal, Resize ──────────────────►  │
//!   │ ◄── Stopped{status} ────────────────── │   after every stream is drained
//!   │ ── Shutdown ────────────────────────►  │   disks unmounted, machine off
//! ```
//!
//! The host may send `Create`, connect the streams and send `Start` without waiting in between. Messages state
//! intent, not system calls. Types only: no sockets, no unsafe. To the host, every agent frame is hostile.

#![forbid(unsafe_code)]

pub mod frame;
pub mod message;
pub mod spec;

pub use frame::{FrameError, read_frame, write_frame};
pub use message::{
    AgentMessage, Created, Failed, Hello, HostMessage, Resize, Signal, Stage, Start, Started, Stopped, StreamHello,
    StreamKind,
};
pub use spec::ContainerSpec;

/// Version of this contract. Added fields keep it; a change of meaning bumps it, and unequal versions refuse each
/// other at `Hello`.
pub const VERSION: u32 = 1;

/// Port on the host (CID 2) that the agent dials.
pub const SESSION_PORT: u32 = 1024;

/// Port in the guest that the host connects stdio streams to.
pub const STREAM_PORT: u32 = 1025;
