//! Probe of `/dev/kvm`: whether it can run a guest kernel.
//!
//! Opening it proves little: some hosts offer a `/dev/kvm` whose hypervisor interprets the kernel mode of its guests
//! one instruction at a time, hundreds of times slower and with instructions missing. The probe therefore runs a few
//! thousand instructions in ring 0 of a machine of its own, which takes a real KVM well under a millisecond.

mod cache;
mod guest;
mod machine;
mod sys;

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};

use machine::{ProbeEnd, ProbeError};

/// Path of the KVM device.
pub(crate) const KVM_DEVICE: &str = "/dev/kvm";
/// Only version of the API since Linux 2.6.22; the kernel's own documentation says to refuse others.
const API_VERSION: i32 = 12;

/// Capabilities of KVM that Capsid's machines require.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Result of the probe. `Display` is one line for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub(crate) enum KvmVerdict {
    /// Machines run on this KVM.
    Usable,
    /// The device does not exist.
    Missing,
    /// The user may not open the device.
    NotPermitted {
        /// Group that owns the device.
        group: u32,
    },
    /// The device opens, but it is not KVM.
    NotKvm {
        /// Answer of the device.
        detail: String,
    },
    /// KVM without a capability that Capsid's machines need.
    Lacking {
        /// Name of the missing `KVM_CAP_*`.
        capability: String,
    },
    /// KVM that interprets the kernel mode of guests instead of running it.
    EmulatedRing0 {
        /// Evidence of the interpretation.
        detail: String,
    },
    /// The probe itself failed.
    Failed {
        /// Failed step and its cause.
        detail: String,
    },
}

impl KvmVerdict {
    /// Whether machines can run on this KVM.
    pub(crate) fn is_usable(&self) -> bool {
        *self == KvmVerdict::Usable
    }

    /// Whether the verdict is about the hypervisor and thus the same until the next boot. Other verdicts are quick to
    /// obtain again, and people change their causes (`modprobe`, `usermod`).
    fn is_lasting(&self) -> bool {
        matches!(self, KvmVerdict::Usable | KvmVerdict::EmulatedRing0 { .. })
    }
}

impl fmt::Display for KvmVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvmVerdict::Usable => f.write_str("/dev/kvm runs guest kernels"),
            KvmVerdict::Missing => f.write_str("there is no /dev/kvm"),
            KvmVerdict::NotPermitted { group } => {
                write!(f, "/dev/kvm may not be opened by this user (its group is {group})")
            }
            KvmVerdict::NotKvm { detail } => write!(f, "/dev/kvm is not KVM: {detail}"),
            KvmVerdict::Lacking { capability } => write!(f, "/dev/kvm lacks {capability}"),
            KvmVerdict::EmulatedRing0 { detail } => {
                write!(f, "/dev/kvm only imitates the kernel mode of guests: {detail}")
            }
            KvmVerdict::Failed { detail } => write!(f, "/dev/kvm could not be probed: {detail}"),
        }
    }
}

/// Probes the device at `path`. Takes a few milliseconds; a guest that makes no progress is stopped within two seconds.
pub(crate) fn probe_kvm(path: &Path) -> KvmVerdict {
    let kvm = match open(path) {
        Ok(kvm) => kvm,
        Err(verdict) => return verdict,
    };
    if let Some((_, name)) = NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        return KvmVerdict::Lacking {
            capability: (*name).to_owned(),
        };
    }
    judge(machine::run(&kvm))
}

/// Returns the verdict on [`KVM_DEVICE`], remembered in `cache_dir` until the next boot. A cache that cannot be read or
/// written costs only time.
pub(crate) fn cached_verdict(cache_dir: &Path) -> KvmVerdict {
    let device = Path::new(KVM_DEVICE);
    let Some(key) = cache::Key::of(device) else {
        return probe_kvm(device);
    };
    if let Some(verdict) = cache::load(cache_dir, &key) {
        return verdict;
    }
    let verdict = probe_kvm(device);
    if verdict.is_lasting() {
        // Not worth failing for: the next start probes again.
        let _ = cache::store(cache_dir, key, &verdict);
    }
    verdict
}

