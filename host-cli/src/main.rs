//! `capsid`: run untrusted container images, each pod inside a virtual machine of its own.
//!
//! ```text
//! argv ─► cli (words) ─► commands/<verb> (recipe) ─► plan (pure) ─► supervisor ─► accelerator ─► session ─► exit code
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `cli` | the command line as typed |
//! | `commands/` | one recipe per verb |
//! | `plan/` | image config + flags → container spec + machine size, pure |
//! | `accelerator/` | how guest instructions run: `kvm`, `emulate` |
//! | `supervisor` | one pod from start to end |
//! | `session`, `stdio`, `terminal`, `signals` | what flows between user and container |
//! | `registration` | running pods on this host |
//! | `scratch`, `initramfs` | what a machine is given beside the rootfs |
//! | `seccomp/` | profiles to filters |
//! | `probe`, `doctor` | what this host can do |
//! | `folders`, `parts`, `settings` | where things are |

mod accelerator;
mod capability;
mod cli;
mod commands;
mod console;
mod doctor;
mod folders;
mod initramfs;
mod parts;
mod plan;
mod probe;
mod progress;
mod registration;
mod scratch;
mod seccomp;
mod session;
mod settings;
mod signals;
mod stdio;
mod supervisor;
mod sys;
mod terminal;
mod timings;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command, ImageCommand};
use commands::Context;

fn main() -> ExitCode {
    // The confined helper that reads image bytes is this same binary: see `capsid_image::Converter`.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == capsid_image::CONVERTER_COMMAND)
    {
        return capsid_image::convert_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    let is_run = matches!(cli.command, Command::Run(_));
    if cli.command.only_prints() {
        sys::end_with_the_pipe();
    }
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("capsid: {}", commands::describe(&error));
            ExitCode::from(if is_run { commands::run::exit_code(&error) } else { 1 })
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, async {
        let context = Context {
            data: cli.data_dir,
            run: cli.run_dir,
        };
        match cli.command {
            Command::Run(args) => commands::run::run(context, *args).await,
            Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => commands::pull::run(context, args).await,
            Command::Load(args) | Command::Image(ImageCommand::Load(args)) => commands::load::run(context, args).await,
            Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => commands::images::run(context, &args),
            Command::Image(ImageCommand::Inspect(args)) => commands::inspect::run(context, &args),
            Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => commands::rmi::run(context, &args),
            Command::Doctor(args) => commands::doctor::run(context, &args),
            Command::Version(args) => commands::version::run(&args),
            Command::Completion(args) => commands::completion::run(&args),
            Command::Man => commands::man::run(),
        }
    });
    // A thread may wait in a read of the user's stdin for ever: it must not hold the exit.
    runtime.shutdown_background();
    code
}

/// clap's own message; help and version are no errors. docker's code for a wrong `run` line is 125.
fn usage_error(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let is_run = words
        .iter()
        .find(|word| !word.to_string_lossy().starts_with('-'))
        .is_some_and(|word| word == "run");
    if is_run && let Some(message) = commands::run::explain_unknown_flag(&words) {
        eprintln!("capsid: {message}");
        return ExitCode::from(125);
    }
    let _ = error.print();
    ExitCode::from(if is_run { 125 } else { 1 })
}
