//! Output of a test executable, read line by line: the end and the verdict of each test.
//!
//! With `--test-threads=1` a test's line follows the end of the one before, so that the time between two lines is the
//! duration of the second test.

use std::time::{Duration, Instant};

/// Prefix of the line that announces a suite's executable.
pub(crate) const SUITE_MARK: &str = "== suite ";

/// Verdict of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Ignored,
}

impl Verdict {
    fn parse(word: &str) -> Option<Self> {
        match word.split([',', ' ']).next()? {
            "ok" => Some(Self::Passed),
            "FAILED" => Some(Self::Failed),
            "ignored" => Some(Self::Ignored),
            _ => None,
        }
    }
}

/// One test of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestRun {
    pub(crate) suite: String,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
}

/// Reader of the output of one or more test executables that run one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    suite: String,
    last: Instant,
    /// Name of the test whose line has begun: its own output on stderr may stand between its name and its verdict.
    begun: Option<String>,
    pub(crate) tests: Vec<TestRun>,
}

impl Reader {
    /// Creates a reader for the executable of this suite, until another is announced.
    pub(crate) fn new(suite: &str, now: Instant) -> Self {
        Self {
            suite: suite.to_owned(),
            last: now,
            begun: None,
            tests: Vec::new(),
        }
    }

    /// Takes one line, without its line feed. Returns whether a test ended with it.
    pub(crate) fn line(&mut self, line: &str, now: Instant) -> bool {
        if let Some(suite) = line.strip_prefix(SUITE_MARK) {
            self.suite = suite.to_owned();
            self.begun = None;
            return false;
        }
        if line.starts_with("running ") {
            // The executable has started: the time before belongs to no test.
            self.last = now;
            return false;
        }
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            let name = name.trim_end_matches(" - should panic").to_owned();
            return match Verdict::parse(rest) {
                Some(verdict) => self.end(name, verdict, now),
                None => {
                    self.begun = Some(name);
                    false
                }
            };
        }
        match (Verdict::parse(line), self.begun.take()) {
            (Some(verdict), Some(name)) => self.end(name, verdict, now),
            (_, begun) => {
                self.begun = begun;
                false
            }
        }
    }

    fn end(&mut self, name: String, verdict: Verdict, now: Instant) -> bool {
        self.begun = None;
        self.tests.push(TestRun {
            suite: self.suite.clone(),
            name,
            verdict,
            took: now.duration_since(self.last),
        });
        self.last = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, Verdict)> {
        let now = Instant::now();
        let mut reader = Reader::new("", now);
        for line in text.lines() {
            reader.line(line, now);
        }
        reader.tests.into_iter().map(|test| (test.name, test.verdict)).collect()
    }

    #[test]
    fn each_test_has_its_verdict() {
        let output = "running 4 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, slow\n\
            test e - should panic ... ok\n\nfailures:\n\n---- c stdout ----\ntest result: FAILED. 2 passed; 1 failed";
        let expected = [
            ("a::b", Verdict::Passed),
            ("c", Verdict::Failed),
            ("d", Verdict::Ignored),
            ("e", Verdict::Passed),
        ];
        assert_eq!(read(output), expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    }

    #[test]
    fn tests_belong_to_the_suite_announced_before_them() {
        let now = Instant::now();
        let mut reader = Reader::new("", now);
        for line in ["== suite run", "test a ... ok", "== suite pods", "test a ... FAILED"] {
            reader.line(line, now);
        }
        let suites: Vec<&str> = reader.tests.iter().map(|test| test.suite.as_str()).collect();
        assert_eq!(suites, ["run", "pods"]);
    }

    #[test]
    fn words_of_a_test_may_stand_before_its_verdict() {
        let output = "test a ... a: skipped: not here\nmore words\nok\ntest b ... ok\nok\n";
        let expected = [("a", Verdict::Passed), ("b", Verdict::Passed)];
        assert_eq!(read(output), expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    }

    #[test]
    fn a_test_takes_the_time_since_the_one_before() {
        let start = Instant::now();
        let mut reader = Reader::new("", start);
        reader.line("running 2 tests", start + Duration::from_secs(5));
        assert!(reader.line("test a ... ok", start + Duration::from_secs(6)));
        assert!(!reader.line("noise", start + Duration::from_secs(7)));
        assert!(reader.line("test b ... ok", start + Duration::from_secs(9)));
        let took: Vec<u64> = reader.tests.iter().map(|test| test.took.as_secs()).collect();
        assert_eq!(took, [1, 3]);
    }
}
