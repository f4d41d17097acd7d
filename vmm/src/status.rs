//! Status reports of `capsid-vmm` to its supervisor: a few lines of JSON, each a [`Status`].

use serde::{Deserialize, Serialize};

/// Status report, one line on the status fd. Times are `CLOCK_MONOTONIC` nanoseconds, comparable between processes of
/// one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Status {
    /// The machine is confined and everything is attached; no guest instruction has been executed yet.
    Ready {
        /// Time of the report in nanoseconds.
        monotonic_ns: u64,
    },
    /// The first vCPU runs.
    Running {
        /// Time of the report in nanoseconds.
        monotonic_ns: u64,
    },
    /// The machine could not be built.
    Failed {
        /// Failed step and its causes, one line.
        message: String,
        /// Error number (`errno`) of the first cause, 0 when there is none.
        errno: i32,
    },
    /// The machine ended; this is the last line.
    Exited {
        /// Exit reason.
        exit: MachineExit,
        /// Last bytes of the serial console, at most 64 KiB, lossily as text.
        console: String,
        /// Number of console bytes that the ring had no room for.
        console_dropped_bytes: u64,
    },
}

/// Exit reason of a machine; each has a name that the user sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum MachineExit {
    /// The guest requested a reset by the keyboard controller (`reboot=k` on the kernel's command line) without having
    /// panicked: a normal end.
    Reset,
    /// The guest reset itself after its kernel had written `Kernel panic - not syncing` to the console. With `panic=-1`
    /// the reset follows at once.
    GuestPanic,
    /// A vCPU shut down by a triple fault.
    TripleFault,
    /// KVM could not continue (`KVM_EXIT_INTERNAL_ERROR`).
    KvmInternalError {
        /// Value of `kvm_run.internal.suberror`.
        suberror: u32,
    },
    /// KVM refused to enter the guest (`KVM_EXIT_FAIL_ENTRY`).
    EntryFailed {
        /// Hardware reason of the refusal.
        hardware_reason: u64,
    },
    /// KVM returned an exit that this VMM does not know.
    UnknownExit {
        /// Value of `kvm_run.exit_reason`.
        exit_reason: u32,
    },
    /// `KVM_RUN` itself failed.
    RunFailed {
        /// Error number (`errno`) of the call.
        errno: i32,
    },
    /// The supervisor closed its end of the status fd.
    SupervisorGone,
}

impl MachineExit {
    /// Whether the guest itself caused the end.
    #[must_use]
    pub fn is_by_guest(&self) -> bool {
        matches!(self, Self::Reset | Self::GuestPanic | Self::TripleFault)
    }
}
