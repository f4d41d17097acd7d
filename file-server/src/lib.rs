//! File server: serves one folder of the host, or one file under a name of its own, to one machine. Only the program
//! `capsid-fs` and the fuzz target use this crate.
//!
//! ```text
//! server ── confined, waits     requests ── the vhost-user protocol      rings ── FUSE requests, one after the other
//! ```
//!
//! The guest is hostile, and so is every byte it sends. Protection of the host, from the outside in: the process sees
//! only the files that it serves ([`capsid_jail::Share`]), and the kernel refuses writes to a read-only share; few
//! system calls are permitted ([`filters`]); names are single components and never `..`, and no file gains rights by
//! being served ([`files`]).
//! being served ([`files`]).

mod arguments;
mod device;
mod files;
mod filters;
#[cfg(fuzzing)]
pub mod fuzzing;
mod limits;
mod server;
mod sys;

pub use arguments::{ArgumentError, Arguments, Command, parse};
pub use server::{Reason, ServeError, report_confinement, serve};
