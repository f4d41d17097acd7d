//! Arguments of a container's processes, read by threads that nobody waits for long.
//!
//! The threat: `/proc/PID/cmdline` is read from the memory of the process. If that memory is a file of a filesystem
//! that the container itself serves, or waits for a handler of page faults, the read takes as long as the container
//! likes. A thread that performs a request of the host never makes such a read: it waits a moment for a thread that
//! does, and leaves that thread behind, with the process that it hangs at, for as long as the read lasts.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::{ARGUMENT_READERS_MAX, ARGUMENTS_BYTES_MAX, ARGUMENTS_WAIT, ARGUMENTS_WAIT_ALL};
use crate::{log, threads};

/// Threads that read arguments, including the hanging ones.
#[derive(Debug, Default)]
pub(crate) struct ArgumentReaders {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of threads at work.
    count: usize,
    /// Processes whose arguments are being read.
    reading: HashSet<u32>,
}

/// Place of a reader among [`ARGUMENT_READERS_MAX`], free when the thread has ended.
struct ReaderSlot(Arc<ArgumentReaders>);

impl Drop for ReaderSlot {
    fn drop(&mut self) {
        self.0.state().count -= 1;
    }
}

/// Reads the arguments of one process, cut at a limit. Unreadable arguments are empty.
pub(crate) fn read_cmdline(pid: u32) -> Vec<u8> {
    let mut arguments = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(ARGUMENTS_BYTES_MAX as u64).read_to_end(&mut arguments);
    }
    arguments
}

impl ArgumentReaders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the arguments of `pids` as `read` reports them, without those that take too long.
    pub(crate) fn read_all(
        self: &Arc<Self>,
        pids: &[u32],
        read: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static,
    ) -> HashMap<u32, Vec<u8>> {
        let deadline = Instant::now() + ARGUMENTS_WAIT_ALL;
        let mut arguments = HashMap::new();
        let mut left: Vec<u32> = {
            let state = self.state();
            pids.iter()
                .copied()
                .filter(|pid| !state.reading.contains(pid))
                .collect()
        };
        while !left.is_empty() && Instant::now() < deadline {
            let Some(results) = self.start(left.clone(), read.clone()) else {
                break;
            };
            let came = receive(&results, left.len(), deadline, &mut arguments);
            // Results arrive in order: the next pid is the one that the thread hangs at.
            left.drain(..(came + 1).min(left.len()));
        }
        arguments
    }

    /// Starts a thread that reads; `None` if too many hang.
    fn start(
        self: &Arc<Self>,
        pids: Vec<u32>,
        read: impl Fn(u32) -> Vec<u8> + Send + 'static,
    ) -> Option<Receiver<(u32, Vec<u8>)>> {
        {
            let mut state = self.state();
            if state.count >= ARGUMENT_READERS_MAX {
                return None;
            }
            state.count += 1;
        }
        let slot = ReaderSlot(Arc::clone(self));
        let (sender, results) = channel();
        match threads::spawn("arguments", move || slot.0.work(&pids, &read, &sender)) {
            Ok(_) => Some(results),
            Err(e) => {
                log::warn(&format!("cannot read arguments: {e}"));
                None
            }
        }
    }

    /// Reads until all is read, or nobody waits any more.
    fn work(&self, pids: &[u32], read: &impl Fn(u32) -> Vec<u8>, results: &Sender<(u32, Vec<u8>)>) {
        for pid in pids {
            self.state().reading.insert(*pid);
            let arguments = read(*pid);
            self.state().reading.remove(pid);
            if results.send((*pid, arguments)).is_err() {
                return;
            }
        }
    }
}

/// Receives results until there are `count`, or the next one takes too long. Returns how many arrived.
fn receive(
    results: &Receiver<(u32, Vec<u8>)>,
    count: usize,
    deadline: Instant,
    arguments: &mut HashMap<u32, Vec<u8>>,
) -> usize {
    for came in 0..count {
        let wait = ARGUMENTS_WAIT.min(deadline.saturating_duration_since(Instant::now()));
        let Ok((pid, words)) = results.recv_timeout(wait) else {
            return came;
        };
        arguments.insert(pid, words);
    }
    count
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, mpsc};
    use std::time::Duration;

    use super::*;

    /// Gate at which reads of chosen processes wait.
    type Gate = Arc<(Mutex<bool>, Condvar)>;

    fn reader(gate: &Gate, slow: fn(u32) -> bool) -> impl Fn(u32) -> Vec<u8> + Clone + Send + 'static {
        let gate = Arc::clone(gate);
        move |pid| {
            if slow(pid) {
                let closed = gate.0.lock().unwrap();
                drop(gate.1.wait_while(closed, |is_open| !*is_open).unwrap());
            }
            vec![pid as u8]
        }
    }

    fn open(gate: &Gate) {
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    }

    #[test]
    fn a_process_that_hangs_its_reader_keeps_no_others() {
        let (readers, gate) = (Arc::new(ArgumentReaders::default()), Gate::default());
        let read = reader(&gate, |pid| pid == 2);
        for _ in 0..2 * ARGUMENT_READERS_MAX {
            let began = Instant::now();
            let arguments = readers.read_all(&[1, 2, 3], read.clone());
            assert_eq!(arguments.keys().copied().collect::<HashSet<_>>(), HashSet::from([1, 3]));
            assert!(began.elapsed() < ARGUMENTS_WAIT_ALL);
        }
        assert!(
            readers.state().count < ARGUMENT_READERS_MAX,
            "one hangs, and few may be about to end"
        );
        open(&gate);
        let (ended, wait) = mpsc::channel();
        std::thread::spawn(move || {
            while readers.state().count > 0 {
                std::thread::yield_now();
            }
            ended.send(readers.read_all(&[2], |_| vec![2])).unwrap();
        });
        let arguments = wait.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(arguments[&2], [2]);
    }

    #[test]
    fn readers_that_hang_are_bounded() {
        let (readers, gate) = (Arc::new(ArgumentReaders::default()), Gate::default());
        let pids: Vec<u32> = (0..200).collect();
        let began = Instant::now();
        let arguments = readers.read_all(&pids, reader(&gate, |_| true));
        assert!(arguments.is_empty() && readers.state().count <= ARGUMENT_READERS_MAX);
        assert!(began.elapsed() < ARGUMENTS_WAIT_ALL + ARGUMENTS_WAIT);
        open(&gate);
    }
}
