//! Costs of a running pod: a command in it, small files in it, its memory when idle.

use std::fs;
use std::time::Duration;

use capsid_tests::resident::{Held, descendants};
use capsid_tests::{Capsid, TestImage};

use crate::figure::Figure;
use crate::memory_figure::own_kib;
use crate::start_figure::in_turns;

/// Goal: a command in a running pod takes a quarter of one that needs a pod of its own.
const EXEC_GOAL: Option<f64> = Some(0.25);
/// Goal for an idle pod in KiB, beyond the guest's own pages: 5 MiB of its machine, 8 MiB of its supervisor.
const IDLE_GOAL_KIB: f64 = 13.0 * 1024.0;
/// Time after which a started pod is idle.
const SETTLED: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// Measures `exec true` in a running pod against `run --rm` of the same.
pub(crate) fn exec_against_run(accelerator: &str) -> Figure {
    let capsid = Capsid::with_busybox();
    capsid.detached("host", &["--accel", accelerator, "busybox", "sleep", "100000"]);
    let exec = || capsid.call(["exec", "host", "true"]).wait().succeeds().took;
    let run = || capsid.run(["--accel", accelerator, "busybox", "true"]).succeeds().took;
    let (ours, reference) = in_turns(exec, run);
    let name = format!("exec true in a running pod / run --rm ({accelerator})");
    Figure::of_times(&name, EXEC_GOAL, &ours, &reference)
}

/// Measures the memory of a sleeping pod's processes apart from the guest's own pages.
pub(crate) fn idle_pod() -> Figure {
    let capsid = Capsid::with_busybox();
    capsid.detached("idle", &["--accel", "kvm", "busybox", "sleep", "100000"]);
    std::thread::sleep(SETTLED);
    let supervisor = capsid.supervisor("idle");
    let helpers: u64 = descendants(supervisor).iter().map(|process| own_kib(process.pid)).sum();
    let total = Held::of(supervisor).resident_kib + helpers;
    let name = "idle pod: memory beyond the guest's pages / 13 MiB";
    Figure::new(name, "KiB", total as f64, IDLE_GOAL_KIB, Some(1.0), 1)
}

/// Script of the works on one folder; prints the nanoseconds of each.
const SMALL_FILES: &str = r#"
    set -e
    cd "$1"; rm -rf work; mkdir work; cd work
    start=$(date +%s%N); tar xf /dev/shm/tree.tar; unpacked=$(date +%s%N)
    find . -type f -size +1k >/dev/null; found=$(date +%s%N)
    git init -q .; git add .; git -c user.name=x -c user.email=x@localhost commit -qm x
    committed=$(date +%s%N); git status --porcelain; reported=$(date +%s%N)
    echo $((unpacked - start)) $((found - unpacked)) $((reported - committed))
"#;
const WORKS: [&str; 3] = ["untar", "find", "git status"];
/// Names and paths of the folders; the last one is the reference: memory of the same pod, without a disk or a server.
const FOLDERS: [(&str, &str); 4] = [
    ("rootfs", "/srv"),
    ("volume", "/volume"),
    ("bind mount", "/bound"),
    ("tmpfs", "/memory"),
];

/// Measures untar, `find` and `git status` of some of python's library on the container's root, on a volume and on a
/// bind mount, against a tmpfs of the same pod.
pub(crate) fn small_files(accelerator: &str) -> Vec<Figure> {
    let capsid = Capsid::with(&[TestImage::Services]);
    let bound = capsid.folder("bound");
    fs::create_dir(&bound).unwrap();
    let bound = format!("{}:/bound", bound.display());
    let flags = ["-m", "1g", "--tmpfs", "/memory", "-v", "volume:/volume", "-v", &bound];
    let words = [&["--accel", accelerator], &flags[..], &["services", "sleep", "100000"]].concat();
    capsid.detached("files", &words);
    let exec = |words: &[&str]| {
        let words = [&["exec", "files"], words].concat();
        capsid.call(words).within(300).wait().succeeds().text()
    };
    let tree = "cd /usr/lib/python3.11 && tar cf /dev/shm/tree.tar asyncio email json http unittest";
    exec(&["sh", "-c", tree]);
    let work_in = |folder: &str| {
        let line = exec(&["sh", "-c", SMALL_FILES, "sh", folder]);
        let nanoseconds = line.split_whitespace().map(|word| word.parse().unwrap());
        let times: Vec<Duration> = nanoseconds.map(Duration::from_nanos).collect();
        assert_eq!(times.len(), WORKS.len(), "{line}");
        times
    };
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| FOLDERS.map(|(_, folder)| work_in(folder)))
        .collect();
    let times = |place: usize, work: usize| rounds.iter().map(|round| round[place][work]).collect::<Vec<_>>();
    let reference = FOLDERS.len() - 1;
    let figure = |place: usize, work: usize| {
        let name = format!("{} on {} / tmpfs ({accelerator})", WORKS[work], FOLDERS[place].0);
        Figure::of_times(&name, None, &times(place, work), &times(reference, work))
    };
    (0..reference)
        .flat_map(|place| (0..WORKS.len()).map(move |work| (place, work)))
        .map(|(place, work)| figure(place, work))
        .collect()
}
