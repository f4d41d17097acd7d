//! Harness for test executables that also start themselves in other roles, in place of Rust's own: it understands
//! `--list`, `--exact` and names of tests, and runs tests one after the other.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

/// Lists the tests, or runs those of the names on the command line; all if there are none.
pub(crate) fn run(tests: &[(&str, fn())]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|word| word == flag);
    if has("--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_meant = |name: &str, word: &String| {
        if has("--exact") {
            word == name
        } else {
            name.contains(word)
        }
    };
    let chosen = |name: &str| names.is_empty() || names.iter().any(|word| is_meant(name, word));
    let mut has_failed = false;
    println!(
        "running {} tests",
        tests.iter().filter(|(name, _)| chosen(name)).count()
    );
    for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
        let start = Instant::now();
        let verdict = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        has_failed |= verdict != "ok";
        println!("test {name} ... {verdict} ({:.1} s)", start.elapsed().as_secs_f32());
    }
    if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