fn open(path: &Path) -> Result<Kvm, KvmVerdict> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| KvmVerdict::Missing)?;
    let kvm = Kvm::new_with_path(&name).map_err(|error| match error.errno() {
        // ENXIO, ENODEV: the device node exists, its driver does not.
        libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV => KvmVerdict::Missing,
        libc::EACCES | libc::EPERM => KvmVerdict::NotPermitted {
            group: fs::metadata(path).map_or(0, |metadata| metadata.gid()),
        },
        _ => KvmVerdict::Failed {
            detail: format!("opening it: {error}"),
        },
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        -1 => Err(KvmVerdict::NotKvm {
            detail: "it does not know KVM_GET_API_VERSION".to_owned(),
        }),
        version => Err(KvmVerdict::NotKvm {
            detail: format!("its API has version {version}, not {API_VERSION}"),
        }),
    }
}

fn judge(end: Result<ProbeEnd, ProbeError>) -> KvmVerdict {
    match end {
        Ok(ProbeEnd::Passed) => KvmVerdict::Usable,
        Ok(ProbeEnd::InternalError(step)) => KvmVerdict::EmulatedRing0 {
            detail: format!("{step} in ring 0 ended in KVM_EXIT_INTERNAL_ERROR"),
        },
        Ok(ProbeEnd::Slow {
            instructions_per_second,
        }) => KvmVerdict::EmulatedRing0 {
            detail: format!(
                "ring 0 runs at {:.1} million instructions/s",
                instructions_per_second as f64 / 1e6
            ),
        },
        // Not a lasting verdict: the host may only be busy.
        Ok(ProbeEnd::TimedOut(step)) => KvmVerdict::Failed {
            detail: format!("{step} in ring 0 took more than {} ms", machine::LONGEST.as_millis()),
        },
        Ok(ProbeEnd::Strayed { step, exit }) => KvmVerdict::Failed {
            detail: format!("{step} ended in {exit}"),
        },
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            KvmVerdict::Failed {
                detail: format!("{error}{cause}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Step;

    #[test]
    fn what_is_not_there_is_missing() {
        assert_eq!(probe_kvm(Path::new("/nonexistent/kvm")), KvmVerdict::Missing);
        assert_eq!(probe_kvm(Path::new("/dev/null/kvm")), KvmVerdict::Missing);
    }

    #[test]
    fn another_device_is_not_kvm() {
        assert!(matches!(probe_kvm(Path::new("/dev/null")), KvmVerdict::NotKvm { .. }));
    }

    #[test]
    fn ends_become_verdicts() {
        assert!(judge(Ok(ProbeEnd::Passed)).is_usable());
        for end in [
            ProbeEnd::InternalError(Step::Breakpoint),
            ProbeEnd::Slow {
                instructions_per_second: 1_700_000,
            },
        ] {
            let verdict = judge(Ok(end));
            assert!(
                matches!(verdict, KvmVerdict::EmulatedRing0 { .. }) && verdict.is_lasting(),
                "{verdict}"
            );
        }
        let strayed = judge(Ok(ProbeEnd::Strayed {
            step: Step::Loop,
            exit: "Shutdown".to_owned(),
        }));
        assert!(matches!(strayed, KvmVerdict::Failed { .. }) && !strayed.is_lasting());
    }

    /// Tests this machine's device: the probe returns a verdict in time, and the same one again.
    #[test]
    fn the_probe_is_quick_and_repeats_itself() {
        let device = Path::new(KVM_DEVICE);
        let start = std::time::Instant::now();
        let first = probe_kvm(device);
        let took = start.elapsed();
        println!("{first} ({took:?})");
        assert!(took < machine::LONGEST * 10, "{took:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let kind = std::mem::discriminant(&first);
        assert_eq!(std::mem::discriminant(&cached_verdict(folder.path())), kind);
        assert_eq!(std::mem::discriminant(&cached_verdict(folder.path())), kind);
        assert_eq!(
            folder.path().read_dir().expect("a folder").count(),
            usize::from(first.is_lasting())
        );
    }
}
