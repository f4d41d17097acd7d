//! `capsid`: run untrusted container images, each pod inside a virtual machine of its own.
//!
//! ```text
//! argv ─► cli (words) ─► commands/<verb> (recipe) ─► plan (pure) ─► create ─► start ┐
//!                                                                                     │ a process of its own
//!        exit code ◄─ attachment ◄─ control ◄──────────────────────────────── supervisor ─► accelerator ─► session
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `cli` | the command line as typed |
//! | `app/` | surroundings of every verb: folders, open state and store |
//! | `commands/` | one recipe per verb |
//! | `model/` | plain data of containers, pods, networks, volumes; names no sibling |
//! | `plan/` | image config + flags → container spec + machine size, pure |
//! | `accelerator/` | how guest instructions run: `kvm`, `emulate` |
//! | `process/` | child processes with chosen open files, sidecars, sockets to running devices |
//! | `surroundings`, `create`, `start` | what a plan needs of this host, making a container, and starting its supervisor |
//! | `supervisor/` | one pod from start to end, in a process that outlives the command |
//! | `control/` | what commands and supervisors say to each other |
//! | `attachment`, `stdio`, `detach`, `terminal`, `signals` | what flows between user and container |
//! | `session`, `guest_text` | what flows between supervisor and agent, checked and cleaned |
//! | `file_task` | what the agent does with a container's files for a command |
//! | `recovery` | rows and remains of killed processes, corrected |
//! | `state/`, `container_lock`, `store_folder` | which containers there are, who may change them, what they keep |
//! | `network/` | what a pod is given of networks: passt, the switch, addresses, ports |
//! | `volumes` | disks that outlive containers |
//! | `health` | how healthy containers were last found |
//! | `events` | what happened to containers |
//! | `log/` | what a container has printed |
//! | `names`, `clock`, `format`, `resident` | words, times, templates and memory figures |
//! | `shares`, `mounts` | which files of the host's a container may have |
//! | `scratch`, `initramfs` | what a machine is given beside the rootfs |
//! | `seccomp/` | profiles to filters |
//! | `nonblocking` | reads and writes on descriptors that a shell left non-blocking |
//! | `output`, `error_text` | what is printed, made harmless to terminals |
//! | `probe`, `doctor` | what this host can do |
//! | `folders`, `install_paths`, `settings` | where things are |
//! | `disk_reserve` | room for commands on a full disk |

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod output;

mod accelerator;
mod app;
mod attachment;
mod capability;
mod cli;
mod clock;
mod commands;
mod confinement;
mod console;
mod container_lock;
mod control;
mod create;
mod detach;
mod disk_reserve;
mod doctor;
mod ephemeral_socket;
mod error_text;
mod events;
mod file_task;
mod folders;
mod format;
mod guest_text;
mod health;
mod id;
mod initramfs;
mod install_paths;
mod labels;
mod log;
mod model;
mod mounts;
mod names;
mod network;
mod nonblocking;
mod plan;
mod probe;
mod process;
mod progress;
mod recovery;
mod resident;
mod scratch;
mod seccomp;
mod session;
mod settings;
mod shares;
mod signals;
mod start;
mod state;
mod stdio;
mod store_folder;
mod supervisor;
mod supervisor_process;
mod surroundings;
mod sys;
mod terminal;
mod timings;
mod volumes;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use app::Context;
use cli::{Cli, Command, ContainerCommand, ImageCommand, SystemCommand, verb};
use model::exit_code;

