//! Mounts over a container's root: docker's defaults, `--shm-size`, `--tmpfs`, and volumes.

use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{Mount, Tmpfs, Unit};

use super::RunRequest;
use super::binds::{self, Bind};
use super::size::{self, SizeError};
use super::volumes::{self, VolumeError, VolumeSources, Wanted};
use crate::model::{MachineSize, ShareMount, VolumeMount};

/// Reason why a mount is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MountError {
    #[error("invalid value for --shm-size")]
    ShmSize(#[source] SizeError),
    #[error("--shm-size must be more than 0")]
    ShmZero,
    #[error("invalid --tmpfs {0:?}: the path must be absolute")]
    NotAbsolute(String),
    #[error("invalid --tmpfs {path:?}: unknown option {option:?}")]
    UnknownOption { path: String, option: String },
    #[error("invalid --tmpfs {path:?}: wrong value for option {option:?}")]
    OptionValue { path: String, option: String },
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Default size of `/dev/shm`: docker's.
const SHM_BYTES: u64 = 64 << 20;
/// Size of `/dev`: docker's.
const DEV_BYTES: u64 = 64 << 20;

/// Percentage of the machine's memory, from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Percent(u8);

impl Percent {
    fn parse(text: &str) -> Option<Self> {
        text.parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(Self)
    }
}

/// Mounts of a container, and the volumes and shares that the host provides for them.
pub(crate) struct Mounts {
    /// All mounts, in order.
    pub mounts: Vec<Mount>,
    /// Volumes among the mounts.
    pub volumes: Vec<VolumeMount>,
    /// Shares among the mounts.
    pub shares: Vec<ShareMount>,
}

/// Selects the bind mounts among the wanted mounts.
pub(super) fn binds(wanted: &[Wanted]) -> Vec<Bind> {
    let binds = wanted.iter().filter_map(|one| match one {
        Wanted::Bind(bind) => Some(bind.clone()),
        Wanted::Volume { .. } | Wanted::Tmpfs(..) => None,
    });
    binds.collect()
}

/// Computes all mounts of a container.
pub(super) fn resolve(
    request: &RunRequest,
    image_volumes: &[String],
    sources: VolumeSources,
    in_pod: bool,
    machine: MachineSize,
) -> Result<Mounts, MountError> {
    let shm = if in_pod {
        Source::PodShm(Unit {})
    } else {
        memory(shm_bytes(request.flags.shm_size.as_deref())?, 0o1777)
    };
    let (volumes, shares) = volumes::resolve(&request.mounts, image_volumes, sources)?;
    let tmpfs = request.mounts.iter().filter_map(|one| match one {
        Wanted::Tmpfs(mount, percent) => Some(sized(mount.clone(), *percent, machine)),
        Wanted::Volume { .. } | Wanted::Bind(_) => None,
    });
    let mut own: Vec<Mount> = tmpfs
        .chain(volumes.iter().map(volumes::mount))
        .chain(shares.iter().map(binds::mount))
        .collect();
    // A mount inside another one comes after it.
    own.sort_by_key(|mount| mount.target.matches('/').count());
    let mut mounts = defaults(request.flags.privileged, shm);
    mounts.retain(|known| own.iter().all(|mount| mount.target != known.target));
    mounts.extend(own);
    Ok(Mounts {
        mounts,
        volumes,
        shares,
    })
}

/// Parses `--shm-size`.
pub(super) fn shm_bytes(flag: Option<&str>) -> Result<u64, MountError> {
    match flag {
        None => Ok(SHM_BYTES),
        Some(text) => match size::parse(text).map_err(MountError::ShmSize)? {
            0 => Err(MountError::ShmZero),
            bytes => Ok(bytes),
        },
    }
}

fn memory(size_bytes: u64, mode: u32) -> Source {
    Source::Tmpfs(Tmpfs {
        size_bytes,
        mode,
        uid: 0,
        gid: 0,
        populate: false,
    })
}

/// Parses `--tmpfs`, `-v` and `--mount`.
pub(super) fn wanted(tmpfs: &[String], volumes: &[String], mounts: &[String]) -> Result<Vec<Wanted>, MountError> {
    let mut wanted = Vec::new();
    for flag in tmpfs {
        let (mount, percent) = parse_tmpfs(flag)?;
        wanted.push(Wanted::Tmpfs(mount, percent));
    }
    for flag in volumes {
        wanted.push(volumes::parse_volume(flag)?);
    }
    for flag in mounts {
        wanted.push(volumes::parse_mount(flag)?);
    }
    Ok(wanted)
}

fn defaults(privileged: bool, shm: Source) -> Vec<Mount> {
    let closed = |target: &str, source| Mount {
        target: target.into(),
        source: Some(source),
        readonly: false,
        noexec: true,
        nosuid: true,
        nodev: true,
    };
    vec![
        closed("/proc", Source::Proc(Unit {})),
        Mount {
            nodev: false,
            // Programs map /dev/zero with code in it, so it is executable.
            noexec: false,
            ..closed("/dev", memory(DEV_BYTES, 0o755))
        },
        Mount {
            nodev: false,
            ..closed("/dev/pts", Source::Devpts(Unit {}))
        },
        Mount {
            readonly: !privileged,
            ..closed("/sys", Source::Sysfs(Unit {}))
        },
        Mount {
            readonly: !privileged,
            ..closed("/sys/fs/cgroup", Source::Cgroup(Unit {}))
        },
        closed("/dev/mqueue", Source::Mqueue(Unit {})),
        closed("/dev/shm", shm),
    ]
}

/// Sets the size of a tmpfs, which may be a percentage of the machine's memory.
fn sized(mut mount: Mount, percent: Option<Percent>, machine: MachineSize) -> Mount {
    if let (Some(Source::Tmpfs(tmpfs)), Some(Percent(percent))) = (&mut mount.source, percent) {
        tmpfs.size_bytes = (u64::from(machine.memory_mib) << 20) / 100 * u64::from(percent);
    }
    mount
}

/// Parses `PATH[:OPTION,...]`: docker mounts a tmpfs `noexec,nosuid,nodev` unless told otherwise. The size may be in
/// percent.
fn parse_tmpfs(flag: &str) -> Result<(Mount, Option<Percent>), MountError> {
    let (path, options) = flag.split_once(':').unwrap_or((flag, ""));
    if !path.starts_with('/') || path == "/" {
        return Err(MountError::NotAbsolute(path.into()));
    }
    let mut tmpfs = Tmpfs {
        size_bytes: 0,
        mode: 0o1777,
        uid: 0,
        gid: 0,
        populate: true,
    };
    let mut percent = None;
    let mut mount = Mount {
        target: path.into(),
        source: None,
        readonly: false,
        noexec: true,
        nosuid: true,
        nodev: true,
    };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let wrong = || MountError::OptionValue {
            path: path.into(),
            option: option.into(),
        };
        match option.split_once('=').unwrap_or((option, "")) {
            ("rw", "") => mount.readonly = false,
            ("ro", "") => mount.readonly = true,
            ("exec", "") => mount.noexec = false,
            ("noexec", "") => mount.noexec = true,
            ("suid", "") => mount.nosuid = false,
            ("nosuid", "") => mount.nosuid = true,
            ("dev", "") => mount.nodev = false,
            ("nodev", "") => mount.nodev = true,
            ("size", value) => match value.strip_suffix('%') {
                None => (tmpfs.size_bytes, percent) = (size::parse(value).map_err(|_| wrong())?, None),
                Some(number) => percent = Some(Percent::parse(number).ok_or_else(wrong)?),
            },
            ("mode", value) => {
                tmpfs.mode = u32::from_str_radix(value, 8)
                    .ok()
                    .filter(|m| *m <= 0o7777)
                    .ok_or_else(wrong)?;
            }
            ("uid", value) => tmpfs.uid = value.parse().map_err(|_| wrong())?,
            ("gid", value) => tmpfs.gid = value.parse().map_err(|_| wrong())?,
            _ => {
                return Err(MountError::UnknownOption {
                    path: path.into(),
                    option: option.into(),
                });
            }
        }
    }
    mount.source = Some(Source::Tmpfs(tmpfs));
    Ok((mount, percent))
}

