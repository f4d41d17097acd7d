//! `capsid-fs --socket-fd N --source PATH --identity DEVICE:INODE [--file NAME] [--readonly]`: serves one folder, or
//! one file under a name of its own, to one machine. Started by a supervisor, not by hand. `capsid-fs --confinement`
//! only enters its jail, with its own program as the share, and reports which layers the jail has on this host.

use std::process::ExitCode;

use capsid_fs::{Command, ServeError};

fn main() -> ExitCode {
    capsid_jail::abort_on_panic();
    match capsid_fs::parse(std::env::args_os().skip(1)) {
        Ok(Command::Version) => {
            println!("capsid-fs {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Command::Confinement) => exit(capsid_fs::report_confinement()),
        Ok(Command::Serve(arguments)) => exit(capsid_fs::serve(&arguments)),
        Err(error) => {
            eprintln!("capsid-fs: {error}");
            eprintln!(
                "usage: capsid-fs --socket-fd N --source PATH --identity DEVICE:INODE [--file NAME] [--readonly]"
            );
            ExitCode::from(2)
        }
    }
}

fn exit(result: Result<(), ServeError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsid-fs: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Formats an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
