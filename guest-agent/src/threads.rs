//! Threads of the agent.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Bytes of a thread's stack: buffers lie on the heap, and recursion is bounded. Only touched pages cost memory.
const STACK_BYTES: usize = 256 << 10;

/// Starts a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run)
}
