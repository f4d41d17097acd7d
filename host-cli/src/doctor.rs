//! Report of what this host can do, with a cure for each problem.
//!
//! [`examine`] gathers facts ([`host`], [`elf`]) and judges them ([`checks`], pure). A [`State::Problem`] makes `run`
//! fail; any other defect is a warning.

mod checks;
mod elf;
mod host;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use capsid_jail::{Confinement, Layer};
use serde::Serialize;

use crate::confinement::{self, ProbeError, Process};
use crate::error_text::describe;
use crate::model::AccelChoice;
use crate::output;
use crate::probe::KvmVerdict;

/// Returns the size of this machine's memory, bytes.
pub(crate) fn memory_bytes() -> Option<u64> {
    host::total_memory()
}

/// Returns the memory that new programs can have without swapping, bytes.
pub(crate) fn free_memory_bytes() -> Option<u64> {
    host::available_memory()
}

/// Inputs of the examination: paths of Capsid's parts (`None`: not found), and facts that are known already.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Verdict on `/dev/kvm`.
    pub kvm: KvmVerdict,
    /// Accelerator that the user asks for.
    pub accelerator: AccelChoice,
    /// Path of the guest kernel.
    pub kernel: Option<PathBuf>,
    /// Path of the agent, from which the initramfs is built.
    pub agent: Option<PathBuf>,
    /// Path of `capsid-vmm`.
    pub vmm: Option<PathBuf>,
    /// Path of `capsid-fs`.
    pub file_server: Option<PathBuf>,
    /// Path of `qemu-system-x86_64`.
    pub qemu: Option<PathBuf>,
    /// Path of `passt`.
    pub passt: Option<PathBuf>,
    /// Folder of images and rootfs files; need not exist yet.
    pub data: PathBuf,
    /// Folder of sockets and locks; need not exist yet.
    pub run: PathBuf,
    /// Confinement of each kind of process.
    pub confinement: Vec<Confined>,
    /// Layers that the user requires.
    pub required: BTreeSet<Layer>,
}

/// Confinement of one kind of process.
#[derive(Debug)]
pub(crate) struct Confined {
    /// Kind of the process.
    pub process: Process,
    /// Whether machines need this process, on the accelerator that would be chosen.
    pub is_needed: bool,
    /// Report of the process.
    pub found: Result<Confinement, ProbeError>,
}

impl Confined {
    /// Starts a process of that kind to obtain its report.
    pub(crate) fn examine(process: Process, is_needed: bool) -> Self {
        Self {
            process,
            is_needed,
            found: confinement::probe(process),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let active = |layer: &Layer| self.found.as_ref().is_ok_and(|found| found.has(*layer));
        let layers: serde_json::Map<_, _> = Layer::ALL
            .iter()
            .map(|layer| (layer.name().to_owned(), active(layer).into()))
            .collect();
        let without = self.process.does_without().map_or(&[][..], |(layers, _)| layers);
        serde_json::json!({
            "process": self.process.name(),
            "layers": layers,
            "landlock_abi": self.found.as_ref().ok().and_then(Confinement::landlock_abi),
            "without_by_design": without.iter().map(|layer| layer.name()).collect::<Vec<_>>(),
            "error": self.found.as_ref().err().map(|error| describe(error)),
        })
    }
}

/// Result of one examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Name of the examined item; stays the same from version to version.
    pub name: &'static str,
    /// State of the item.
    pub state: State,
    /// Description of the finding.
    pub finding: String,
    /// Advice on what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// State of an examined item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// No defect.
    Ok,
    /// Defect with which `run` works, but with less than it could.
    Warning,
    /// Defect with which `run` fails.
    Problem,
}

/// Notation of states in the text report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `✓`, `!`, `✗`: for a terminal.
    Symbols,
    /// `ok`, `warn`, `fail`: for files and pipes.
    Words,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Ok,
            finding: finding.into(),
            cure: None,
        }
    }

    fn warning(name: &'static str, finding: impl Into<String>, cure: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Warning,
            finding: finding.into(),
            cure: Some(cure.into()),
        }
    }

    fn problem(name: &'static str, finding: impl Into<String>, cure: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Problem,
            finding: finding.into(),
            cure: Some(cure.into()),
        }
    }
}

