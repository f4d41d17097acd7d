//! What a command in a pod that lives on costs.

use capsid_tests::Capsid;

use crate::figure::Figure;
use crate::start_figure::in_turns;

/// Goal: a command in a running pod takes a quarter of one that needs a pod of its own.
const EXEC_GOAL: Option<f64> = Some(0.25);
/// `exec true` in a running pod against `run --rm` of the same.
pub(crate) fn exec_against_run(accelerator: &str) -> Figure {
    let capsid = Capsid::with_busybox();
    capsid.detached("host", &["--accel", accelerator, "busybox", "sleep", "100000"]);
    let exec = || capsid.call(["exec", "host", "true"]).wait().succeeds().took;
    let run = || capsid.run(["--accel", accelerator, "busybox", "true"]).succeeds().took;
    let (ours, reference) = in_turns(exec, run);
    let name = format!("exec true in a running pod / run --rm ({accelerator})");
    Figure::of_times(&name, EXEC_GOAL, &ours, &reference)
}
