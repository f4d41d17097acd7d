//! User's terminal: raw mode for as long as a container has it, and its size.

use std::io::{self, Stdin};
use std::os::fd::AsFd;

use capsid_protocol::spec::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

use crate::output;

/// Raw mode of the terminal; dropping this restores the settings.
#[derive(Debug)]
pub(crate) struct RawMode {
    stdin: Stdin,
    before: Termios,
}

impl RawMode {
    /// Sets raw mode on stdin.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done when the terminal has closed.
        let _ = termios::tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}

/// Whether stdin is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    termios::isatty(io::stdin())
}

/// Returns the size of the terminal on stdout or stdin.
pub(crate) fn size() -> Option<TerminalSize> {
    let stdout = output::stdout_file().ok();
    stdout.and_then(|file| window(&file)).or_else(|| window(&io::stdin()))
}

fn window(fd: &impl AsFd) -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(fd)
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)?;
    Some(TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}
