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

use std::panic::catch_unwind;
use std::process::ExitCode;

use capsid_image::{CONVERTER_COMMAND, convert_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == CONVERTER_COMMAND) {
        return convert_main();
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in cases::ALL {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let start = std::time::Instant::now();
        let verdict = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        failed += u32::from(verdict != "ok");
        println!("test {name} ... {verdict} ({:.1} s)", start.elapsed().as_secs_f32());
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
