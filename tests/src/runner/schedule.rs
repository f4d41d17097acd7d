//! Schedule of the jobs, longest first, as many at once as there is work for the processors.

use std::collections::VecDeque;
use std::io;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::job::{Job, Place, Step, Work, processors};
use crate::lab;
use crate::libtest::{TestRun, Verdict};
use crate::process::{self, Log, in_root, test_command};

/// Outcome of a job.
#[derive(Debug)]
pub(crate) struct JobRun {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) took: Duration,
    pub(crate) tests: Vec<TestRun>,
    /// Tests that were tried once more, in another lab.
    pub(crate) retried: Vec<String>,
    /// Reason of a failure without a failed test: the job hung, crashed or could not be started.
    pub(crate) fault: Option<String>,
}

impl JobRun {
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }

    pub(crate) fn passed(&self) -> bool {
        self.fault.is_none() && self.count(Verdict::Failed) == 0
    }
}

/// Runs all jobs. Tests wait as much as they compute, so there is one job more than processors.
pub(crate) fn run(mut jobs: Vec<Job>) -> Vec<JobRun> {
    jobs.sort_by_key(|job| std::cmp::Reverse(job.seconds));
    let slots = std::env::var("CAPSID_TEST_JOBS")
        .ok()
        .and_then(|text| text.parse().ok());
    let slots = slots.unwrap_or(processors() + 1);
    let queue = Mutex::new(VecDeque::from(jobs));
    let runs = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| {
                // A function of its own: the lock is not held while a job runs.
                while let Some(job) = next(&queue) {
                    let run = run_job(&job);
                    locked(&runs).push(run);
                }
            });
        }
    });
    runs.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn next(queue: &Mutex<VecDeque<Job>>) -> Option<Job> {
    locked(queue).pop_front()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_job(job: &Job) -> JobRun {
    let started = Instant::now();
    let mut run = JobRun {
        name: job.name.clone(),
        place: job.place,
        took: Duration::ZERO,
        tests: Vec::new(),
        retried: Vec::new(),
        fault: None,
    };
    let mut log = match Log::create(&format!("{}-{}", job.place.as_str(), job.name)) {
        Ok(log) => log,
        Err(error) => {
            run.fault = Some(format!("no log: {error}"));
            return run;
        }
    };
    let outcome = match &job.work {
        Work::Check(command) => run_check(job, command, &mut run, &mut log),
        Work::Tests(steps) if job.place == Place::Lab => lab::run(job, steps, &mut run, &mut log),
        Work::Tests(steps) => steps
            .iter()
            .try_for_each(|step| run_step(job, step, &mut run, &mut log)),
    };
    if let Err(error) = outcome {
        run.fault = Some(error.to_string());
    }
    run.took = started.elapsed();
    announce(&run, &log);
    run
}

fn run_check(job: &Job, command: &[&str], run: &mut JobRun, log: &mut Log) -> io::Result<()> {
    let ended = process::run(&mut in_root(command), &run.name, log, job.quiet_limit)?;
    if ended.code != Some(0) {
        run.fault = Some(format!("`{}` failed", command.join(" ")));
    }
    Ok(())
}

/// Runs a test executable on this host.
fn run_step(job: &Job, step: &Step, run: &mut JobRun, log: &mut Log) -> io::Result<()> {
    let mut words = if job.place == Place::Host {
        Vec::new()
    } else {
        as_root_with_own_mounts(job)
    };
    words.extend(test_command(
        &step.executable.path,
        if is_whole(step) { &[] } else { &step.tests },
    ));
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .current_dir(&step.executable.folder)
        .env("CARGO_MANIFEST_DIR", &step.executable.folder)
        .envs(job.environment.iter().map(|(name, value)| (name, value)));
    let ended = process::run(&mut command, &step.executable.name, log, job.quiet_limit)?;
    run.fault = fault(&ended, step.tests.len());
    run.tests.extend(ended.tests);
    Ok(())
}

/// Returns the words before the command of an end-to-end suite. Suites make networks and small disks, which needs root;
/// mounts of one are not leaks of another that runs at the same time.
fn as_root_with_own_mounts(job: &Job) -> Vec<String> {
    let mut words = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        words.extend(["sudo", "-n", "--", "env"].map(str::to_owned));
        let kept = std::env::vars().filter(|(name, _)| name == "PATH" || name == "HOME" || name.starts_with("CAPSID_"));
        let wanted = kept.chain(job.environment.iter().cloned());
        words.extend(wanted.map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(["unshare", "--mount", "--propagation", "private", "--"].map(str::to_owned));
    words
}

fn is_whole(step: &Step) -> bool {
    step.tests.len() == step.executable.tests.len()
}

/// Returns the reason why a run counts as failed although it reports no failed test.
fn fault(ended: &process::Ended, expected: usize) -> Option<String> {
    let failed = ended.tests.iter().any(|test| test.verdict == Verdict::Failed);
    match ended.code {
        None => Some("it hung or was killed".to_owned()),
        Some(code) if code != 0 && !failed => Some(format!("it ended with exit code {code}")),
        Some(_) if ended.tests.len() != expected => Some(format!("{} of {expected} tests ran", ended.tests.len())),
        Some(_) => None,
    }
}

/// Prints one line for a passed job, the whole log for a failed one.
fn announce(run: &JobRun, log: &Log) {
    let word = if run.passed() { "passed" } else { "FAILED" };
    let again = match run.retried.len() {
        0 => String::new(),
        count => format!(", {count} tried again"),
    };
    let line = format!(
        "{word} in {:6.1} s: {} {} ({} tests{again})",
        run.took.as_secs_f64(),
        run.place.as_str(),
        run.name,
        run.tests.len(),
    );
    if run.passed() {
        println!("{line}");
        return;
    }
    let text = std::fs::read(&log.path).unwrap_or_default();
    println!(
        "{line}\n---- {}\n{}----",
        log.path.display(),
        String::from_utf8_lossy(&text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Ended;

    fn ended(code: Option<i32>, verdicts: &[Verdict]) -> Ended {
        let test = |verdict: &Verdict| TestRun {
            suite: "a".to_owned(),
            name: "b".to_owned(),
            verdict: *verdict,
            took: Duration::ZERO,
        };
        Ended {
            code,
            tests: verdicts.iter().map(test).collect(),
        }
    }

    #[test]
    fn a_run_that_tells_of_no_failure_may_have_failed() {
        use Verdict::{Failed, Passed};
        assert!(fault(&ended(Some(0), &[Passed]), 1).is_none());
        assert!(
            fault(&ended(Some(101), &[Passed, Failed]), 2).is_none(),
            "the test says so"
        );
        assert!(fault(&ended(None, &[Passed]), 1).is_some(), "killed");
        assert!(fault(&ended(Some(134), &[Passed]), 1).is_some(), "crashed");
        assert!(fault(&ended(Some(0), &[Passed]), 2).is_some(), "one was left out");
    }
}
