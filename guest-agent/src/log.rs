//! Messages for people: lines to the kernel's log, which is the machine's console.

use std::error::Error;
use std::io::Write;

use rustix::io::Errno;

/// Logs the error that ends the agent, at a level that a `quiet` console shows.
pub(crate) fn fatal(line: &str) {
    write(3, line);
}

/// Logs a line. The kernel limits how many it takes from us, so nothing in the guest can flood the console.
pub(crate) fn warn(line: &str) {
    write(4, line);
}

/// Writes one record with one of the kernel's log levels.
fn write(level: u8, line: &str) {
    let _ = std::io::stderr().write_all(format!("<{level}>capsid-agent: {line}\n").as_bytes());
}

/// Formats an error and its causes in one line, system errors in docker's words: "permission denied".
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = words(error);
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&words(cause));
        next = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}

/// Formats one error; the number of a system error travels beside the message.
fn words(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) if error.is::<Errno>() || error.is::<std::io::Error>() => words.to_lowercase(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_init::InitError;
    use crate::disk::DiskError;
    use crate::namespaces::NamespaceError;

    #[test]
    fn a_chain_is_one_line() {
        let error = InitError::Disk(DiskError::Absent("a\nb".into()));
        assert_eq!(chain(&error), "cannot mount the root: no disk with serial a b");
    }

    #[test]
    fn system_errors_are_said_in_words() {
        let error = NamespaceError::Hostname(Errno::PERM);
        assert_eq!(chain(&error), "cannot set the host name: operation not permitted");
    }
}
