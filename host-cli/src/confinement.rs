//! Confinement of a machine's processes on this host, and the layers that the user requires.
//!
//! Each process reports its own confinement: it is started only to enter its jail and report ([`probe`]). A layer that
//! this host does not have is not an error by itself; `require` in the settings and `--require` make it one
//! ([`check`]).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use capsid_jail::{Confinement, Layer, LayerError};

use crate::accelerator;
use crate::install_paths::{self, PartError};
use crate::network::passt_probe::{self, ProbePasstError};
use crate::settings::{self, SettingsError};

/// Kind of process that reads input from a guest, an image or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// `capsid-vmm`: runs the machine on KVM, and the devices of an emulated one.
    Vmm,
    /// QEMU, which runs the guest's instructions where there is no KVM.
    Emulator,
    /// `capsid-fs`, one process for each bind mount.
    FileServer,
    /// Reader of image layers, which enters the same jail as the VMM.
    Converter,
    /// passt, which confines itself.
    Passt,
}

impl Process {
    /// Returns the name in errors and reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vmm => "capsid-vmm",
            Self::Emulator => "QEMU",
            Self::FileServer => "capsid-fs",
            Self::Converter => "the converter of images",
            Self::Passt => "passt",
        }
    }

    /// Returns the layers that this process does without on every host, and the reason.
    pub(crate) fn does_without(self) -> Option<(&'static [Layer], &'static str)> {
        match self {
            Self::FileServer if rustix::process::geteuid().is_root() => Some((
                &[Layer::User, Layer::Capabilities],
                "it serves files of all users, with capabilities that its user namespace confines to files",
            )),
            Self::Passt => Some((
                &[Layer::Rlimits, Layer::Landlock],
                "it confines itself, and keeps the host's network namespace",
            )),
            _ => None,
        }
    }
}

/// Lists the processes that start for a machine.
pub(crate) fn processes(accelerator: &str, has_shares: bool, has_network: bool) -> Vec<Process> {
    let mut processes = vec![Process::Vmm];
    processes.extend((accelerator == accelerator::EMULATE).then_some(Process::Emulator));
    processes.extend(has_shares.then_some(Process::FileServer));
    processes.extend(has_network.then_some(Process::Passt));
    processes
}

