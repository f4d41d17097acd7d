//! Time of a start: a whole run, and a machine until its agent is ready.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use capsid_tests::Capsid;
use capsid_tests::environment::in_lab;
use capsid_tests::resident::descendants;

use crate::breakdown::Breakdown;
use crate::figure::Figure;
use crate::floor::{Floor, KVM_COMMAND_LINE};

/// Goal: a container costs no more than half of a bare machine on top.
const WHOLE_RUN_GOAL: Option<f64> = Some(1.5);
/// Goal: quicker than the same guest under QEMU.
const UNTIL_READY_GOAL: Option<f64> = Some(0.8);

fn samples() -> usize {
    if in_lab() { 7 } else { 11 }
}

/// Measures `capsid run --rm busybox true` on KVM against a bare machine that starts and ends, image present.
pub(crate) fn whole_run() -> Figure {
    let capsid = Capsid::with_busybox();
    let run = || capsid.run(["--accel", "kvm", "busybox", "true"]).succeeds().took;
    let floor = Floor::new(&capsid.folder("tmp"), "kvm", KVM_COMMAND_LINE.to_owned());
    let (ours, reference) = in_turns(run, || floor.whole());
    let name = "run --rm busybox true / bare microvm (kvm)";
    Figure::of_times(name, WHOLE_RUN_GOAL, &ours, &reference)
}

/// Measures the whole run under emulation. The goal is for the bare machine that gets its clock's frequency like a pod;
/// the second figure is for one that has to measure it, as with a kernel booted under QEMU by hand.
pub(crate) fn whole_emulated_run() -> [Figure; 2] {
    let capsid = Capsid::with_busybox();
    let run = || capsid.run(["--accel", "emulate", "busybox", "true"]).succeeds().took;
    let line = emulated_command_line(&capsid);
    let words = line.split_whitespace();
    let unannounced: Vec<&str> = words
        .filter(|word| *word != "noapictimer" && !word.starts_with("tsc_early_khz="))
        .collect();
    let unannounced = Floor::new(&capsid.folder("tmp"), "tcg", unannounced.join(" "));
    let floor = Floor::new(&capsid.folder("tmp"), "tcg", line);
    let (ours, both) = in_turns(run, || (floor.whole(), unannounced.whole()));
    let (reported, unannounced): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    let name = "run --rm busybox true / bare microvm (emulate)";
    let name_unannounced = "run --rm busybox true / the same, not told its clock";
    [
        Figure::of_times(name, WHOLE_RUN_GOAL, &ours, &reported),
        Figure::of_times(name_unannounced, None, &ours, &unannounced),
    ]
}

/// Reads the command line of an emulated kernel off a running machine, since it depends on the host.
pub(crate) fn emulated_command_line(capsid: &Capsid) -> String {
    let script = [
        "--name",
        "ready",
        "--accel",
        "emulate",
        "busybox",
        "sh",
        "-c",
        "echo ready; sleep 600",
    ];
    let mut child = capsid.run_call(script).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    });
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    let command_line = descendants(child.id()).into_iter().find_map(|process| {
        let words = fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
        let mut words = words.split(|byte| *byte == 0).skip_while(|word| *word != b"-append");
        words.nth(1).map(|line| String::from_utf8(line.to_vec()).unwrap())
    });
    // Otherwise the pod would outlive its command.
    capsid.call(["rm", "-f", "ready"]).wait().succeeds();
    child.wait().unwrap();
    command_line.expect("a machine under QEMU")
}

/// Measures the time of each step of a start.
pub(crate) fn breakdown(accelerator: &'static str) -> Breakdown {
    let capsid = Capsid::with_busybox();
    let run = || {
        capsid
            .run(["--timings", "--accel", accelerator, "busybox", "true"])
            .succeeds()
    };
    let all = (0..samples())
        .map(|_| Breakdown::read(accelerator, &run().stderr))
        .collect();
    Breakdown::median(all)
}

/// Measures `capsid-vmm` from process start to the session's first message against QEMU to the first process's output.
/// QEMU's guest has less to do: it finds no device, and its first process prints at once.
pub(crate) fn until_ready() -> Figure {
    let capsid = Capsid::with_busybox();
    let run = || {
        let outcome = capsid
            .run(["--timings", "--accel", "kvm", "busybox", "true"])
            .succeeds();
        let breakdown = Breakdown::read("kvm", &outcome.stderr);
        let milliseconds: f64 = MACHINE_STEPS.iter().map(|step| breakdown.took(step)).sum();
        Duration::from_secs_f64(milliseconds / 1000.0)
    };
    let floor = Floor::new(&capsid.folder("tmp"), "kvm", KVM_COMMAND_LINE.to_owned());
    let (ours, reference) = in_turns(run, || floor.until_first_process());
    Figure::of_times(
        "capsid-vmm to agent ready / QEMU microvm to init (kvm)",
        UNTIL_READY_GOAL,
        &ours,
        &reference,
    )
}

/// Names of the steps between the start of `capsid-vmm` and the agent's `Ready`.
const MACHINE_STEPS: [&str; 2] = ["machine processes started", "agent ready"];

/// Measures both in turns: anything that slows the host down slows both down. The first pair warms caches.
pub(crate) fn in_turns<T>(
    mut ours: impl FnMut() -> Duration,
    mut reference: impl FnMut() -> T,
) -> (Vec<Duration>, Vec<T>) {
    ours();
    reference();
    (0..samples()).map(|_| (ours(), reference())).unzip()
}
