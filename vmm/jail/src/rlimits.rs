//! Step: resource limits, which are only ever lowered, so that no privilege is needed.

use nix::sys::resource::{getrlimit, setrlimit};

pub use nix::sys::resource::Resource;

use crate::JailError;

/// Resource limit to which the soft and the hard value are each lowered, in the resource's own unit.
#[derive(Debug, Clone, Copy)]
pub struct Rlimit {
    /// Resource that is limited.
    pub resource: Resource,
    /// Highest value that remains allowed.
    pub most: u64,
}

/// Limits on what no confined process needs.
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

/// Lowers the limits; a soft or hard value that is already lower is not changed. The limit on processes counts all of a
/// user's in its user namespace (setrlimit(2); per namespace since Linux 5.14), so it is left alone unless the calling
/// process `is_counted_alone`: other processes would use it up.
pub(crate) fn lower(limits: &[Rlimit], is_counted_alone: bool) -> Result<(), JailError> {
    let applies = |limit: &&Rlimit| is_counted_alone || limit.resource != Resource::RLIMIT_NPROC;
    for limit in limits.iter().filter(applies) {
        let fail = |errno: nix::Error| JailError::Rlimit {
            resource: name(limit.resource),
            source: errno.into(),
        };
        let (soft, hard) = getrlimit(limit.resource).map_err(fail)?;
        setrlimit(limit.resource, soft.min(limit.most), hard.min(limit.most)).map_err(fail)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Resource of the test: pending signals, a limit that nothing else in this process depends on, lowered for good.
    const RESOURCE: Resource = Resource::RLIMIT_SIGPENDING;

    #[test]
    fn a_soft_limit_is_never_raised() {
        let (_, hard) = getrlimit(RESOURCE).unwrap();
        let (soft, hard) = (hard.min(200), hard.min(1000));
        setrlimit(RESOURCE, soft, hard).unwrap();
        let lowered_to = |most| {
            let resource = RESOURCE;
            lower(&[Rlimit { resource, most }], true).unwrap();
            getrlimit(resource).unwrap()
        };
        assert_eq!(lowered_to(u64::MAX), (soft, hard));
        assert_eq!(lowered_to(hard / 2), (soft.min(hard / 2), hard / 2));
        assert_eq!(lowered_to(100), (100.min(soft), 100.min(hard)));
    }

    #[test]
    fn processes_of_others_do_not_use_up_a_limit() {
        let limit = Rlimit {
            resource: Resource::RLIMIT_NPROC,
            most: 0,
        };
        let before = getrlimit(limit.resource).unwrap();
        lower(&[limit], false).unwrap();
        assert_eq!(getrlimit(limit.resource).unwrap(), before);
    }
}