fn main() -> ExitCode {
    sys::keep_descriptors_from_children();
    // The confined helper process that reads image bytes is this same binary: see `capsid_image::Converter`.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == capsid_image::CONVERTER_COMMAND)
    {
        return capsid_image::convert_main();
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    let is_dockers = cli.command.has_dockers_codes();
    let code = dispatch(cli).unwrap_or_else(|error| {
        error_text::print(error.as_ref());
        if let Some(console) = commands::run::console(&error) {
            eprintln!("capsid: last lines of the guest's console:");
            console.lines().for_each(|line| eprintln!("  {line}"));
        }
        if is_dockers {
            commands::run::exit_code(&error)
        } else {
            1
        }
    });
    ExitCode::from(output::finish(code))
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, async {
        confinement::keep_flag(cli.require);
        let context = Context {
            data: cli.data_dir,
            run: cli.run_dir,
        };
        match cli.command {
            Command::Run(args) => commands::run::run(context, *args).await,
            Command::Top(command) | Command::Container(command) => container(context, command).await,
            Command::Pod(command) => commands::pod::run(context, command).await,
            Command::Volume(command) => commands::volume::run(context, command),
            Command::Network(command) => commands::network::run(context, command).await,
            Command::System(command) => commands::system::run(context, command).await,
            Command::Info(args) => commands::system::run(context, SystemCommand::Info(args)).await,
            Command::Supervise(args) => commands::supervise::run(context, args).await,
            Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => commands::pull::run(context, args).await,
            Command::Load(args) | Command::Image(ImageCommand::Load(args)) => commands::load::run(context, args).await,
            Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => commands::images::run(context, &args),
            Command::Image(ImageCommand::Inspect(args)) => commands::inspect::images(context, &args),
            Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => commands::rmi::run(context, &args),
            Command::Doctor(args) => commands::doctor::run(context, &args),
            Command::Version(args) => commands::version::run(&args),
            Command::Completion(args) => commands::completion::run(&args),
            Command::Man => commands::man::run(),
        }
    });
    // A thread may be blocked in a read of the user's stdin for ever: it must not delay the exit.
    runtime.shutdown_background();
    code
}

/// Runs the verbs of containers.
async fn container(context: Context, command: ContainerCommand) -> anyhow::Result<u8> {
    use commands::lifecycle;
    match command {
        ContainerCommand::Create(args) => commands::run::create(context, *args).await,
        ContainerCommand::Start(args) => lifecycle::start(context, args).await,
        ContainerCommand::Stop(args) => lifecycle::stop(context, args).await,
        ContainerCommand::Restart(args) => lifecycle::restart(context, args).await,
        ContainerCommand::Kill(args) => lifecycle::kill(context, args).await,
        ContainerCommand::Pause(args) => lifecycle::pause(context, args, true).await,
        ContainerCommand::Unpause(args) => lifecycle::pause(context, args, false).await,
        ContainerCommand::Wait(args) => lifecycle::wait(context, args).await,
        ContainerCommand::Rm(args) => lifecycle::rm(context, args).await,
        ContainerCommand::Rename(args) => lifecycle::rename(context, &args).await,
        ContainerCommand::Prune(args) => lifecycle::prune(context, args).await,
        ContainerCommand::Ps(args) => commands::ps::run(context, &args),
        ContainerCommand::Inspect(args) => commands::inspect::containers(context, &args),
        ContainerCommand::Logs(args) => commands::logs::run(context, &args).await,
        ContainerCommand::Attach(args) => commands::attach::attach(context, args).await,
        ContainerCommand::Exec(args) => commands::attach::exec(context, args).await,
        ContainerCommand::Events(args) => commands::events::run(context, &args),
        ContainerCommand::Port(args) => commands::port::run(context, &args),
        ContainerCommand::Update(args) => commands::update::run(context, args).await,
        ContainerCommand::Cp(args) => commands::cp::run(context, args).await,
        ContainerCommand::Diff(args) => commands::diff::run(context, args).await,
        ContainerCommand::Export(args) => commands::export::run(context, args).await,
        ContainerCommand::Top(args) => commands::top::run(context, args).await,
        ContainerCommand::Stats(args) => commands::stats::run(context, args).await,
    }
}

/// Prints clap's own message; help and version are not errors. docker's code for a wrong flag is 125, whatever the
/// verb, and for any wrong `run` line.
fn usage_error(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::record(error.print());
        return ExitCode::from(output::finish(0));
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let verb = verb(&words).unwrap_or_default();
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if word.starts_with('-') => Some(word),
        _ => None,
    };
    if let (ErrorKind::UnknownArgument, "run" | "create", Some(flag)) = (error.kind(), verb.as_str(), flag) {
        let message = commands::run::explain_flag(flag)
            .unwrap_or_else(|| format!("unknown flag: {flag} (see `capsid {verb} --help`)"));
        eprintln!("capsid: {message}");
        return ExitCode::from(exit_code::FAILURE);
    }
    // Without clap's colors: it quotes the words of the line, which may come from anywhere.
    eprintln!("{}", error.render().to_string().trim_end());
    ExitCode::from(if verb == "run" || flag.is_some() {
        exit_code::FAILURE
    } else {
        1
    })
}
