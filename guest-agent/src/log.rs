//! Words for people: lines to the kernel's log, which is the machine's console.

use std::error::Error;
use std::io::Write;

/// Logs a line. The kernel limits how many it takes from us, so nothing in the guest can flood the console.
pub(crate) fn warn(line: &str) {
    // `<4>` is the kernel's mark for a warning. One write is one record.
    let _ = std::io::stderr().write_all(format!("<4>capsid-agent: {line}\n").as_bytes());
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskError;
    use crate::stage::StageError;

    #[test]
    fn a_chain_is_one_line() {
        let error = StageError::Disk(DiskError::Absent("a\nb".into()));
        assert_eq!(chain(&error), "cannot mount the root: no disk with serial a b");
    }
}