/// Reason why the confinement of a process is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("a part of the installation is missing")]
    Part(#[from] PartError),
    #[error("cannot start {0}")]
    Prepare(&'static str, #[source] accelerator::StartError),
    #[error("cannot start {program}")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program} cannot be confined on this host: {complaint}")]
    Refused { program: &'static str, complaint: String },
    #[error("passt cannot be confined on this host")]
    Passt(#[from] ProbePasstError),
    #[error("{program} reports what this version does not understand")]
    Report {
        program: &'static str,
        #[source]
        source: LayerError,
    },
}

/// Starts `process` to obtain its report.
pub(crate) fn probe(process: Process) -> Result<Confinement, ProbeError> {
    match process {
        Process::Vmm | Process::Converter => report_of(process, reporting(&install_paths::vmm()?)),
        Process::FileServer => report_of(process, reporting(&install_paths::file_server()?)),
        Process::Emulator => {
            let command = accelerator::reporting_qemu(&install_paths::qemu()?);
            report_of(
                process,
                command.map_err(|source| ProbeError::Prepare(process.name(), source))?,
            )
        }
        Process::Passt => Ok(passt_probe::probe(&install_paths::passt()?)?),
    }
}

fn reporting(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--confinement").stdin(Stdio::null());
    command
}

/// Returns the first line that the process writes, if it ends without error.
fn report_of(process: Process, mut command: Command) -> Result<Confinement, ProbeError> {
    let program = process.name();
    let output = command
        .output()
        .map_err(|source| ProbeError::Start { program, source })?;
    if !output.status.success() {
        let complaint = crate::process::last_complaint(&String::from_utf8_lossy(&output.stderr), |_| true);
        return Err(ProbeError::Refused {
            program,
            complaint: complaint.unwrap_or_else(|| output.status.to_string()),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    line.parse().map_err(|source| ProbeError::Report { program, source })
}

/// Reason why a process that lacks a required layer is not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequirementError {
    #[error("cannot read which layers of confinement are required")]
    Settings(#[from] SettingsError),
    #[error("cannot find out what confines {process}, of which `require` demands {required}")]
    Unknown {
        process: &'static str,
        required: String,
        #[source]
        source: ProbeError,
    },
    #[error("{process} would run without {missing}, which `require` demands: {cure}, or leave it out of `require`")]
    Missing {
        process: &'static str,
        missing: String,
        cure: String,
    },
}

/// Layers of `--require`. Process-wide: the supervisor and every verb that starts a process use the same ones.
static FLAG: OnceLock<Vec<Layer>> = OnceLock::new();

/// Records the layers of `--require` for the rest of this process's life.
pub(crate) fn keep_flag(layers: Vec<Layer>) {
    // Set once, by main.
    let _ = FLAG.set(layers);
}

/// Formats the layers of `--require` for a supervisor's command line.
pub(crate) fn flag() -> Option<String> {
    let layers = FLAG.get().filter(|layers| !layers.is_empty())?;
    Some(format!("--require={}", names(layers.iter().copied(), ",")))
}

/// Returns the layers that the settings and the flag require together.
pub(crate) fn required() -> Result<BTreeSet<Layer>, SettingsError> {
    let mut required: BTreeSet<_> = settings::read()?.require.into_iter().collect();
    required.extend(FLAG.get().into_iter().flatten());
    Ok(required)
}

/// Refuses processes that lack a required layer.
pub(crate) fn check(processes: &[Process]) -> Result<(), RequirementError> {
    let required = required()?;
    if required.is_empty() {
        return Ok(());
    }
    for &process in processes {
        let confinement = probe(process).map_err(|source| RequirementError::Unknown {
            process: process.name(),
            required: names(required.iter().copied(), ", "),
            source,
        })?;
        compare(process, &confinement, &required)?;
    }
    Ok(())
}

fn compare(process: Process, confinement: &Confinement, required: &BTreeSet<Layer>) -> Result<(), RequirementError> {
    let by_design = process.does_without();
    // passt is not ours to change: no host has one with these layers.
    let is_exempt = |layer| process == Process::Passt && by_design.is_some_and(|(layers, _)| layers.contains(&layer));
    let missing: Vec<_> = required
        .iter()
        .copied()
        .filter(|layer| !confinement.has(*layer) && !is_exempt(*layer))
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let by_design = by_design.filter(|(layers, _)| layers.contains(first));
    Err(RequirementError::Missing {
        process: process.name(),
        missing: names(missing.iter().copied(), ", "),
        cure: by_design.map_or_else(|| cure(*first).into(), |(_, reason)| reason.into()),
    })
}

/// Advises how a host gets a layer.
pub(crate) fn cure(layer: Layer) -> &'static str {
    match layer {
        Layer::UserNamespace => {
            "permit user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone, and the surrounding \
             container's policy)"
        }
        Layer::User => "give the surrounding container CAP_SETUID and CAP_SETGID",
        Layer::Landlock => {
            "use a kernel with Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in lsm= at boot; for capsid-fs Linux 6.7 \
             or later)"
        }
        _ => "see what the surrounding container forbids",
    }
}

/// Joins the names of layers with `separator`.
pub(crate) fn names(layers: impl Iterator<Item = Layer>, separator: &str) -> String {
    layers.map(Layer::name).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_process_and_cure() {
        let confinement = Confinement::of(&[Layer::UserNamespace, Layer::Seccomp]);
        let compare = |required: &[Layer]| compare(Process::Vmm, &confinement, &required.iter().copied().collect());
        assert!(compare(&[]).is_ok());
        assert!(compare(&[Layer::Seccomp, Layer::UserNamespace]).is_ok());
        let error = compare(&[Layer::Seccomp, Layer::Landlock]).unwrap_err().to_string();
        assert!(
            error.contains("capsid-vmm") && error.contains("without landlock,"),
            "{error}"
        );
        assert!(error.contains("lsm="), "{error}");
    }

    #[test]
    fn passt_does_without_what_no_passt_has() {
        let confinement = Confinement::of(&[Layer::Seccomp]);
        let compare = |layer| compare(Process::Passt, &confinement, &BTreeSet::from([layer]));
        assert!(compare(Layer::Landlock).is_ok() && compare(Layer::Seccomp).is_ok());
        let error = compare(Layer::UserNamespace).unwrap_err().to_string();
        assert!(error.contains("passt would run without userns,"), "{error}");
    }

    #[test]
    fn a_machine_needs_what_it_is_made_of() {
        assert_eq!(processes("kvm", false, false), [Process::Vmm]);
        let emulated = [Process::Vmm, Process::Emulator, Process::FileServer, Process::Passt];
        assert_eq!(processes("emulate", true, true), emulated);
    }
}
