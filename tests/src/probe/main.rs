//! `capsid-probe`: runs inside a container, reports what it sees, and tries what must not work.
//!
//! ```text
//!   capsid-probe report              one JSON object: namespaces, mounts, capabilities, limits, devices, ...
//!   capsid-probe attacks             names of the attacks, one a line
//!   capsid-probe attack NAME         {"blocked":bool,"detail":"..."}; exit code 1 when the attack succeeded
//!   capsid-probe LOAD [ARGUMENTS]    burn, eat, forkbomb, sum, emit, echo-back, trap, exit, kill-self, winsize, ...
//! ```
//!
//! Linked statically, so that it runs in any image. It asserts nothing: the test decides what is right.

// The probe stops at the first surprise; the test shows the message.
#![allow(clippy::unwrap_used)]

mod attack;
mod load;
mod report;
mod sys;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["report", ..] => {
            println!("{}", report::report());
            ExitCode::SUCCESS
        }
        ["attacks"] => {
            attack::ATTACKS.iter().for_each(|attack| println!("{}", attack.name));
            ExitCode::SUCCESS
        }
        ["attack", name] => attack::run(name),
        _ => load::run(&words),
    }
}
