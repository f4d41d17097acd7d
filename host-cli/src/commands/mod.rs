//! Implementation of each verb.

pub(crate) mod attach;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod export;
mod filter;
mod image_filter;
pub(crate) mod images;
pub(crate) mod inspect;
mod inspect_fields;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod man;
mod name_pattern;
pub(crate) mod network;
mod network_connect;
mod network_fields;
pub(crate) mod pod;
pub(crate) mod port;
pub(crate) mod ps;
mod ps_filter;
pub(crate) mod pull;
mod recover;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod supervise;
pub(crate) mod system;
mod table;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;

/// Returns the exit code for a signal, as in a shell and docker.
fn signal_exit_code(number: i32) -> u8 {
    128u8.saturating_add(number.clamp(0, 127) as u8)
}