/// Paths that docker hides.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that docker makes read-only.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Returns masked and read-only paths; none when the user asked for an open system.
pub(crate) fn system_paths(open: bool) -> (Vec<String>, Vec<String>) {
    if open {
        return (Vec::new(), Vec::new());
    }
    (MASKED.map(String::from).to_vec(), READONLY.map(String::from).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_takes_dockers_options() {
        let (mount, percent) = parse_tmpfs("/run:rw,exec,size=64k,mode=755").unwrap();
        assert_eq!(percent, None);
        assert!(!mount.noexec && mount.nosuid && !mount.readonly);
        let Some(Source::Tmpfs(tmpfs)) = mount.source else {
            panic!()
        };
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (65_536, 0o755));
        for wrong in [
            "run",
            "/",
            "/run:fly",
            "/run:size=x",
            "/run:size=0%",
            "/run:size=101%",
            "/run:mode=9",
        ] {
            assert!(parse_tmpfs(wrong).is_err(), "{wrong}");
        }
        let (mount, percent) = parse_tmpfs("/run:size=10%").unwrap();
        let machine = MachineSize {
            vcpus: 1,
            memory_mib: 1000,
        };
        let Some(Source::Tmpfs(tmpfs)) = sized(mount, percent, machine).source else {
            panic!()
        };
        assert_eq!(tmpfs.size_bytes, 104_857_600);
    }
}
