//! Machines: one microVM as one confined process. Knows nothing of containers or images.
//!
//! `capsid-vmm` is started by a supervisor with every file it will ever use already open, and one JSON [`Config`]
//! on an inherited fd. After confinement it opens no path, makes no connection, starts no process.
//!
//! ```text
//!   supervisor ── config fd, kernel fd, disk fds, vsock fds, status fd ──► capsid-vmm
//!                                                                          │ build (recipe: machine.rs)
//!   vCPU threads ── MMIO exit ──► bus ──► virtio-mmio transport            │ confine (capsid-jail)
//!        │ ioeventfd                          │ activate                   ▼ run
//!        └────────────► epoll loop ──► Device::process ──► disk extents, vsock streams, rng
//! ```
//!
//! The same devices serve QEMU over vhost-user when there is no usable KVM ([`Config::VhostUser`]).

pub mod attachments;
mod bus;
pub mod config;
mod console;
pub mod event_loop;
mod filters;
pub mod inherited;
pub mod kernel;
mod layout;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod metrics;
mod mptable;
pub mod process;
pub mod status;
mod sys;
pub mod vcpu;
pub mod vhost_user;
pub mod virtio;
mod warnings;

pub use config::Config;
pub use status::{MachineExit, Status};
