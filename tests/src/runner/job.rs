//! Jobs of a test run: one process each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Options;
use crate::executables::{Executable, Executables};
use crate::suites::{self, FULL_COUNTS, Kvm, Suite};

/// Place where tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host: unit tests and checks, no machine is started.
    Host,
    /// On the host, with emulated machines.
    Emulate,
    /// On the host, with machines on its KVM.
    Kvm,
    /// In a lab, with machines on KVM.
    Lab,
}

impl Place {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Emulate => "emulate",
            Self::Kvm => "kvm",
            Self::Lab => "lab",
        }
    }
}

/// Test executable, and the selection of its tests to run.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) executable: Executable,
    pub(crate) tests: Vec<String>,
}

/// Work of a job.
#[derive(Debug)]
pub(crate) enum Work {
    /// Command that passes or fails as a whole.
    Check(&'static [&'static str]),
    /// Test executables, one after the other.
    Tests(Vec<Step>),
}

/// Entry of the schedule.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) work: Work,
    /// Expected duration in seconds: the longest jobs start first.
    pub(crate) seconds: u64,
    /// Time limit without the end of a test.
    pub(crate) quiet_limit: Duration,
    pub(crate) environment: Vec<(String, String)>,
}

/// Time limit without the end of a test: longer than any test takes on a busy machine.
const QUIET_LIMIT: Duration = Duration::from_secs(400);
/// Time limit without the end of a test with its full count, which takes minutes.
const FULL_QUIET_LIMIT: Duration = Duration::from_secs(3600);
/// Time limit without the end of a test in a lab, where the longest takes minutes.
const LAB_QUIET_LIMIT: Duration = Duration::from_secs(900);
/// Time limit without a word of a check, such as the lints.
const CHECK_QUIET_LIMIT: Duration = Duration::from_secs(1200);

/// Checks other than tests: name, command, expected seconds.
const CHECKS: &[(&str, &[&str], u64)] = &[
    ("format", &["make", "format-check"], 5),
    ("lints", &["make", "clippy"], 60),
    ("crates", &["make", "deny"], 5),
    ("fuzz-targets", &["make", "fuzz-check"], 60),
];

/// Maximum seconds that the unit tests of one crate take.
const UNIT_SECONDS: u64 = 15;
/// Usual seconds that a test takes in a lab.
const LAB_SECONDS: u64 = 30;

/// Plans all jobs for the options; `kvm` is the place where machines run on KVM.
pub(crate) fn plan(executables: &Executables, options: &Options, kvm: Place) -> Vec<Job> {
    let checks = CHECKS.iter().filter(|(name, ..)| options.chooses(name));
    let mut jobs: Vec<Job> = checks
        .map(|(name, command, seconds)| Job {
            name: (*name).to_owned(),
            place: Place::Host,
            work: Work::Check(command),
            seconds: *seconds,
            quiet_limit: CHECK_QUIET_LIMIT,
            environment: Vec::new(),
        })
        .collect();
    let chosen = executables
        .iter()
        .filter(|executable| options.chooses(&executable.name));
    let with_tests = chosen.filter(|executable| !executable.tests.is_empty());
    jobs.extend(with_tests.map(|executable| host_job(executable, options)));
    jobs.extend(kvm_jobs(executables, options, kvm));
    jobs
}

/// Plans the job of unit tests, or of a suite on the emulated accelerator.
fn host_job(executable: &Executable, options: &Options) -> Job {
    let row = if executable.is_suite {
        suites::find(&executable.name)
    } else {
        None
    };
    let place = if row.is_some() { Place::Emulate } else { Place::Host };
    let mut environment = vec![("CAPSID_ACCEL".to_owned(), "emulate".to_owned())];
    if options.full {
        let counts = FULL_COUNTS
            .iter()
            .copied()
            .filter(|(name, _)| std::env::var_os(name).is_none());
        environment.extend(counts.map(|(name, count)| (name.to_owned(), count.to_owned())));
    }
    Job {
        name: executable.name.clone(),
        place,
        seconds: row.map_or(UNIT_SECONDS, |row| row.seconds),
        quiet_limit: if options.full { FULL_QUIET_LIMIT } else { QUIET_LIMIT },
        work: Work::Tests(vec![Step {
            executable: executable.clone(),
            tests: executable.tests.clone(),
        }]),
        environment,
    }
}

/// Plans the jobs that run on KVM.
fn kvm_jobs(executables: &Executables, options: &Options, place: Place) -> Vec<Job> {
    let rows = suites::SUITES.iter().filter(|row| options.chooses(row.name));
    let steps = rows.filter_map(|row| kvm_step(row, executables.suite(row.name)?, options));
    let others = executables
        .iter()
        .filter(|executable| options.chooses(&executable.name));
    let on_kvm = others.filter(|executable| !executable.is_suite && suites::ON_KVM.contains(&&*executable.name));
    let steps = steps.chain(on_kvm.map(|executable| Step {
        executable: executable.clone(),
        tests: executable.tests.clone(),
    }));
    // A lab is slow to start: few labs, but one for each suite if suites are whole.
    let groups = if place == Place::Lab && !options.full {
        spread(steps.collect(), processors())
    } else {
        steps.map(|step| vec![step]).collect()
    };
    let numbered = groups.into_iter().enumerate();
    numbered.map(|(index, steps)| kvm_job(index, place, steps)).collect()
}

