//! The container's own init (`--init`): forwards signals to the program, reaps orphans, ends when the program ends.

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use crate::sys;

/// Runs as PID 1 of a container whose program is the child `program`; every signal is blocked. Returns the exit code.
pub(crate) fn supervise(program: Pid) -> i32 {
    loop {
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
            // Stopping this process would stop the forwarding; the terminal stops the program itself.
            Ok(libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {}
            // A program that is gone is about to be reaped.
            Ok(number) => drop(sys::send_signal(program, number)),
            Err(_) => {}
        }
    }
}

/// Runs as PID 1 of a pid namespace that several containers share; every signal is blocked.
pub(crate) fn reap_for_ever() -> ! {
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        // An interrupted wait is as good as a signal.
        let _ = sys::wait_for_signal();
    }
}

/// Reaps every ended child. Returns the exit code if the program is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => {
                code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|n| 128 + n));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}
