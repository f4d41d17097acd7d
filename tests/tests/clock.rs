//! The wall clock of a guest: the host's, from the first instruction of a container on.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use capsid_tests::Capsid;
use capsid_tests::environment::{count, patience};

/// Maximum distance of the guest's clock from the host's, milliseconds.
const OFF_MAX_MS: f64 = 10.0;

/// Container that prints its time on request.
struct Teller {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Teller {
    fn start(capsid: &Capsid, name: &str) -> Self {
        let call = capsid.call([
            "run",
            "-i",
            "--rm",
            "--name",
            name,
            "--cap-add",
            "SYS_TIME",
            "probe",
            "/probe",
            "clock",
        ]);
        let mut child = call.spawn_with(|command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        });
        Self {
            questions: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Measures the milliseconds that the guest's clock surely is off: its distance from all values of the host's clock
    /// between question and answer. The best of some tries: each also measures how busy the host is.
    fn off_ms(&mut self) -> f64 {
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let asked = now_ms();
            self.questions.write_all(b"\n").unwrap();
            let mut line = String::new();
            self.answers.read_line(&mut line).unwrap();
            let (answered, guest) = (now_ms(), line.trim().parse::<f64>().unwrap() / 1e6);
            best = best.min((asked - guest).max(guest - answered).max(0.0));
        }
        best
    }

    fn end(self) {
        let Self {
            mut child, questions, ..
        } = self;
        drop(questions);
        assert!(child.wait().unwrap().success());
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as f64 / 1e6
}

#[track_caller]
fn assert_equal(teller: &mut Teller, when: &str) {
    let off = teller.off_ms();
    assert!(off <= OFF_MAX_MS, "{when}: {off:.1} ms off");
}

#[test]
fn the_guests_clock_is_the_hosts_for_a_minute() {
    let capsid = Capsid::with_probe();
    let mut teller = Teller::start(&capsid, "teller");
    assert_equal(&mut teller, "at its start");
    let end = Instant::now() + Duration::from_secs(count("CAPSID_CLOCK_SECONDS", 60) as u64);
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(3));
        assert_equal(&mut teller, "while it runs");
    }
    capsid.call(["pause", "teller"]).wait().succeeds();
    thread::sleep(Duration::from_secs(3));
    capsid.call(["unpause", "teller"]).wait().succeeds();
    assert_equal(&mut teller, "after a pause");
    teller.end();
}

/// Test with a container that may set the clock, and does: a test has no other way to make it wrong.
#[test]
fn a_clock_that_is_wrong_is_corrected() {
    let capsid = Capsid::with_probe();
    let mut teller = Teller::start(&capsid, "teller");
    assert_equal(&mut teller, "at its start");
    for wrong in ["2001-02-03 04:05:06", "2035-02-03 04:05:06"] {
        capsid.call(["exec", "teller", "date", "-s", wrong]).wait().succeeds();
        let deadline = Instant::now() + patience(10);
        while teller.off_ms() > OFF_MAX_MS {
            assert!(Instant::now() < deadline, "it stays wrong");
            thread::sleep(Duration::from_millis(200));
        }
    }
    teller.end();
}
