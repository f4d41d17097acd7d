//! Command line, parsed word by word in the way of docker's parser.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use super::{Cli, boolean};

impl Cli {
    /// Parses the words of a command line in the way of docker's parser: boolean flags may have a value, and an empty
    /// word counts as absent.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        let mut command = boolean::with_values(Self::command());
        let parsed = command.try_get_matches_from_mut(&words);
        // The help shows boolean flags without a value.
        if let Err(error) = &parsed
            && error.kind() == ErrorKind::DisplayHelp
        {
            Self::command().try_get_matches_from(&words)?;
        }
        let mut cli = Self::from_arg_matches_mut(&mut parsed?).map_err(|error| error.format(&mut command))?;
        cli.command.forget_empty_words();
        Ok(cli)
    }
}

/// Finds the verb among the words of a command line that may be wrong: a verb below `capsid container` is returned
/// without `container`.
pub(crate) fn verb(words: &[OsString]) -> Option<String> {
    const WITH_VALUES: [&str; 3] = ["--data-dir", "--run-dir", "--require"];
    let mut words = words.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if WITH_VALUES.contains(&word.as_ref()) {
            words.next();
        } else if !word.starts_with('-') && word != "container" {
            return Some(word.into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, ContainerCommand, RunArgs};

    /// Parses the flags of `capsid run FLAGS image`.
    fn run(flags: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["capsid", "run"].iter().chain(flags).chain(&["image", "-x", "--rm"]);
        match Cli::read(words.map(Into::into))?.command {
            Command::Run(args) => Ok(*args),
            command => panic!("{command:?}"),
        }
    }

    #[test]
    fn flags_have_dockers_forms() {
        let args = run(&[
            "-m=96m",
            "-e=A=1",
            "-eB=2",
            "-e",
            "C=3",
            "-it=false",
            "--read-only=true",
        ])
        .unwrap();
        assert_eq!(args.memory.as_deref(), Some("96m"));
        assert_eq!(args.env, ["A=1", "B=2", "C=3"]);
        assert!(args.interactive && !args.tty && args.read_only && !args.rm);
        assert_eq!(args.image_and_command, ["image", "-x", "--rm"]);
        let args = run(&[
            "-m96m",
            "-dit",
            "--init=F",
            "--sig-proxy=0",
            "--privileged=T",
            "--hostname",
            "",
        ])
        .unwrap();
        assert!(args.detach && args.interactive && args.tty && args.privileged && !args.init && !args.sig_proxy);
        assert_eq!((args.memory.as_deref(), args.hostname), (Some("96m"), None));
        assert!(run(&[]).unwrap().sig_proxy && run(&["--sig-proxy"]).unwrap().sig_proxy);
        assert!(run(&["--rm=true", "--rm=false"]).is_ok_and(|args| !args.rm));
        for wrong in ["--rm=maybe", "--rm=", "-i=2", "--fly", "-y", "-iy"] {
            assert!(run(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_verb_of_a_wrong_line_is_found() {
        let verb = |line: &str| super::verb(&line.split_whitespace().map(Into::into).collect::<Vec<_>>());
        assert_eq!(verb("run --fly").as_deref(), Some("run"));
        assert_eq!(
            verb("--data-dir /d --run-dir=/r container create x").as_deref(),
            Some("create")
        );
        assert_eq!(verb("--fly"), None);
    }

    #[test]
    fn every_boolean_flag_takes_a_value() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let action = arg.get_action();
                assert!(
                    !matches!(action, clap::ArgAction::SetTrue),
                    "{}: {arg}",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&boolean::with_values(Cli::command()));
        let read = |line: &str| Cli::read(line.split_whitespace().map(Into::into)).unwrap().command;
        assert!(matches!(read("capsid rm -f=false a"), Command::Top(ContainerCommand::Rm(args)) if !args.force));
        assert!(matches!(read("capsid images -q=1"), Command::Images(args) if args.quiet));
        let exec = read("capsid exec -it=0 c sh -c -x");
        assert!(
            matches!(exec, Command::Top(ContainerCommand::Exec(args)) if !args.tty && args.container_and_command.len() == 4)
        );
        let help = Cli::read(["capsid", "rm", "--help"].map(Into::into)).unwrap_err();
        assert!(
            help.to_string().contains("--force ") && !help.to_string().contains("BOOL"),
            "{help}"
        );
    }
}
