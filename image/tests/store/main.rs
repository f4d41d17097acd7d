//! Tests of the store from outside: archives in, rootfs disks out, compared with the results of other tools for the
//! same archives.
//!
//! This executable is also the converter: started with [`CONVERTER_COMMAND`], it converts instead of testing.

// Clippy knows only functions with `#[test]` as tests.
#![allow(clippy::unwrap_used)]

mod cases;
mod fixture;
mod registry;
mod umoci;

#[path = "../../../vmm/jail/tests/harness/mod.rs"]
mod harness;

use std::process::ExitCode;

use capsid_image::{CONVERTER_COMMAND, convert_main};

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == CONVERTER_COMMAND)
    {
        return convert_main();
    }
    harness::run(cases::ALL)
}
