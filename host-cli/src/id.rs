//! Ids of containers, of processes in them, and of volumes without a name: 64 hexadecimal digits, as docker's.

use rustix::rand::{GetRandomFlags, getrandom};

/// Generates an id.
///
/// # Errors
/// Fails when the kernel gives no random bytes.
pub(crate) fn new() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(hex::encode(bytes))
}

/// Whether a text has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
