//! Life of one `capsid-vmm` process: read the config, confine, build, run, notify the supervisor.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use capsid_jail::{Jail, JailError, ReportError, Resource, Rlimit};

use crate::config::{Config, FdNumber, MachineConfig, VhostUserConfig};
use crate::disk_slots::SLOT_BYTES;
use crate::emulator::{self, EmulatorError};
use crate::inherited::{Inherited, InheritedError};
use crate::limits::{CONFIG_BYTES, DISK_SLOTS_FDS_MAX};
use crate::machine::{BuildError, Machine};
use crate::segments::SEGMENTS_MAX;
use crate::status::{MachineExit, Status};
use crate::switch::{self, SwitchError};
use crate::sys;
use crate::vhost_user::{self, ServeError};

/// Maximum number of fds: those inherited, those of the machine, and one for each of vsock's streams.
const FDS_MAX: u64 = 1024;
/// Number of threads besides vCPUs: relay, event loop, and the thread that KVM starts for itself at the first run
/// (`kvm-nx-lpage-recovery`).
const OTHER_THREADS: u64 = 3;
/// Slack in bytes on the largest disk, for the log on stderr.
const FILE_SLACK_BYTES: u64 = 1 << 20;

/// Reason why the process did not run a machine to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The config's fd could not be taken.
    #[error("cannot take the config from the supervisor")]
    TakeConfig(#[source] InheritedError),
    /// The config could not be read.
    #[error("cannot read the config")]
    ReadConfig(#[source] std::io::Error),
    /// The config could not be parsed.
    #[error("the config is not one of this version")]
    ParseConfig(#[source] serde_json::Error),
    /// The status fd could not be taken.
    #[error("cannot take the status fd from the supervisor")]
    TakeStatus(#[source] InheritedError),
    /// The process could not be confined.
    #[error("cannot confine this process")]
    Confine(#[source] JailError),
    /// The machine could not be built.
    #[error("cannot build the machine")]
    Build(#[source] BuildError),
    /// The devices for another VMM could not be served.
    #[error("cannot serve the devices")]
    Serve(#[source] ServeError),
    /// The link between machines failed.
    #[error("cannot carry frames")]
    Switch(#[source] SwitchError),
    /// The report of what confines this process failed.
    #[error("cannot report what confines this process")]
    Report(#[source] ReportError),
    /// The other VMM could not be started.
    #[error("cannot emulate")]
    Emulate(#[source] EmulatorError),
    /// The supervisor does not read the status.
    #[error("cannot notify the supervisor")]
    Tell(#[source] std::io::Error),
}

impl ProcessError {
    /// Returns the `errno` of the first cause that has one, else 0.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let io = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error);
            let kvm = error.downcast_ref::<kvm_ioctls::Error>().map(|error| error.errno());
            if let Some(errno) = io.or(kvm) {
                return errno;
            }
            cause = error.source();
        }
        0
    }

    /// Formats the step and its causes as one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries print their cause as well.
            if !line.ends_with(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        line
    }
}

/// Does the work that the config on fd `config_fd` describes.
///
/// # Errors
/// [`ProcessError`]; the supervisor has been notified where that was possible.
pub fn run(config_fd: FdNumber) -> Result<(), ProcessError> {
    sys::use_one_heap();
    match read_config(config_fd)? {
        Config::Machine(config) => run_machine(&config),
        Config::VhostUser(config) => run_vhost_user(&config),
        Config::Switch(config) => {
            let mut inherited = Inherited::new(&[config.listener_fd, config.lock_fd]);
            switch::serve(&config, &mut inherited).map_err(ProcessError::Switch)
        }
        Config::Emulator(config) => match emulator::execute(&config).map_err(ProcessError::Emulate)? {},
    }
}

/// Enters the jail of a machine and reports on stdout what it consists of.
///
/// # Errors
/// [`ProcessError`]: this process cannot be confined on this host.
pub fn report_confinement() -> Result<(), ProcessError> {
    let jail = Jail {
        keep_fds: vec![1, 2],
        rlimits: vec![Rlimit {
            resource: Resource::RLIMIT_NOFILE,
            most: FDS_MAX,
        }],
        pid_namespace: true,
    };
    let confinement = jail.enter().map_err(ProcessError::Confine)?;
    capsid_jail::report(confinement).map_err(ProcessError::Report)
}

fn read_config(number: FdNumber) -> Result<Config, ProcessError> {
    let file = Inherited::new(&[number])
        .take_file(number)
        .map_err(ProcessError::TakeConfig)?;
    let mut json = Vec::new();
    file.take(CONFIG_BYTES)
        .read_to_end(&mut json)
        .map_err(ProcessError::ReadConfig)?;
    serde_json::from_slice(&json).map_err(ProcessError::ParseConfig)
}

fn run_machine(config: &MachineConfig) -> Result<(), ProcessError> {
    let mut inherited = Inherited::new(&config.fds());
    let status = StatusLine(
        inherited
            .take_file(config.status_fd)
            .map_err(ProcessError::TakeStatus)?,
    );
    let result = confine_and_run(config, &mut inherited, &status);
    status.report_failure(&result);
    result
}

fn run_vhost_user(config: &VhostUserConfig) -> Result<(), ProcessError> {
    let mut inherited = Inherited::new(&config.fds());
    let status = StatusLine(
        inherited
            .take_file(config.status_fd)
            .map_err(ProcessError::TakeStatus)?,
    );
    let ready = || {
        // A supervisor that does not listen is gone, and QEMU then ends as well.
        let _ = status.send(&Status::Ready {
            monotonic_ns: sys::monotonic_ns(),
        });
    };
    let result = vhost_user::serve(config, &mut inherited, &status.0, ready).map_err(ProcessError::Serve);
    status.report_failure(&result);
    result
}

fn confine_and_run(config: &MachineConfig, inherited: &mut Inherited, status: &StatusLine) -> Result<(), ProcessError> {
    machine_jail(config).enter().map_err(ProcessError::Confine)?;
    let machine = Machine::build(config, inherited, status.0.as_raw_fd()).map_err(ProcessError::Build)?;
    status.send(&Status::Ready {
        monotonic_ns: sys::monotonic_ns(),
    })?;
    let mut sent = Ok(());
    let end = machine.run(|| {
        sent = status.send(&Status::Running {
            monotonic_ns: sys::monotonic_ns(),
        })
    });
    if end.exit == MachineExit::SupervisorGone {
        return Ok(());
    }
    sent?;
    let console_dropped_bytes = end.console_dropped_bytes;
    status.send(&Status::Exited {
        exit: end.exit,
        console: end.console,
        console_dropped_bytes,
    })
}

/// Jail of a machine: its fds and stderr stay, and it is pid 1 of a pid namespace of its own.
fn machine_jail(config: &MachineConfig) -> Jail {
    let mut keep_fds = config.fds();
    keep_fds.push(2);
    let rlimits = vec![
        Rlimit {
            resource: Resource::RLIMIT_NOFILE,
            most: FDS_MAX
                + SEGMENTS_MAX as u64
                + if config.disk_slots.is_some() {
                    DISK_SLOTS_FDS_MAX
                } else {
                    0
                },
        },
        Rlimit {
            resource: Resource::RLIMIT_NPROC,
            most: u64::from(config.vcpus) + OTHER_THREADS,
        },
        Rlimit {
            resource: Resource::RLIMIT_FSIZE,
            most: largest_disk_bytes(config).max(memory_file_bytes(config)) + FILE_SLACK_BYTES,
        },
    ];
    Jail {
        keep_fds,
        rlimits,
        pid_namespace: true,
    }
}

/// Length of the longest file that the guest may write to.
fn largest_disk_bytes(config: &MachineConfig) -> u64 {
    if config.disk_slots.is_some() {
        return SLOT_BYTES;
    }
    let writable = config
        .disks
        .iter()
        .filter(|disk| !disk.readonly)
        .flat_map(|disk| &disk.extent_fds);
    writable.filter_map(|&fd| sys::file_bytes(fd)).max().unwrap_or(0)
}

/// Length of the file that holds guest memory; 0 if there is none.
fn memory_file_bytes(config: &MachineConfig) -> u64 {
    if config.shares.is_empty() {
        0
    } else {
        u64::from(config.memory_mib) << 20
    }
}

/// Status fd, one JSON object per line, which the supervisor reads.
#[derive(Debug)]
struct StatusLine(File);

impl StatusLine {
    fn report_failure(&self, result: &Result<(), ProcessError>) {
        if let Err(error) = result {
            // The error itself is reported by our caller too, whether the supervisor listens or not.
            let _ = self.send(&Status::Failed {
                message: error.chain(),
                errno: error.errno(),
            });
        }
    }

    fn send(&self, status: &Status) -> Result<(), ProcessError> {
        let mut line = serde_json::to_vec(status).map_err(|error| ProcessError::Tell(error.into()))?;
        line.push(b'\n');
        (&self.0).write_all(&line).map_err(ProcessError::Tell)
    }
}
