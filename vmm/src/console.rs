//! Output of the serial console: a ring of the last bytes, and detection of a kernel panic.

use std::collections::VecDeque;
use std::io;

use crate::limits::CONSOLE_BYTES;

/// Text that Linux prints first in `panic()`, at a level that no command line suppresses.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Ring of the last [`CONSOLE_BYTES`] bytes of output.
#[derive(Debug, Default)]
pub(crate) struct Console {
    ring: VecDeque<u8>,
    dropped_bytes: u64,
    /// Number of bytes at the end of the output that match the beginning of [`PANIC`].
    heard: usize,
    panicked: bool,
}

impl Console {
    /// Appends one byte.
    pub(crate) fn push(&mut self, byte: u8) {
        if self.ring.len() == CONSOLE_BYTES {
            self.ring.pop_front();
            self.dropped_bytes += 1;
        }
        self.ring.push_back(byte);
        // The first letter occurs nowhere else in the phrase, so a mismatch can only restart at the first letter.
        self.heard = match byte {
            byte if byte == PANIC[self.heard] => self.heard + 1,
            byte if byte == PANIC[0] => 1,
            _ => 0,
        };
        if self.heard == PANIC.len() {
            self.panicked = true;
            self.heard = 0;
        }
    }

    /// Whether the guest kernel reported a panic. A hostile guest may lie about it, only at its own expense.
    pub(crate) fn has_panicked(&self) -> bool {
        self.panicked
    }

    /// Text of the bytes kept.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.ring.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// Number of bytes that were dropped to make room for newer ones.
    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }
}

impl io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.push(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_bytes_stay_and_the_rest_is_counted() {
        let mut console = Console::default();
        console
            .write_all(&vec![b'a'; CONSOLE_BYTES])
            .expect("a ring takes everything");
        console.write_all(b"end").expect("a ring takes everything");
        assert_eq!(console.dropped_bytes(), 3);
        assert_eq!(console.text().len(), CONSOLE_BYTES);
        assert!(console.text().ends_with("aend"));
    }

    #[test]
    fn a_panic_is_heard_across_writes_and_after_false_starts() {
        let mut console = Console::default();
        console
            .write_all(b"Kernel paKernel panic - not")
            .expect("a ring takes everything");
        assert!(!console.has_panicked());
        console.write_all(b" syncing: test").expect("a ring takes everything");
        assert!(console.has_panicked());
    }

    #[test]
    fn the_phrase_starts_with_a_letter_of_its_own() {
        assert_eq!(PANIC.iter().filter(|&&byte| byte == PANIC[0]).count(), 1);
    }
}