fn kvm_step(row: &Suite, executable: &Executable, options: &Options) -> Option<Step> {
    let tests = match (row.kvm, options.full) {
        (Kvm::Never(_), _) | (Kvm::Full, false) => return None,
        (Kvm::Machine(tests), false) => tests.iter().map(|test| (*test).to_owned()).collect(),
        (Kvm::Machine(_) | Kvm::Full, true) => executable.tests.clone(),
    };
    let executable = executable.clone();
    Some(Step { executable, tests })
}

fn kvm_job(index: usize, place: Place, steps: Vec<Step>) -> Job {
    let tests: usize = steps.iter().map(|step| step.tests.len()).sum();
    let name = match &steps[..] {
        [step] => step.executable.name.clone(),
        _ => format!("machine-{}", index + 1),
    };
    let factor = if place == Place::Lab { LAB_SECONDS } else { 2 };
    Job {
        name,
        place,
        work: Work::Tests(steps),
        seconds: u64::try_from(tests).unwrap_or(u64::MAX).saturating_mul(factor),
        quiet_limit: LAB_QUIET_LIMIT,
        environment: vec![("CAPSID_ACCEL".to_owned(), "kvm".to_owned())],
    }
}

/// Spreads steps over a number of groups, so that each has about as many tests.
fn spread(mut steps: Vec<Step>, groups: usize) -> Vec<Vec<Step>> {
    steps.sort_by_key(|step| std::cmp::Reverse(step.tests.len()));
    let mut spread: Vec<Vec<Step>> = vec![Vec::new(); groups.max(1)];
    for step in steps {
        let tests_of = |group: &Vec<Step>| group.iter().map(|step| step.tests.len()).sum::<usize>();
        if let Some(smallest) = spread.iter_mut().min_by_key(|group| tests_of(group)) {
            smallest.push(step);
        }
    }
    spread.retain(|group| !group.is_empty());
    spread
}

/// Returns the number of processors of this machine.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the workspace's folder.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Returns the place where machines run on KVM: this host if its KVM is real.
pub(crate) fn kvm_place() -> Place {
    let capsid = capsid_tests::environment::part("capsid");
    let output = Command::new(capsid).args(["doctor", "--accel", "kvm"]).output();
    if output.is_ok_and(|output| output.status.success()) {
        Place::Kvm
    } else {
        Place::Lab
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn executable(name: &str, tests: impl IntoIterator<Item = String>) -> Executable {
        Executable {
            name: name.to_owned(),
            path: PathBuf::new(),
            folder: PathBuf::new(),
            is_suite: true,
            is_integration: true,
            tests: tests.into_iter().collect(),
        }
    }

    fn step(tests: usize) -> Step {
        let tests: Vec<String> = (0..tests).map(|number| number.to_string()).collect();
        Step {
            executable: executable("a", tests.clone()),
            tests,
        }
    }

    /// Returns the tests that these jobs run at a place, with their suites.
    fn tests_at(jobs: &[Job], place: Place) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for job in jobs.iter().filter(|job| job.place == place) {
            let Work::Tests(steps) = &job.work else { continue };
            for step in steps {
                let name = &step.executable.name;
                found.extend(step.tests.iter().map(|test| (name.clone(), test.clone())));
            }
        }
        found
    }

    #[test]
    fn labs_get_about_as_many_tests_each() {
        let groups = spread(vec![step(1), step(5), step(3), step(1)], 2);
        let sizes = groups
            .iter()
            .map(|group| group.iter().map(|step| step.tests.len()).sum::<usize>());
        assert_eq!(sizes.collect::<Vec<_>>(), [5, 5]);
    }

    #[test]
    fn test_and_test_full_together_leave_nothing_out() {
        let suites = suites::SUITES.iter().map(|row| {
            let named: &[&str] = if let Kvm::Machine(tests) = row.kvm { tests } else { &[] };
            let tests = named.iter().chain(&["another"]).map(|test| (*test).to_owned());
            executable(row.name, tests)
        });
        let executables = Executables(suites.collect());
        let quick = plan(&executables, &Options::default(), Place::Lab);
        let options = Options {
            full: true,
            ..Options::default()
        };
        let full = plan(&executables, &options, Place::Lab);
        for row in suites::SUITES {
            let of_suite = |jobs: &[Job], place| {
                let tests = tests_at(jobs, place).into_iter().filter(|(name, _)| name == row.name);
                tests.map(|(_, test)| test).collect::<BTreeSet<_>>()
            };
            let all = executables
                .suite(row.name)
                .map(|suite| suite.tests.iter().cloned().collect());
            let all: BTreeSet<String> = all.unwrap_or_default();
            assert_eq!(of_suite(&quick, Place::Emulate), all, "{}", row.name);
            let on_kvm = of_suite(&full, Place::Lab);
            assert!(of_suite(&quick, Place::Lab).is_subset(&on_kvm), "{}", row.name);
            let left_out = matches!(row.kvm, Kvm::Never(_));
            assert_eq!(on_kvm, if left_out { BTreeSet::new() } else { all }, "{}", row.name);
        }
    }
}
