//! `capsid-fs --socket-fd N --source PATH --identity DEVICE:INODE [--file NAME] [--readonly]`: serves one folder, or one
//! file under a name of its own, to one machine. Started by a supervisor, not by hand. `capsid-fs --confinement` does nothing
//! but enter its jail, with its own program as the share, and tell what that consists of on this host.
//!
//! ```text
//! main ── confined, waits      requests ── the vhost-user protocol      rings ── FUSE requests, one after the other
//! ```
//!
//! The guest is hostile, and so is every byte it sends. What protects the host, from the outside in: the process sees
//! no file but those it serves ([`capsid_jail::Share`]), and the kernel refuses writes where the share is read-only;
//! few system calls are left ([`filters`]); names are single components and never `..`, and no file gets more rights by
//! being served ([`files`]).

mod arguments;
mod device;
mod files;
mod filters;
mod limits;
mod server;
mod sys;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    capsid_jail::abort_on_panic();
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Version) => {
            println!("capsid-fs {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Command::Confinement) => exit(server::report_confinement()),
        Ok(Command::Serve(arguments)) => exit(server::serve(&arguments)),
        Err(error) => {
            eprintln!("capsid-fs: {error}");
            eprintln!(
                "usage: capsid-fs --socket-fd N --source PATH --identity DEVICE:INODE [--file NAME] [--readonly]"
            );
            ExitCode::from(2)
        }
    }
}

fn exit(result: Result<(), server::ServeError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsid-fs: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
