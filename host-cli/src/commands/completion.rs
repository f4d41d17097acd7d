//! `capsid completion`.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionArgs};

/// Prints the completion script of a shell.
pub(crate) fn run(args: &CompletionArgs) -> anyhow::Result<u8> {
    clap_complete::generate(args.shell, &mut Cli::command(), "capsid", &mut std::io::stdout());
    Ok(0)
}
