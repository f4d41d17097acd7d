//! Steps over a container's root, as data: a pure function from the spec, executed by [`crate::mount`].

use std::path::PathBuf;

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{DeviceType, Mount, Tmpfs};

/// Mount attributes, `MOUNT_ATTR_*` of `linux/mount.h`.
pub(crate) mod attribute {
    pub(crate) const READONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const NOATIME: u64 = 0x10;
}

/// One step over the root. Paths are the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Mounts a filesystem; with `populate`, copies the image's files at `target` into it first.
    Mount {
        target: PathBuf,
        filesystem: &'static str,
        options: Vec<(&'static str, String)>,
        attributes: u64,
        populate: bool,
    },
    /// Mounts the ext4 disk with a serial; with `populate` and while it is empty, copies the image's files at `target`
    /// into it first.
    Volume {
        target: PathBuf,
        serial: String,
        attributes: u64,
        populate: bool,
    },
    /// Binds the memory that the containers of the pod share.
    Shm { target: PathBuf, attributes: u64 },
    /// Mounts a folder or file of the host.
    Share {
        target: PathBuf,
        tag: String,
        is_file: bool,
        attributes: u64,
    },
    /// Makes a device node.
    Device {
        path: PathBuf,
        block: bool,
        major: u32,
        minor: u32,
        mode: u32,
    },
    /// Makes a symbolic link, unless something is there.
    Link { path: PathBuf, to: &'static str },
    /// Opens the container's terminal and binds it to `/dev/console`.
    Terminal,
    /// Binds a small file, `index` of the spec's list.
    File { path: PathBuf, index: usize },
    /// Makes the working directory if it is missing.
    WorkingDirectory { path: PathBuf },
    /// Covers a path with an empty file or folder.
    Mask { path: PathBuf },
    /// Binds a path to itself, read-only.
    ReadOnly { path: PathBuf },
    /// Makes the root read-only.
    ReadOnlyRoot,
}

/// Returns the steps for `spec`, in order.
pub(crate) fn plan(spec: &ContainerSpec) -> Vec<Step> {
    let mut steps: Vec<Step> = spec.mounts.iter().filter_map(mount_step).collect();
    // After the mounts: the nodes and links lie in the tmpfs that the spec mounts at /dev.
    steps.extend(spec.devices.iter().map(|d| Step::Device {
        path: d.path.clone().into(),
        block: d.kind() == DeviceType::Block,
        major: d.major,
        minor: d.minor,
        mode: d.mode,
    }));
    for (path, to) in DEVICE_LINKS {
        steps.push(Step::Link { path: path.into(), to });
    }
    if spec.terminal.is_some() {
        // After devpts is mounted.
        steps.push(Step::Terminal);
    }
    steps.extend(spec.files.iter().enumerate().map(|(index, f)| Step::File {
        path: f.path.clone().into(),
        index,
    }));
    steps.push(Step::WorkingDirectory {
        path: spec.cwd.clone().into(),
    });
    // After everything that could be below a covered path.
    steps.extend(spec.readonly_paths.iter().map(|p| Step::ReadOnly { path: p.into() }));
    steps.extend(spec.masked_paths.iter().map(|p| Step::Mask { path: p.into() }));
    if spec.root.readonly {
        // Last: every step before may have to make its target.
        steps.push(Step::ReadOnlyRoot);
    }
    steps
}

/// Links of `/dev` that every Linux program may expect.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Returns the step for one mount; a source newer than this build has none (validation refuses it before).
fn mount_step(mount: &Mount) -> Option<Step> {
    let attributes = attributes(mount);
    let (filesystem, options, populate) = match mount.source.as_ref()? {
        Source::Proc(_) => ("proc", vec![], false),
        Source::Sysfs(_) => ("sysfs", vec![], false),
        Source::Cgroup(_) => ("cgroup2", vec![], false),
        Source::Devpts(_) => (
            "devpts",
            vec![
                ("ptmxmode", "0666".to_owned()),
                ("mode", "0620".to_owned()),
                // Group 5 is "tty" in every distribution.
                ("gid", "5".to_owned()),
            ],
            false,
        ),
        Source::Mqueue(_) => ("mqueue", vec![], false),
        Source::Tmpfs(tmpfs) => ("tmpfs", tmpfs_options(tmpfs), tmpfs.populate),
        Source::PodShm(_) => {
            return Some(Step::Shm {
                target: mount.target.clone().into(),
                attributes,
            });
        }
        Source::Volume(volume) => {
            return Some(Step::Volume {
                target: mount.target.clone().into(),
                serial: volume.serial.clone(),
                attributes: attributes | attribute::NODEV | attribute::NOATIME,
                populate: volume.populate,
            });
        }
        Source::Share(share) => {
            return Some(Step::Share {
                target: mount.target.clone().into(),
                tag: share.tag.clone(),
                is_file: share.is_file,
                attributes,
            });
        }
    };
    Some(Step::Mount {
        target: mount.target.clone().into(),
        filesystem,
        options,
        attributes,
        populate,
    })
}

/// Returns the attributes of a mount.
fn attributes(mount: &Mount) -> u64 {
    let mut attributes = 0;
    for (wanted, bit) in [
        (mount.readonly, attribute::READONLY),
        (mount.nosuid, attribute::NOSUID),
        (mount.nodev, attribute::NODEV),
        (mount.noexec, attribute::NOEXEC),
    ] {
        if wanted {
            attributes |= bit;
        }
    }
    attributes
}

/// Returns the mount options of a tmpfs.
fn tmpfs_options(tmpfs: &Tmpfs) -> Vec<(&'static str, String)> {
    let mut options = vec![
        ("mode", format!("{:o}", tmpfs.mode)),
        ("uid", tmpfs.uid.to_string()),
        ("gid", tmpfs.gid.to_string()),
    ];
    if tmpfs.size_bytes > 0 {
        options.push(("size", tmpfs.size_bytes.to_string()));
    }
    options
}

#[cfg(test)]
mod tests {
    use capsid_protocol::spec::{Device, File, TerminalSize, Unit, Volume};

    use super::*;

    fn mount(target: &str, source: Source) -> Mount {
        Mount {
            target: target.into(),
            source: Some(source),
            nosuid: true,
            ..Mount::default()
        }
    }

    #[test]
    fn the_plan_of_an_ordinary_container() {
        let spec = ContainerSpec {
            cwd: "/work".into(),
            terminal: Some(TerminalSize { rows: 24, columns: 80 }),
            mounts: vec![
                mount("/proc", Source::Proc(Unit {})),
                mount(
                    "/dev",
                    Source::Tmpfs(Tmpfs {
                        size_bytes: 65536,
                        mode: 0o755,
                        ..Tmpfs::default()
                    }),
                ),
                mount("/dev/pts", Source::Devpts(Unit {})),
                Mount {
                    readonly: true,
                    noexec: true,
                    nodev: true,
                    ..mount("/sys", Source::Sysfs(Unit {}))
                },
            ],
            devices: vec![Device {
                path: "/dev/null".into(),
                kind: 0,
                major: 1,
                minor: 3,
                mode: 0o666,
                ..Device::default()
            }],
            files: vec![File {
                path: "/etc/hosts".into(),
                ..File::default()
            }],
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            ..ContainerSpec::default()
        };
        let lines: Vec<String> = plan(&spec).iter().map(|s| format!("{s:?}")).collect();
        let expected = r#"Mount { target: "/proc", filesystem: "proc", options: [], attributes: 2, populate: false }
Mount { target: "/dev", filesystem: "tmpfs", options: [("mode", "755"), ("uid", "0"), ("gid", "0"), ("size", "65536")], attributes: 2, populate: false }
Mount { target: "/dev/pts", filesystem: "devpts", options: [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")], attributes: 2, populate: false }
Mount { target: "/sys", filesystem: "sysfs", options: [], attributes: 15, populate: false }
Device { path: "/dev/null", block: false, major: 1, minor: 3, mode: 438 }
Link { path: "/dev/fd", to: "/proc/self/fd" }
Link { path: "/dev/stdin", to: "/proc/self/fd/0" }
Link { path: "/dev/stdout", to: "/proc/self/fd/1" }
Link { path: "/dev/stderr", to: "/proc/self/fd/2" }
Link { path: "/dev/ptmx", to: "pts/ptmx" }
Terminal
File { path: "/etc/hosts", index: 0 }
WorkingDirectory { path: "/work" }
ReadOnly { path: "/proc/sys" }
Mask { path: "/proc/kcore" }"#;
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn a_volume_honours_set_user_id_but_no_devices() {
        let spec = ContainerSpec {
            cwd: "/".into(),
            mounts: vec![Mount {
                nosuid: false,
                ..mount(
                    "/data",
                    Source::Volume(Volume {
                        serial: "vol-1".into(),
                        populate: true,
                    }),
                )
            }],
            ..ContainerSpec::default()
        };
        let expected = Step::Volume {
            target: "/data".into(),
            serial: "vol-1".into(),
            attributes: attribute::NODEV | attribute::NOATIME,
            populate: true,
        };
        assert_eq!(plan(&spec).first(), Some(&expected));
    }

    #[test]
    fn a_read_only_root_is_made_so_last() {
        let mut spec = ContainerSpec {
            cwd: "/".into(),
            ..ContainerSpec::default()
        };
        spec.root.readonly = true;
        assert_eq!(plan(&spec).last(), Some(&Step::ReadOnlyRoot));
    }
}
