//! Socket device (virtio 1.3, section 5.10): byte streams between the guest and sockets of the host.
//!
//! ```text
//!   tx queue ──► device ──► muxer ──► connection ──► host socket      (what does not fit waits in a backlog)
//!   rx queue ◄── device ◄── muxer ◄── connection ◄── host socket      (bytes wait in the socket)
//! ```

mod connection;
mod control;
mod device;
mod muxer;
mod packet;
mod receive_ring;
#[cfg(test)]
mod test_fixture;
#[cfg(test)]
mod tests;

pub use device::{VsockDevice, VsockError};
pub use muxer::VsockCounters;
