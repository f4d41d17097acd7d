//! Seconds between a stop signal and SIGKILL.

/// Number of seconds that stands for never sending SIGKILL.
const FOREVER_S: u64 = u64::MAX;

/// Parses docker's seconds: a negative number means for ever.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let seconds: i64 = text
        .parse()
        .map_err(|_| "write a number of seconds, or -1 to wait for ever".to_owned())?;
    Ok(u64::try_from(seconds).unwrap_or(FOREVER_S))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, ContainerCommand};

    #[test]
    fn negative_seconds_are_for_ever() {
        assert_eq!(
            (seconds("0"), seconds("7"), seconds("-1")),
            (Ok(0), Ok(7), Ok(FOREVER_S))
        );
        assert!(seconds("soon").is_err() && seconds("").is_err());
    }

    #[test]
    fn negative_numbers_are_values() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command;
        for line in [
            "capsid stop -t -1 web",
            "capsid stop --time=-1 web",
            "capsid restart --timeout -1 web",
        ] {
            match parse(line) {
                Command::Top(ContainerCommand::Stop(args) | ContainerCommand::Restart(args)) => {
                    assert_eq!(
                        (args.timeout, &args.containers[..]),
                        (Some(FOREVER_S), &["web".to_owned()][..])
                    );
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        match parse("capsid run --stop-timeout -1 image") {
            Command::Run(args) => assert_eq!(args.stop_timeout, Some(FOREVER_S)),
            other => panic!("{other:?}"),
        }
        match parse("capsid logs --tail -1 web") {
            Command::Top(ContainerCommand::Logs(args)) => assert_eq!((&*args.tail, &*args.container), ("-1", "web")),
            other => panic!("{other:?}"),
        }
    }
}
