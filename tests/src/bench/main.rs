//! `capsid-bench`: figures as ratios within one run, as a table and as JSON.
//!
//! ```text
//!   capsid-bench [--output FILE]    every figure; those that need KVM run in the lab where the host has none
//!   capsid-bench kvm                only those, as one line of JSON (this is what runs in the lab)
//!   capsid-bench network            only what networks cost on this host
//! ```
//!
//! Absolute times depend on the machine: each figure compares two programs that took turns, by their medians.

// A measurement that fails has no result: panics are its errors.
#![allow(clippy::unwrap_used)]

mod breakdown;
mod figure;
mod floor;
mod image_figure;
mod live_figure;
mod memory_figure;
mod network_figure;
mod start_figure;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use breakdown::Breakdown;
use capsid_tests::environment;
use figure::{Figure, print_table};
use serde::{Deserialize, Serialize};

/// All measurements.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    figures: Vec<Figure>,
    /// Breakdowns of the time of a start.
    starts: Vec<Breakdown>,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["kvm"] => println!("{}", serde_json::to_string(&kvm_report()).unwrap()),
        ["network"] => print_table(&network_figures(if has_kvm() { "kvm" } else { "emulate" })),
        [] => report(None),
        ["--output", path] => report(Some(Path::new(path))),
        _ => {
            eprintln!("usage: capsid-bench [--output FILE] | capsid-bench kvm | capsid-bench network");
            std::process::exit(2);
        }
    }
}

fn report(output: Option<&Path>) {
    let mut report = if has_kvm() { kvm_report() } else { report_from_lab() };
    report.figures.splice(0..0, start_figure::whole_emulated_run());
    report.figures.push(image_figure::pull_against_umoci());
    report.figures.push(live_figure::exec_against_run("emulate"));
    report.figures.extend(live_figure::small_files("emulate"));
    report.figures.extend(network_figures("emulate"));
    report.starts.insert(0, start_figure::breakdown("emulate"));
    print_table(&report.figures);
    report.starts.iter().for_each(Breakdown::print);
    if let Some(path) = output {
        fs::write(path, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
        println!("saved to {}", path.display());
    }
    std::process::exit(i32::from(report.figures.iter().any(|figure| !figure.is_met())));
}

fn kvm_report() -> Report {
    let mut figures = vec![
        start_figure::whole_run(),
        start_figure::until_ready(),
        memory_figure::beside_the_guest(),
        live_figure::exec_against_run("kvm"),
        live_figure::idle_pod(),
    ];
    figures.extend(network_figures("kvm"));
    Report {
        figures,
        starts: vec![start_figure::breakdown("kvm")],
    }
}

/// Measures the costs of networks.
fn network_figures(accelerator: &str) -> Vec<Figure> {
    let mut figures = network_figure::against_others(accelerator);
    figures.push(network_figure::between_pods(accelerator));
    figures.push(network_figure::start(accelerator));
    figures
}

fn has_kvm() -> bool {
    let status = Command::new(environment::part("capsid"))
        .args(["doctor", "--accel", "kvm"])
        .output();
    status.is_ok_and(|output| output.status.success())
}

/// Runs this program in the lab; the last line of its output is its result. One processor: with several, TCG corrupts
/// the lab's kernel after a while (`tests/src/runner/lab.rs`).
fn report_from_lab() -> Report {
    let lab = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("lab/lab");
    let output = Command::new(&lab)
        .args(["--smp", "1", "env"])
        .arg("CAPSID_LAB=1")
        .arg(format!(
            "CAPSID_BIN_DIR={}",
            environment::bin_dir().canonicalize().unwrap().display()
        ))
        .arg(format!(
            "CAPSID_TEST_IMAGES={}",
            environment::target_dir()
                .join("test-images")
                .canonicalize()
                .unwrap()
                .display()
        ))
        .arg(env::current_exe().unwrap().canonicalize().unwrap())
        .arg("kvm")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", lab.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .unwrap_or_else(|| {
            panic!(
                "no figures from the lab: {text}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
    serde_json::from_str(line).unwrap()
}
