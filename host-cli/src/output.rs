//! Text for the user's terminal: the one place at which all of it is made harmless.
//!
//! Labels, commands, environment variables, health reports and errors quote images, containers, registries and files.
//! This module's `print!`, `println!` and `eprintln!` take the place of the standard library's in the whole crate: nothing
//! that is printed with them controls the terminal. What a container itself prints (`run`, `attach`, `exec`, `logs`) and
//! archives (`cp`, `export`) pass raw, as docker's do.

use std::fmt;

use capsid_image::{controls_terminal, printable};
use serde::Serialize;

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

/// Prints words of ours with what they quote, on stdout.
pub(crate) fn to_stdout(words: fmt::Arguments<'_>) {
    std::print!("{}", lines(&words.to_string()));
}

/// Prints words of ours with what they quote, on stderr.
pub(crate) fn to_stderr(words: fmt::Arguments<'_>) {
    std::eprint!("{}", lines(&words.to_string()));
}

/// Prints a line that a template of the user's gave: its fields are harmless already, and its own words, which may be
/// colours, are the user's.
pub(crate) fn rendered(line: &str) {
    std::println!("{line}");
}

/// Moves the terminal's cursor home and clears what is below.
pub(crate) fn clear_screen() {
    std::print!("\x1b[H\x1b[J");
}

/// Foreign text as a part of one line: line ends and tabs become escapes too.
pub(crate) fn line(text: &str) -> String {
    printable(text.as_bytes(), usize::MAX)
}

/// Foreign text that may have several lines.
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

/// A value as indented JSON, escaped as by [`escape_json`].
pub(crate) fn pretty_json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escape_json(&serde_json::to_string_pretty(value)?))
}

/// JSON with `\uXXXX` for what would control a terminal, so that its readers get the same values. Such characters are
/// inside of its strings only, but for the line ends of its own indentation.
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
