//! How long a start takes: a whole run, and a machine until its agent is ready.

use std::time::Duration;

use capsid_tests::parts::in_lab;
use capsid_tests::{Capsid, Outcome};

use crate::figure::Figure;
use crate::floor::Floor;

/// Goal: a container costs no more than half of a bare machine on top.
const WHOLE_RUN_GOAL: f64 = 1.5;
/// Goal: quicker than the same guest under QEMU.
const UNTIL_READY_GOAL: f64 = 0.8;

fn samples() -> usize {
    if in_lab() { 7 } else { 11 }
}

/// `capsid run --rm busybox true` against a bare machine that starts and ends, image present.
pub(crate) fn whole_run(accelerator: &'static str) -> Figure {
    let capsid = Capsid::with_busybox();
    let run = || capsid.run(["--accel", accelerator, "busybox", "true"]).succeeds().took;
    let floor = Floor::new(&capsid.folder("tmp"), if accelerator == "kvm" { "kvm" } else { "tcg" });
    let (ours, reference) = in_turns(run, || floor.whole());
    let name = format!("run --rm busybox true / bare microvm ({accelerator})");
    Figure::of_times(&name, WHOLE_RUN_GOAL, &ours, &reference)
}

/// `capsid-vmm` from process start to the session's first words against QEMU to the first process's.
pub(crate) fn until_ready() -> Figure {
    let capsid = Capsid::with_busybox();
    let run = || {
        machine_time(
            &capsid
                .run(["--timings", "--accel", "kvm", "busybox", "true"])
                .succeeds(),
        )
    };
    let floor = Floor::new(&capsid.folder("tmp"), "kvm");
    let (ours, reference) = in_turns(run, || floor.until_first_process());
    Figure::of_times(
        "capsid-vmm to agent ready / QEMU microvm to init (kvm)",
        UNTIL_READY_GOAL,
        &ours,
        &reference,
    )
}

/// The table of `--timings` has a line for each step: name, what it took, when it ended, in milliseconds.
fn machine_time(outcome: &Outcome) -> Duration {
    let took = |step: &str| {
        let line = outcome.stderr.lines().find(|line| line.starts_with(step));
        let line = line.unwrap_or_else(|| panic!("no step {step:?} in the timings\n{outcome}"));
        line.trim_start_matches(step)
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok())
            .unwrap()
    };
    let milliseconds: f64 = MACHINE_STEPS.iter().map(|step| took(step)).sum();
    Duration::from_secs_f64(milliseconds / 1000.0)
}

/// The steps between the start of `capsid-vmm` and the agent's `Ready`.
const MACHINE_STEPS: [&str; 2] = ["machine processes started", "agent ready"];

/// One of each, again and again: what slows the host down slows both down. The first pair warms caches.
fn in_turns(
    mut ours: impl FnMut() -> Duration,
    mut reference: impl FnMut() -> Duration,
) -> (Vec<Duration>, Vec<Duration>) {
    ours();
    reference();
    (0..samples()).map(|_| (ours(), reference())).unzip()
}
