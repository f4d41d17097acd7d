//! Test executables in a lab: a machine with real KVM, emulated (see `lab/README.md`).
//!
//! TCG's SVM has faults of its own, about one in some hundred machine starts: an interrupt is lost and the lab hangs,
//! or a guest gets an exception that none of its instructions made. So tests that a lab did not complete, and those
//! that failed in it, are tried once more in a fresh lab, and the report counts them. Nothing is tried twice with
//! `emulate`, nor on a host whose KVM is real.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;

use capsid_tests::environment;
use capsid_tests::test_images::cache_folder;

use crate::job::{Job, Step, root};
use crate::libtest::{SUITE_MARK, TestRun, Verdict};
use crate::process::{self, Log, test_command};
use crate::schedule::JobRun;

/// Exit code of a failure of the lab itself (`lab/lab`).
const EXIT_LAB: i32 = 125;
const LABS_MAX: usize = 4;
const TRIES_MAX: usize = 2;

/// Runs the steps in as many labs as they need.
pub(crate) fn run(job: &Job, steps: &[Step], run: &mut JobRun, log: &mut Log) -> io::Result<()> {
    let mut left = steps.to_vec();
    let mut tries: BTreeMap<(String, String), usize> = BTreeMap::new();
    for lab in 1..=LABS_MAX {
        let ended = process::run(&mut lab_command(job, &left), &job.name, log, job.quiet_limit)?;
        for test in &ended.tests {
            *tries.entry((test.suite.clone(), test.name.clone())).or_default() += 1;
        }
        let (done, again) = sort(ended.tests, &tries);
        run.tests.extend(done);
        left = remaining(steps, &run.tests);
        if left.is_empty() {
            return Ok(());
        }
        if again.is_empty() && ended.code == Some(0) {
            run.fault = Some("the lab says that all is well, and did not run all tests".to_owned());
            return Ok(());
        }
        let why = if ended.code == Some(EXIT_LAB) || ended.code.is_none() {
            "died"
        } else {
            "had failures"
        };
        log.line(&format!("lab {lab} {why}; what is left: {}", names(&left).join(" ")))?;
        run.retried.extend(names(&left));
    }
    run.fault = Some(format!("not done after {LABS_MAX} labs: {}", names(&left).join(" ")));
    Ok(())
}

/// Sorts results into final ones, and failures to be tried again until they have failed often enough.
fn sort(tests: Vec<TestRun>, tries: &BTreeMap<(String, String), usize>) -> (Vec<TestRun>, Vec<TestRun>) {
    tests.into_iter().partition(|test| {
        let tries = tries
            .get(&(test.suite.clone(), test.name.clone()))
            .copied()
            .unwrap_or(0);
        test.verdict != Verdict::Failed || tries >= TRIES_MAX
    })
}

/// Returns the steps without the tests that are done.
fn remaining(steps: &[Step], done: &[TestRun]) -> Vec<Step> {
    let is_done = |suite: &str, name: &str| done.iter().any(|test| test.suite == suite && test.name == name);
    let left = steps.iter().map(|step| Step {
        executable: step.executable.clone(),
        tests: step
            .tests
            .iter()
            .filter(|test| !is_done(&step.executable.name, test))
            .cloned()
            .collect(),
    });
    left.filter(|step| !step.tests.is_empty()).collect()
}

fn names(steps: &[Step]) -> Vec<String> {
    let of_step = |step: &Step| {
        let suite = step.executable.name.clone();
        step.tests
            .clone()
            .into_iter()
            .map(move |test| format!("{suite}::{test}"))
    };
    steps.iter().flat_map(of_step).collect()
}

/// Builds the command of a lab. One processor for each: TCG runs each in a thread of its own.
fn lab_command(job: &Job, steps: &[Step]) -> Command {
    let mut command = Command::new(root().join("tests/lab/lab"));
    command
        .args(["--smp", "1", "bash", "-c", &script(steps)])
        .current_dir(root())
        .env("CAPSID_LAB", "1")
        .env("CAPSID_BIN_DIR", environment::bin_dir())
        .env("LAB_SHARE", environment::target_dir())
        // Images are made before: that is work for a whole processor, not for an emulated one.
        .env("CAPSID_TEST_IMAGES", cache_folder())
        .envs(job.environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Builds the script that announces and runs each executable; fails if one of them did.
fn script(steps: &[Step]) -> String {
    let mut script = String::from("status=0\n");
    for step in steps {
        let words = test_command(&step.executable.path, &step.tests);
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        let suite = quote(&format!("{SUITE_MARK}{}", step.executable.name));
        let folder = quote(&step.executable.folder.display().to_string());
        script.push_str(&format!(
            "echo {suite}\n(cd {folder} && {}) || status=1\n",
            words.join(" ")
        ));
    }
    script.push_str("exit $status\n");
    script
}

/// Quotes a word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::executables::Executable;

    fn step(suite: &str, tests: &[&str]) -> Step {
        let tests: Vec<String> = tests.iter().map(|test| (*test).to_owned()).collect();
        Step {
            executable: Executable {
                name: suite.to_owned(),
                path: PathBuf::from("/a b/it's"),
                folder: PathBuf::from("/a b"),
                is_suite: true,
                is_integration: true,
                tests: tests.clone(),
            },
            tests,
        }
    }

    fn test(suite: &str, name: &str, verdict: Verdict) -> TestRun {
        TestRun {
            suite: suite.to_owned(),
            name: name.to_owned(),
            verdict,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_failure_is_tried_once_more_and_then_stands() {
        let failed = || vec![test("run", "a", Verdict::Failed), test("run", "b", Verdict::Passed)];
        let key = ("run".to_owned(), "a".to_owned());
        let (done, again) = sort(failed(), &BTreeMap::from([(key.clone(), 1)]));
        assert_eq!((done.len(), again.len()), (1, 1));
        let (done, again) = sort(failed(), &BTreeMap::from([(key, 2)]));
        assert_eq!((done.len(), again.len()), (2, 0));
    }

    #[test]
    fn what_is_left_is_what_has_no_result_in_its_own_suite() {
        let steps = [step("run", &["a", "b"]), step("pods", &["a"])];
        let left = remaining(&steps, &[test("run", "a", Verdict::Passed)]);
        assert_eq!(names(&left), ["run::b", "pods::a"]);
        let done = [
            test("run", "a", Verdict::Passed),
            test("run", "b", Verdict::Failed),
            test("pods", "a", Verdict::Passed),
        ];
        assert!(remaining(&steps, &done).is_empty());
    }

    #[test]
    fn paths_may_have_spaces_and_quotes() {
        let script = script(&[step("run", &["a"])]);
        assert!(script.contains(r"(cd '/a b' && '/a b/it'\''s' '--test-threads=1' '--exact' 'a') || status=1"));
    }
}
