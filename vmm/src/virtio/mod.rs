//! Virtio devices and the transports that connect them to a guest.

pub mod balloon;
pub mod block;
pub(crate) mod chain;
pub mod device;
pub(crate) mod drain;
pub(crate) mod filters;
pub(crate) mod mmio;
pub mod net;
pub mod rng;
pub mod share;
pub(crate) mod status;
mod sys;
#[cfg(any(test, fuzzing))]
pub mod test_driver;
pub mod vsock;
