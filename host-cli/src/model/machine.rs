//! The machine of a pod: its size, and how guest instructions run.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Size of the machine that the limits require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct MachineSize {
    pub vcpus: u8,
    pub memory_mib: u32,
}

/// Accelerator that the user chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AccelChoice {
    /// kvm where it is real, else emulate with a warning
    Auto,
    /// Hardware virtualisation
    Kvm,
    /// Software emulation: works everywhere, is slower and no security boundary
    Emulate,
}

impl AccelChoice {
    /// Returns the accelerator of this name.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "kvm" => Self::Kvm,
            _ => Self::Emulate,
        }
    }

    /// Returns the accelerator's name, as the user writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Emulate => "emulate",
        }
    }
}
