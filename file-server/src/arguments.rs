//! Command line of the file server: the orders of a supervisor.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;

use capsid_jail::Share;

/// Task that the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Prints the version.
    Version,
    /// Enters the jail and reports which layers it consists of.
    Confinement,
    /// Serves a share.
    Serve(Arguments),
}

/// Share to serve, and the socket to serve it on.
#[derive(Debug)]
pub struct Arguments {
    /// Listening socket for the only connection that will ever be made.
    pub socket_fd: RawFd,
    /// Directory or file to serve.
    pub share: Share,
}

/// Reason why a command line is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// Word that is not a flag.
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    /// Required flag that is absent.
    #[error("{0} is missing or has no value")]
    Missing(&'static str),
    /// Value that is not valid for its flag.
    #[error("{flag} has the wrong value {value:?}")]
    Value {
        /// Name of the flag.
        flag: &'static str,
        /// Value that was given.
        value: OsString,
    },
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// [`ArgumentError`].
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut words = words.into_iter();
    let (mut socket_fd, mut source, mut identity, mut file_name, mut readonly) = (None, None, None, None, false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--version") => return Ok(Command::Version),
            Some("--confinement") => return Ok(Command::Confinement),
            Some("--socket-fd") => socket_fd = words.next(),
            Some("--source") => source = words.next(),
            Some("--identity") => identity = words.next(),
            Some("--file") => file_name = Some(words.next().ok_or(ArgumentError::Missing("--file"))?),
            Some("--readonly") => readonly = true,
            _ => return Err(ArgumentError::Unknown(word)),
        }
    }
    let socket_fd = socket_fd.ok_or(ArgumentError::Missing("--socket-fd"))?;
    let identity = identity.ok_or(ArgumentError::Missing("--identity"))?;
    let wrong = |flag| {
        move |value: &OsStr| ArgumentError::Value {
            flag,
            value: value.into(),
        }
    };
    if file_name.as_deref().is_some_and(|name| !is_component(name)) {
        return Err(wrong("--file")(&file_name.unwrap_or_default()));
    }
    Ok(Command::Serve(Arguments {
        socket_fd: parse_fd(&socket_fd).ok_or_else(|| wrong("--socket-fd")(&socket_fd))?,
        share: Share {
            source: PathBuf::from(source.ok_or(ArgumentError::Missing("--source"))?),
            identity: parse_identity(&identity).ok_or_else(|| wrong("--identity")(&identity))?,
            file_name,
            readonly,
        },
    }))
}

fn parse_fd(text: &OsStr) -> Option<RawFd> {
    text.to_str()?.parse().ok().filter(|fd| *fd > 2)
}

fn parse_identity(text: &OsStr) -> Option<(u64, u64)> {
    let (device, inode) = text.to_str()?.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

fn is_component(name: &OsStr) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.as_encoded_bytes().contains(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = OsString> {
        line.split(' ').map(OsString::from)
    }

    #[test]
    fn a_command_line_is_read() {
        let line = "--socket-fd 3 --source /a/b --identity 7:9 --file file --readonly";
        let Ok(Command::Serve(arguments)) = parse(words(line)) else {
            panic!("refused")
        };
        assert_eq!(arguments.socket_fd, 3);
        assert_eq!(arguments.share.source, PathBuf::from("/a/b"));
        assert_eq!(arguments.share.identity, (7, 9));
        assert_eq!(arguments.share.file_name, Some("file".into()));
        assert!(arguments.share.readonly);
        assert!(matches!(parse(words("--version")), Ok(Command::Version)));
        assert!(matches!(parse(words("--confinement")), Ok(Command::Confinement)));
    }

    #[test]
    fn half_a_command_line_is_refused() {
        for line in [
            "",
            "--socket-fd 3 --source /a",
            "--socket-fd 3 --identity 7:9",
            "--source /a --identity 7:9",
            "--socket-fd 2 --source /a --identity 7:9",
            "--socket-fd 3 --source /a --identity 7",
            "--socket-fd 3 --source /a --identity 7:9 --file ..",
            "--socket-fd 3 --source /a --identity 7:9 --file a/b",
            "--socket-fd 3 --source /a --identity 7:9 --fast",
        ] {
            assert!(parse(words(line)).is_err(), "{line:?}");
        }
    }
}
