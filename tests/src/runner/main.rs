//! `capsid-test-runner [--full] [SUITE...]`: runs the unit tests, the end-to-end suites on this host, and on KVM the
//! tests that depend on the machine; then reports the durations.
//!
//! ```text
//!   executables  what cargo built for tests: unit tests of each crate, one executable for each suite
//!   suites       the table of suites: what runs where, and why not elsewhere
//!   job          one process to run: an executable here, several in a lab, or a check such as the lints
//!   schedule     the jobs, longest first, as many at once as there are processors
//!   process      a child whose output is read, logged, and which is ended when it hangs
//!   libtest      what a test executable prints, timed line by line
//!   lab          several executables in one machine with real KVM; a second try for what a lab's death left undone
//!   report       the table of phases, suites and slowest tests; the same as JSON; the closing line
//! ```
//!
//! Called by `scripts/test-all`, which has built everything.

mod executables;
mod job;
mod lab;
mod libtest;
mod process;
mod report;
mod schedule;
mod suites;

use std::process::ExitCode;

use executables::Executables;
use report::Report;

/// Options of the command line.
#[derive(Debug, Default)]
struct Options {
    /// Whether every count has its full size, and every suite runs on KVM.
    full: bool,
    /// Names of the suites and crates to run; all if empty.
    chosen: Vec<String>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--full" => options.full = true,
                flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
                name => options.chosen.push(name.to_owned()),
            }
        }
        Ok(options)
    }

    fn chooses(&self, name: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|chosen| chosen == name)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("capsid-test-runner: {error}\nusage: capsid-test-runner [--full] [SUITE...]");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(report) => {
            print!("{report}");
            if report.passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("capsid-test-runner: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Report, String> {
    let executables = Executables::find()?;
    suites::check(&executables)?;
    let jobs = job::plan(&executables, options, job::kvm_place());
    let runs = schedule::run(jobs);
    let report = Report::new(report::recorded_phases(), runs);
    report.save()?;
    Ok(report)
}
