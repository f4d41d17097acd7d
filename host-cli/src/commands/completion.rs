//! Verb `capsid completion`.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionArgs};
use crate::output;

/// Prints the completion script of a shell.
pub(crate) fn run(args: &CompletionArgs) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "capsid", &mut script);
    output::write_stdout(&script);
    Ok(0)
}
