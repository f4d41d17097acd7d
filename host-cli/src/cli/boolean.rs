//! Boolean flags as docker's parser reads them: `--rm`, `--rm=false`, `-it=0`.

use clap::{ArgAction, Command};

/// Parses the words of Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Parses a boolean as a value parser for clap.
pub(super) fn value(text: &str) -> Result<bool, &'static str> {
    parse_bool(text).ok_or("write true or false")
}

/// Returns a command whose boolean flags also take a value after `=`, and so do those of its subcommands.
pub(super) fn with_values(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_name("BOOL")
            .value_parser(value),
        _ => arg,
    });
    command.mut_subcommands(with_values)
}
