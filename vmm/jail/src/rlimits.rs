//! Step: resource limits, only ever lowered, so that no privilege is needed.

use nix::sys::resource::{getrlimit, setrlimit};

pub use nix::sys::resource::Resource;

use crate::JailError;

/// A limit that both the soft and the hard value are lowered to, in the resource's own unit.
#[derive(Debug, Clone, Copy)]
pub struct Rlimit {
    /// What is limited.
    pub resource: Resource,
    /// The most that is left.
    pub most: u64,
}

/// What no confined process needs.
pub(crate) const ALWAYS: &[Rlimit] = &[
    // Memory of a guest or of an image must not reach the disk.
    Rlimit {
        resource: Resource::RLIMIT_CORE,
        most: 0,
    },
    // Nothing locks memory; 64 KiB is the traditional default.
    Rlimit {
        resource: Resource::RLIMIT_MEMLOCK,
        most: 64 << 10,
    },
    Rlimit {
        resource: Resource::RLIMIT_MSGQUEUE,
        most: 0,
    },
    Rlimit {
        resource: Resource::RLIMIT_RTPRIO,
        most: 0,
    },
];

/// Lowers the limits; one that is lower already stays.
pub(crate) fn lower(limits: &[Rlimit]) -> Result<(), JailError> {
    for limit in limits {
        let fail = |errno: nix::Error| JailError::Rlimit {
            resource: name(limit.resource),
            source: errno.into(),
        };
        let (_, hard) = getrlimit(limit.resource).map_err(fail)?;
        let most = hard.min(limit.most);
        setrlimit(limit.resource, most, most).map_err(fail)?;
    }
    Ok(())
}

fn name(resource: Resource) -> &'static str {
    match resource {
        Resource::RLIMIT_AS => "AS",
        Resource::RLIMIT_CORE => "CORE",
        Resource::RLIMIT_CPU => "CPU",
        Resource::RLIMIT_DATA => "DATA",
        Resource::RLIMIT_FSIZE => "FSIZE",
        Resource::RLIMIT_MEMLOCK => "MEMLOCK",
        Resource::RLIMIT_MSGQUEUE => "MSGQUEUE",
        Resource::RLIMIT_NOFILE => "NOFILE",
        Resource::RLIMIT_NPROC => "NPROC",
        Resource::RLIMIT_RTPRIO => "RTPRIO",
        _ => "resource",
    }
}
