//! Paths of the parts under test, and time limits of the tests.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// Returns Cargo's target folder: the one this executable was built into, wherever it is.
pub fn target_dir() -> PathBuf {
    let executable = env::current_exe().expect("own path");
    let profile = executable
        .ancestors()
        .find(|folder| folder.ends_with("debug") || folder.ends_with("release") || folder.ends_with("agent"))
        .expect("built by cargo into a profile's folder");
    profile.parent().expect("a profile's folder has a parent").to_owned()
}

/// Returns the folder with `capsid`, `capsid-vmm`, `capsid-agent`, `capsid-probe` and `vmlinux`.
pub fn bin_dir() -> PathBuf {
    env::var_os("CAPSID_BIN_DIR").map_or_else(|| target_dir().join("release"), PathBuf::from)
}

/// Returns one part of [`bin_dir`]; if it is missing, panics with the remedy.
pub fn part(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build build-tests kernel`",
        path.display()
    );
    path
}

/// Whether this is the lab: hardware virtualization, emulated; everything takes many times longer.
pub fn in_lab() -> bool {
    env::var_os("CAPSID_LAB").is_some()
}

/// Returns a time limit for this machine.
pub fn patience(seconds: u64) -> Duration {
    Duration::from_secs(if in_lab() { seconds * 6 } else { seconds })
}

/// Returns a workload's size for this machine: whole, or an eighth in the lab.
pub fn workload(size: u64) -> u64 {
    if in_lab() { size / 8 } else { size }
}

/// Reads a count from the environment, which `make test-full` raises.
pub fn count(variable: &str, default: usize) -> usize {
    env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Returns the accelerator for the tests; `emulate` unless the caller sets another.
pub fn accelerator() -> String {
    env::var("CAPSID_ACCEL").unwrap_or_else(|_| "emulate".to_owned())
}
