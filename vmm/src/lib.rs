//! Machines: one microVM as one confined process. This crate knows nothing of containers or images.
//!
//! A supervisor starts `capsid-vmm` with every file already open that it will ever use, and one JSON [`Config`] on an
//! inherited fd. After confinement the process opens no path, makes no connection, starts no process.
//!
//! ```text
//!   supervisor ── config, kernel, disks, sockets, status ──► capsid-vmm        process.rs
//!                                                              │ confine      capsid-jail
//!                                                              │ build        machine.rs: the recipe
//!   vCPU threads ── exits ──► bus ──► virtio-mmio transport    │ filter       filters.rs: each thread
//!        │ ioeventfd                        │                  ▼ run
//!        └──────────► event loop ──► Device::process ──► disk extents, vsock streams, rng, free pages
//! ```
//!
//! KVM binds a VM to the process that made it, so the fork into the pid namespace comes first. All later steps run
//! confined except for their system calls; those are filtered before the first guest instruction.
//!
//! The same devices serve QEMU over vhost-user when there is no usable KVM ([`Config::VhostUser`]); QEMU itself is
//! confined here before it is executed ([`Config::Emulator`]). The link between the machines of one network is a
//! process of the same kind ([`Config::Switch`]).

mod bus;
pub mod config;
mod console;
pub mod devices;
pub mod disk_slots;
pub mod egress;
pub mod emulator;
pub mod event_loop;
mod filters;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod inherited;
pub mod kernel;
mod layout;
pub mod limits;
pub mod machine;
pub mod memory;
mod message;
pub mod metrics;
mod mptable;
pub mod process;
pub mod segments;
pub mod status;
pub mod switch;
mod sys;
pub mod vcpu;
pub mod vhost_user;
pub mod virtio;
mod warnings;

pub use config::Config;
pub use status::{MachineExit, Status};
