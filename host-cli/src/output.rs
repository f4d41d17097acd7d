//! Text for the user's terminal: the only place that writes to stdout and stderr, and makes all of it harmless.
//!
//! Labels, commands, environment variables, health reports and errors quote images, containers, registries and files.
//! This module's `print!`, `println!` and `eprintln!` replace the standard library's in the whole crate: nothing that
//! is printed with them controls the terminal. A container's own output (`run`, `attach`, `exec`, `logs`) and archives
//! (`cp`, `export`) pass raw, as docker's do.
//!
//! A stdout that cannot be written ends no verb halfway: the first failure is recorded, later output is dropped, and
//! [`finish`] reports the failure when the work is done. A reader that closed the pipe is no failure. Lints forbid the
//! standard library's macros and `std::io::stdout` elsewhere (`clippy.toml`).
#![allow(
    clippy::disallowed_methods,
    reason = "the one module that opens the standard streams"
)]

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{LazyLock, OnceLock};

use capsid_image::{controls_terminal, printable};
use serde::Serialize;

use crate::nonblocking;

macro_rules! print {
    ($($words:tt)*) => { $crate::output::to_stdout(format_args!($($words)*)) };
}

macro_rules! println {
    () => { $crate::output::to_stdout(format_args!("\n")) };
    ($($words:tt)*) => { $crate::output::to_stdout(format_args!("{}\n", format_args!($($words)*))) };
}

macro_rules! eprintln {
    ($($words:tt)*) => { $crate::output::to_stderr(format_args!("{}\n", format_args!($($words)*))) };
}

/// Second descriptor of stdout, without a buffer.
static STDOUT: LazyLock<io::Result<File>> = LazyLock::new(stdout_file);

/// First failure to write to stdout.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Prints Capsid's own text and what it quotes, on stdout.
pub(crate) fn to_stdout(words: fmt::Arguments<'_>) {
    write_stdout(lines(&words.to_string()).as_bytes());
}

/// Prints Capsid's own text and what it quotes, on stderr. A failure of stderr is ignored: there is nobody to report it
/// to.
pub(crate) fn to_stderr(words: fmt::Arguments<'_>) {
    write_stderr(lines(&words.to_string()).as_bytes());
}

/// Prints a line that a template of the user's produced: its fields are harmless already, and its own text, which may
/// have colors, is the user's.
pub(crate) fn rendered(line: &str) {
    write_stdout(line.as_bytes());
    write_stdout(b"\n");
}

/// Moves the terminal's cursor home and clears everything below.
pub(crate) fn clear_screen() {
    write_stdout(b"\x1b[H\x1b[J");
}

/// Writes bytes to stdout as they are.
pub(crate) fn write_stdout(bytes: &[u8]) {
    if has_failed() {
        return;
    }
    match &*STDOUT {
        Ok(file) => record(nonblocking::write_all(bytes, &mut &*file)),
        Err(error) => record(Err(error.kind().into())),
    }
}

/// Writes bytes to stderr as they are.
pub(crate) fn write_stderr(bytes: &[u8]) {
    // There is nobody left to report to.
    let _ = io::stderr().lock().write_all(bytes);
}

/// Records the failure of a write to stdout, if it is the first.
pub(crate) fn record(written: io::Result<()>) {
    if let Err(error) = written {
        // A later failure has the same reason.
        let _ = FAILURE.set(error);
    }
}

/// Whether stdout can no longer be written: verbs that only print may end.
pub(crate) fn has_failed() -> bool {
    FAILURE.get().is_some()
}

/// Reports a failure of stdout once, and returns the exit code: that of the verb, or 1 when the verb succeeded and its
/// output was lost. A reader that closed the pipe wanted no more.
pub(crate) fn finish(code: u8) -> u8 {
    match FAILURE.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            to_stderr(format_args!("capsid: cannot write to stdout: {error}\n"));
            code.max(1)
        }
        _ => code,
    }
}

/// Returns a second descriptor of stdout, for streams that are copied without inspection.
pub(crate) fn stdout_file() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Returns a second descriptor of stderr.
pub(crate) fn stderr_file() -> io::Result<File> {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

/// Whether stdout is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Escapes foreign text as a part of one line: line ends and tabs become escapes too.
pub(crate) fn line(text: &str) -> String {
    printable(text.as_bytes(), usize::MAX)
}

/// Escapes foreign text that may have several lines.
pub(crate) fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if controls_terminal(c) && !matches!(c, '\n' | '\t') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Formats a value as indented JSON, escaped as by [`escape_json`].
pub(crate) fn pretty_json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escape_json(&serde_json::to_string_pretty(value)?))
}

/// Replaces characters of JSON that would control a terminal by `\uXXXX`, so that its readers get the same values. Such
/// characters occur inside strings only, except for the line ends of the JSON's own indentation.
pub(crate) fn escape_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if controls_terminal(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOSTILE: &str = "a\x1b[2J\u{9b}31m\u{202e}b\n\u{e0041}\tc\u{2028}\x7f";

    #[test]
    fn a_line_stays_one_and_lines_stay_lines() {
        assert_eq!(
            line(HOSTILE),
            "a\\u{1b}[2J\\u{9b}31m\\u{202e}b\\n\\u{e0041}\\tc\\u{2028}\\u{7f}"
        );
        assert_eq!(
            lines(HOSTILE),
            "a\\u{1b}[2J\\u{9b}31m\\u{202e}b\n\\u{e0041}\tc\\u{2028}\\u{7f}"
        );
    }

    #[test]
    fn json_keeps_its_value_and_nothing_in_it_is_raw() {
        let value = json!({ HOSTILE: [HOSTILE, 1], "plain": "é" });
        for text in [escape_json(&value.to_string()), pretty_json(&value).unwrap()] {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            assert!(!text.chars().any(|c| controls_terminal(c) && c != '\n'), "{text:?}");
        }
    }
}