/// Examines the host: the machine first, then Capsid's own parts, then their requirements.
pub(crate) fn examine(environment: &Environment) -> Vec<Check> {
    let Environment {
        kvm,
        accelerator,
        kernel,
        agent,
        vmm,
        file_server,
        qemu,
        passt,
        data,
        run,
        confinement,
        required,
    } = environment;
    let mut checks = vec![
        checks::kvm(kvm, host::group_name(kvm)),
        checks::accelerator(*accelerator, kvm, qemu.is_some()),
        checks::kernel(kernel.as_deref(), kernel.as_deref().map(elf::entry)),
        checks::part("agent", "capsid-agent", agent.as_deref()),
        checks::part("vmm", "capsid-vmm", vmm.as_deref()),
        checks::part("file-server", "capsid-fs", file_server.as_deref()),
        checks::qemu(
            *accelerator,
            kvm,
            qemu.as_deref(),
            qemu.as_deref().and_then(host::version),
        ),
        checks::network(passt.as_deref()),
        checks::namespaces(&host::namespaces()),
        checks::limits(&host::limits()),
        checks::disk(host::free_space(data)),
        checks::folder("data", data, &host::folder(data)),
        checks::folder("run", run, &host::folder(run)),
        checks::cgroups(&host::own_cgroups()),
        checks::memory(host::available_memory()),
    ];
    checks.extend(
        confinement
            .iter()
            .map(|confined| checks::confinement(confined, required)),
    );
    checks
}

/// Whether `run` can work on this host.
pub(crate) fn can_run(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.state != State::Problem)
}

/// Formats one line per check, followed by the cure.
pub(crate) fn to_text(checks: &[Check], marks: Marks) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let mark = mark(check.state, marks);
        let finding = output::line(&check.finding);
        // Writing to a string does not fail.
        let _ = write!(text, "{mark} {:width$}  {finding}", check.name);
        if let Some(cure) = &check.cure {
            let _ = write!(text, "; {}", output::line(cure));
        }
        text.push('\n');
    }
    text
}

/// Formats the report as `{"usable": ..., "checks": [{"name": ..., "state": "ok"|"warning"|"problem", "finding": ...,
/// "cure": ...}], "confinement": [{"process": ..., "layers": {"userns": true, ...}, "landlock_abi": ..., ...}]}`.
pub(crate) fn to_json(checks: &[Check], confinement: &[Confined]) -> serde_json::Value {
    let confinement: Vec<_> = confinement.iter().map(Confined::to_json).collect();
    serde_json::json!({ "usable": can_run(checks), "checks": checks, "confinement": confinement })
}

fn mark(state: State, marks: Marks) -> &'static str {
    match (marks, state) {
        (Marks::Symbols, State::Ok) => "✓",
        (Marks::Symbols, State::Warning) => "!",
        (Marks::Symbols, State::Problem) => "✗",
        (Marks::Words, State::Ok) => "ok  ",
        (Marks::Words, State::Warning) => "warn",
        (Marks::Words, State::Problem) => "fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("kvm", "fine"),
            Check::warning("network", "no passt", "install it"),
            Check::problem("kernel", "none at \x1b[2J", "build it"),
        ]
    }

    #[test]
    fn a_line_has_mark_name_finding_and_cure() {
        let plain = to_text(&checks(), Marks::Words);
        let expected =
            "ok   kvm      fine\nwarn network  no passt; install it\nfail kernel   none at \\u{1b}[2J; build it\n";
        assert_eq!(plain, expected);
        let symbols = to_text(&checks(), Marks::Symbols);
        assert!(symbols.starts_with("✓ kvm      fine\n! network"), "{symbols}");
    }

    #[test]
    fn json_says_the_same() {
        let json = to_json(&checks(), &[]);
        assert_eq!(json["usable"], false);
        assert_eq!(json["checks"][1]["state"], "warning");
        assert_eq!(json["checks"][1]["cure"], "install it");
        assert!(json["checks"][0].get("cure").is_none());
    }

    #[test]
    fn only_problems_stop_run() {
        assert!(!can_run(&checks()));
        assert!(can_run(&checks()[..2]));
        assert!(can_run(&[]));
    }

    /// Tests this very host: every check has a text, and each defect has a cure.
    #[test]
    fn a_host_without_any_part_cannot_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = Environment {
            kvm: KvmVerdict::Missing,
            accelerator: AccelChoice::Auto,
            kernel: None,
            agent: None,
            vmm: None,
            file_server: None,
            qemu: None,
            passt: None,
            data: folder.path().join("not/yet/there"),
            run: folder.path().to_owned(),
            confinement: Vec::new(),
            required: BTreeSet::new(),
        };
        let checks = examine(&environment);
        assert!(!can_run(&checks));
        for check in &checks {
            assert!(!check.finding.is_empty(), "{check:?}");
            assert_eq!(check.cure.is_some(), check.state != State::Ok, "{check:?}");
        }
        let problems: Vec<_> = checks
            .iter()
            .filter(|c| c.state == State::Problem)
            .map(|c| c.name)
            .collect();
        for name in ["accelerator", "kernel", "agent", "vmm"] {
            assert!(problems.contains(&name), "{problems:?}");
        }
        assert!(
            !problems.contains(&"data") && !problems.contains(&"run"),
            "{problems:?}"
        );
        assert!(!folder.path().join("not").exists(), "examining makes nothing");
    }
}
