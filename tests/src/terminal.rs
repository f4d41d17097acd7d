//! `capsid` in a pseudo terminal: a user at a keyboard.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::termios::{Termios, tcgetattr};

use crate::environment::patience;
use crate::invocation::{Invocation, wait_until};
use crate::sys;

/// Terminal with a program in it.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    /// Mode of the terminal before the program.
    cooked: Termios,
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Length of the output in which [`Terminal::expect`] has already searched.
    seen: usize,
}

impl Terminal {
    /// Starts the call in a terminal of 24 by 80 characters.
    pub fn start(invocation: Invocation) -> Self {
        let pair = nix::pty::openpty(None, None).expect("a pseudo terminal");
        let master = File::from(pair.master);
        sys::set_window_size(&master, 24, 80).expect("a terminal");
        let cooked = mode(&pair.slave);
        let end = || pair.slave.try_clone().expect("a descriptor");
        let (stdin, stdout, stderr) = (end(), end(), end());
        let child = invocation.spawn_with(|command| {
            command.env("TERM", "xterm").stdin(stdin).stdout(stdout).stderr(stderr);
            sys::take_controlling_terminal(command);
        });
        let screen = Arc::new(Mutex::new(Vec::new()));
        watch(master.try_clone().expect("a descriptor"), Arc::clone(&screen));
        Self {
            master,
            slave: pair.slave,
            cooked,
            child,
            screen,
            seen: 0,
        }
    }

    /// Types these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.write_all(bytes.as_ref()).expect("a terminal");
    }

    /// Changes the window's size.
    pub fn resize(&self, rows: u16, columns: u16) {
        sys::set_window_size(&self.master, rows, columns).expect("a terminal");
    }

    /// Waits until the words appear after what was expected before.
    #[track_caller]
    pub fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + patience(40);
        loop {
            let screen = self.screen.lock().expect("a reader that does not panic").clone();
            let fresh = &screen[self.seen..];
            if let Some(at) = fresh.windows(words.len()).position(|window| window == words.as_bytes()) {
                self.seen += at + words.len();
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{words:?} did not appear; the screen after the last match: {:?}",
                String::from_utf8_lossy(fresh)
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns everything that was ever shown.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("a reader that does not panic")).into_owned()
    }

    /// Whether the terminal has the mode that it had before the program, as the shell that started it expects.
    pub fn is_cooked(&self) -> bool {
        mode(&self.slave) == self.cooked
    }

    /// Returns the process id of the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until(&mut self.child, Instant::now() + patience(40));
        status.unwrap_or_else(|| {
            panic!(
                "the program in the terminal did not end; the screen: {:?}",
                self.screen()
            )
        })
    }
}

fn mode(terminal: &OwnedFd) -> Termios {
    tcgetattr(terminal.as_fd()).expect("a terminal")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the terminal is gone; the slave that is kept open here holds it until the value is dropped.
fn watch(mut master: File, screen: Arc<Mutex<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            screen
                .lock()
                .expect("no other writer")
                .extend_from_slice(&buffer[..count]);
        }
    });
}
