//! Virtio devices and what carries them to a guest.

pub mod device;
