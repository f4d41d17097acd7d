//! What `capsid-vmm` tells its supervisor: a few lines of JSON, each a [`Status`].

use serde::{Deserialize, Serialize};

/// One line on the status fd. Times are `CLOCK_MONOTONIC` nanoseconds, comparable between processes of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Status {
    /// Confined, everything attached, no guest instruction executed yet.
    Ready {
        /// When.
        monotonic_ns: u64,
    },
    /// The first vCPU runs.
    Running {
        /// When.
        monotonic_ns: u64,
    },
    /// The machine could not be built.
    Failed {
        /// The step and its causes, one line.
        message: String,
        /// `errno` of the first cause, 0 when there is none.
        errno: i32,
    },
    /// The machine ended; the last line.
    Exited {
        /// How.
        exit: MachineExit,
        /// Last bytes of the serial console, at most 64 KiB, lossily as text.
        console: String,
        /// Console bytes that the ring had no room for.
        console_dropped_bytes: u64,
    },
}

/// How a machine ended: every way has a name that the user sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum MachineExit {
    /// The guest asked for a reset by the keyboard controller (`reboot=k` on the kernel's command line) without
    /// having panicked: a normal end.
    Reset,
    /// The guest reset itself after its kernel had said `Kernel panic - not syncing` on the console. With
    /// `panic=-1` that is at once.
    GuestPanic,
    /// A vCPU shut down by a triple fault.
    TripleFault,
    /// KVM could not go on.
    KvmInternalError {
        /// `kvm_run.internal.suberror`.
        suberror: u32,
    },
    /// KVM refused to enter the guest (`KVM_EXIT_FAIL_ENTRY`).
    EntryFailed {
        /// Hardware reason.
        hardware_reason: u64,
    },
    /// An exit that this VMM does not know.
    UnknownExit {
        /// `kvm_run.exit_reason`.
        exit_reason: u32,
    },
    /// `KVM_RUN` itself failed.
    RunFailed {
        /// `errno`.
        errno: i32,
    },
    /// The supervisor closed its end.
    SupervisorGone,
}

impl MachineExit {
    /// Whether the guest itself brought it about.
    #[must_use]
    pub fn is_by_guest(&self) -> bool {
        matches!(self, Self::Reset | Self::GuestPanic | Self::TripleFault)
    }
}
