//! Emulator: another VMM, confined like ours. Where there is no usable KVM, QEMU runs the guest's instructions.
//!
//! ```text
//!   supervisor ── config, open files ──► capsid-vmm ── jail ── filters ── execve ──► QEMU
//! ```
//!
//! QEMU is a program of the host's: it needs its libraries and firmware, opens files by path and generates code at run
//! time. So its root directory holds just these files ([`capsid_jail::Program`]), and its filter permits far more calls
//! than those of our own threads. QEMU's own `-sandbox` is applied in addition.

mod filters;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use capsid_jail::{FilterError, Jail, JailError, Program, ProgramFile, Resource, Rlimit};

use crate::config::EmulatorConfig;

/// Number of fds besides those of vCPUs: the inherited ones, those that QEMU opens for itself (event and signal fds, a
/// memory file), and some to spare.
const OTHER_FDS: u64 = 256;
/// Number of fds per vCPU: block devices have a queue for each, with three event fds, and a machine has up to eight
/// devices.
const VCPU_FDS: u64 = 24;
/// Number of threads besides vCPUs: relay, main loop, RCU, and the workers that QEMU's thread pool may have at a time.
const OTHER_THREADS: u64 = 16;

/// Reason why QEMU does not run confined.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// A word of QEMU's command line has a NUL byte.
    #[error("a word of the emulator's command line has a NUL byte")]
    Word(#[source] std::ffi::NulError),
    /// QEMU's system call filter cannot be made.
    #[error("cannot filter the emulator's system calls")]
    Filter(#[source] FilterError),
    /// QEMU cannot be confined.
    #[error("cannot confine the emulator, and will not emulate without that (see `capsid doctor`)")]
    Confine(#[source] JailError),
}

/// Becomes the emulator. Returns only on failure.
///
/// # Errors
/// [`EmulatorError`].
pub fn execute(config: &EmulatorConfig) -> Result<std::convert::Infallible, EmulatorError> {
    let program = program(config).map_err(EmulatorError::Word)?;
    let filters = filters::all().map_err(EmulatorError::Filter)?;
    jail(config).execute(&program, &filters).map_err(EmulatorError::Confine)
}

fn program(config: &EmulatorConfig) -> Result<Program, std::ffi::NulError> {
    let word = |word: &String| CString::new(word.as_bytes());
    let mut arguments = vec![CString::new(config.executable.as_os_str().as_bytes())?];
    for argument in &config.arguments {
        arguments.push(word(argument)?);
    }
    Ok(Program {
        executable: config.executable.clone(),
        files: config
            .files
            .iter()
            .map(|file| ProgramFile {
                source: file.source.clone(),
                name: file.name.clone(),
            })
            .collect(),
        arguments,
        environment: config.environment.iter().map(word).collect::<Result<_, _>>()?,
        reopened_fds: config.reopened_fds.clone(),
        reports: config.reports,
    })
}

fn jail(config: &EmulatorConfig) -> Jail {
    let mut keep_fds = [&config.fds[..], &config.reopened_fds].concat();
    keep_fds.push(2);
    keep_fds.extend(config.reports.then_some(1));
    let rlimit = |resource, most| Rlimit { resource, most };
    Jail {
        keep_fds,
        rlimits: vec![
            rlimit(Resource::RLIMIT_NOFILE, OTHER_FDS + VCPU_FDS * u64::from(config.vcpus)),
            rlimit(Resource::RLIMIT_NPROC, u64::from(config.vcpus) + OTHER_THREADS),
            // The only file that QEMU may extend is the guest's memory.
            rlimit(Resource::RLIMIT_FSIZE, u64::from(config.memory_mib) << 20),
        ],
        pid_namespace: true,
    }
}
