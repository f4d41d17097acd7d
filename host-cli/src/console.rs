//! Serial console of a machine as the supervisor keeps it: the last 64 KiB.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Number of bytes that are kept (DESIGN: console ring).
const RING_BYTES: usize = 64 << 10;

/// Line that the kernel prints when it panics (`kernel/panic.c`).
const PANIC: &str = "Kernel panic - not syncing";

/// Reads until the end and returns the last bytes.
pub(crate) async fn collect(mut from: impl AsyncRead + Unpin) -> String {
    let mut ring = VecDeque::with_capacity(RING_BYTES);
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let overflow = (ring.len() + count).saturating_sub(RING_BYTES);
        ring.drain(..overflow.min(ring.len()));
        ring.extend(&buffer[..count]);
    }
    String::from_utf8_lossy(ring.make_contiguous()).into_owned()
}

/// Whether the kernel printed that it panicked.
pub(crate) fn tells_panic(console: &str) -> bool {
    console.contains(PANIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_bytes_are_kept() {
        let long = [vec![b'a'; RING_BYTES], b"end".to_vec()].concat();
        let kept = collect(long.as_slice()).await;
        assert_eq!(kept.len(), RING_BYTES);
        assert!(kept.ends_with("end"));
    }
}
