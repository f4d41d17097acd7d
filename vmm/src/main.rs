//! `capsid-vmm --config-fd N`: one machine, confined. A supervisor starts it; it is not for use by hand. `capsid-vmm
//! --confinement` only enters its jail and reports what the jail consists of on this host.

use std::process::ExitCode;

use capsid_vmm::process::ProcessError;

fn main() -> ExitCode {
    capsid_jail::abort_on_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--version"] => {
            println!("capsid-vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["--confinement"] => match capsid_vmm::process::report_confinement() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error),
        },
        ["--config-fd", number] => number.parse().map_or_else(|_| usage(), run),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: capsid-vmm --config-fd N | --confinement | --version");
    ExitCode::from(2)
}

fn run(config_fd: i32) -> ExitCode {
    match capsid_vmm::process::run(config_fd) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

fn failure(error: &ProcessError) -> ExitCode {
    eprintln!("capsid-vmm: {}", error.chain());
    ExitCode::FAILURE
}
