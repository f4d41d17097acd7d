//! Report of durations and failures: a table for people, JSON for scripts, one closing line.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::libtest::{TestRun, Verdict};
use crate::schedule::JobRun;

/// Number of tests that are named as the slowest.
const SLOWEST: usize = 20;

/// Step before the tests: packages, kernel, builds, images. Some of them run at the same time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimedPhase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
}

/// Results of the whole run.
#[derive(Debug)]
pub(crate) struct Report {
    phases: Vec<TimedPhase>,
    runs: Vec<JobRun>,
}

impl Report {
    pub(crate) fn new(phases: Vec<TimedPhase>, mut runs: Vec<JobRun>) -> Self {
        runs.sort_by_key(|run| std::cmp::Reverse(run.took));
        Self { phases, runs }
    }

    pub(crate) fn passed(&self) -> bool {
        self.runs.iter().all(JobRun::passed)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.runs.iter().map(|run| run.count(verdict)).sum()
    }

    /// Returns failed tests, and jobs that failed as a whole.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for run in &self.runs {
            let failed = run.tests.iter().filter(|test| test.verdict == Verdict::Failed);
            failures.extend(failed.map(|test| format!("{} {}::{}", run.place.as_str(), test.suite, test.name)));
            if let Some(fault) = &run.fault {
                failures.push(format!("{} {}: {fault}", run.place.as_str(), run.name));
            }
        }
        failures
    }

    fn slowest(&self) -> Vec<(&JobRun, &TestRun)> {
        let mut tests: Vec<_> = self
            .runs
            .iter()
            .flat_map(|run| run.tests.iter().map(move |test| (run, test)))
            .collect();
        tests.sort_by_key(|(_, test)| std::cmp::Reverse(test.took));
        tests.truncate(SLOWEST);
        tests
    }

    fn to_json(&self) -> Value {
        json!({
            "phases": self.phases.iter().map(|phase| json!({
                "name": phase.name,
                "seconds": phase.seconds,
            })).collect::<Vec<_>>(),
            "suites": self.runs.iter().map(|run| json!({
                "name": run.name,
                "place": run.place.as_str(),
                "seconds": rounded(run.took),
                "fault": run.fault,
                "retried": run.retried,
                "tests": run.tests.iter().map(|test| json!({
                    "suite": test.suite,
                    "name": test.name,
                    "seconds": rounded(test.took),
                    "passed": test.verdict != Verdict::Failed,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    }

    /// Writes the JSON beside the logs.
    pub(crate) fn save(&self) -> Result<(), String> {
        let path = target_file("test-times.json");
        fs::write(&path, format!("{:#}\n", self.to_json())).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:>9}  PHASE (some run at the same time)", "SECONDS")?;
        for phase in &self.phases {
            writeln!(f, "{:9.1}  {}", phase.seconds, phase.name)?;
        }
        writeln!(
            f,
            "\n{:>9}  {:8} {:>6} {:>7} {:>6}  SUITE",
            "SECONDS", "PLACE", "TESTS", "FAILED", "AGAIN"
        )?;
        for run in &self.runs {
            writeln!(
                f,
                "{:9.1}  {:8} {:6} {:7} {:6}  {}",
                run.took.as_secs_f64(),
                run.place.as_str(),
                run.tests.len(),
                run.count(Verdict::Failed),
                run.retried.len(),
                run.name,
            )?;
        }
        writeln!(f, "\n{:>9}  SLOWEST TESTS", "SECONDS")?;
        for (run, test) in self.slowest() {
            let place = run.place.as_str();
            writeln!(
                f,
                "{:9.1}  {place:8} {}::{}",
                test.took.as_secs_f64(),
                test.suite,
                test.name
            )?;
        }
        let failures = self.failures();
        if !failures.is_empty() {
            writeln!(f, "\nFAILED:\n  {}", failures.join("\n  "))?;
        }
        let faults = self.runs.iter().filter(|run| run.fault.is_some()).count();
        writeln!(
            f,
            "\n{} passed, {} failed, {} skipped",
            self.count(Verdict::Passed)
                + self
                    .runs
                    .iter()
                    .filter(|run| run.tests.is_empty() && run.passed())
                    .count(),
            self.count(Verdict::Failed) + faults,
            self.count(Verdict::Ignored),
        )
    }
}

/// Reads the phases that `scripts/phase` recorded before the tests: a line each, seconds and name.
pub(crate) fn recorded_phases() -> Vec<TimedPhase> {
    parse_phases(&fs::read_to_string(target_file("test-phases")).unwrap_or_default())
}

fn parse_phases(text: &str) -> Vec<TimedPhase> {
    let parse = |line: &str| {
        let (seconds, name) = line.split_once(' ')?;
        Some(TimedPhase {
            name: name.to_owned(),
            seconds: seconds.parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

fn target_file(name: &str) -> PathBuf {
    capsid_tests::environment::target_dir().join(name)
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Place;

    fn run(name: &str, verdicts: &[Verdict], fault: Option<&str>) -> JobRun {
        let tests = verdicts.iter().enumerate().map(|(index, verdict)| TestRun {
            suite: name.to_owned(),
            name: format!("t{index}"),
            verdict: *verdict,
            took: Duration::from_secs(index as u64),
        });
        JobRun {
            name: name.to_owned(),
            place: Place::Emulate,
            took: Duration::from_secs(3),
            tests: tests.collect(),
            retried: Vec::new(),
            fault: fault.map(str::to_owned),
        }
    }

    #[test]
    fn the_last_line_counts_tests_and_checks() {
        let runs = vec![
            run("run", &[Verdict::Passed, Verdict::Failed, Verdict::Ignored], None),
            run("lints", &[], None),
            run("pods", &[Verdict::Passed], Some("it hung")),
        ];
        let report = Report::new(Vec::new(), runs);
        let text = report.to_string();
        assert_eq!(text.lines().last(), Some("3 passed, 2 failed, 1 skipped"));
        assert!(
            text.contains("emulate run::t1\n") && text.contains("emulate pods: it hung\n"),
            "{text}"
        );
        assert!(!report.passed());
    }

    #[test]
    fn the_slowest_tests_come_first() {
        let report = Report::new(Vec::new(), vec![run("run", &[Verdict::Passed; 30], None)]);
        let slowest: Vec<&str> = report.slowest().iter().map(|(_, test)| test.name.as_str()).collect();
        assert_eq!(slowest.len(), SLOWEST);
        assert_eq!(slowest[0], "t29");
        assert_eq!(report.to_json()["suites"][0]["tests"][29]["seconds"], 29.0);
    }

    #[test]
    fn phases_are_read_back() {
        let phases = parse_phases("12.5 kernel\nnonsense\n3 release build\n");
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["kernel", "release build"]);
    }
}
