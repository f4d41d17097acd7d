//! Verb `capsid man`.

use std::io::Write;

use clap::{Command, CommandFactory};

use crate::cli::Cli;
use crate::output;

/// Prints the man page: the command, then a section for each verb.
pub(crate) fn run() -> anyhow::Result<u8> {
    let mut out = Vec::new();
    let mut command = Cli::command();
    // Names the verbs in full ("capsid run") in their usage lines.
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    command
        .get_subcommands()
        .try_for_each(|verb| print_verb(verb, &mut out))?;
    output::write_stdout(&out);
    Ok(0)
}

fn print_verb(verb: &Command, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, ".SH \"CAPSID {}\"", verb.get_name().to_uppercase())?;
    let page = clap_mangen::Man::new(verb.clone());
    page.render_description_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_options_section(out)?;
    page.render_extra_section(out)?;
    Ok(())
}
