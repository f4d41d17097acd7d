//! Ids of containers, of processes in them, and of volumes without a name: 64 hexadecimal digits, as docker's.

use rustix::rand::{GetRandomFlags, getrandom};

/// A new one.
///
/// # Errors
/// When the kernel gives no random bytes.
pub(crate) fn new() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(hex::encode(bytes))
}
