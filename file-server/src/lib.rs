//! The file server: one folder of the host's, or one file under a name of its own, for one machine. The program
//! `capsid-fs` is all that uses this crate, but for the fuzz target.
//!
//! ```text
//! server ── confined, waits     requests ── the vhost-user protocol      rings ── FUSE requests, one after the other
//! ```
//!
//! The guest is hostile, and so is every byte it sends. What protects the host, from the outside in: the process sees
//! no file but those it serves ([`capsid_jail::Share`]), and the kernel refuses writes where the share is read-only;
//! few system calls are left ([`filters`]); names are single components and never `..`, and no file gets more rights by
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
