//! Validation of specs: an accepted spec is within limits and well-formed, so that no later code checks again.

use capsid_protocol::process::process_spec::Kind as Process;
use capsid_protocol::{ContainerSpec, ExecSpec, ProcessSpec};

use crate::limits::{
    ENTRIES_MAX, GROUPS_MAX, HOSTNAME_BYTES_MAX, PATH_BYTES_MAX, SECCOMP_INSTRUCTIONS_MAX, STRINGS_MAX,
};

/// Reason why a spec is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SpecError {
    /// The id is not 64 lower-case hexadecimal digits.
    #[error("the container id is not 64 lower-case hexadecimal digits")]
    Id,
    /// The process is of a kind unknown to this build.
    #[error("the spec has an unknown kind")]
    Kind,
    /// The task is unknown to this build.
    #[error("the spec has an unknown task")]
    Task,
    /// There is nothing to run.
    #[error("the spec has no program")]
    NoProgram,
    /// A list is over its limit.
    #[error("the spec has {count} {list}, more than {limit}")]
    TooMany {
        list: &'static str,
        count: usize,
        limit: usize,
    },
    /// A path is relative, too long or has a zero byte.
    #[error("not an absolute path of at most {PATH_BYTES_MAX} bytes: {0:?}")]
    Path(String),
    /// A byte string has a zero byte.
    #[error("an argument or environment variable has a zero byte")]
    ZeroByte,
    /// A host name is too long.
    #[error("the host name is over {HOSTNAME_BYTES_MAX} bytes")]
    Hostname,
    /// A mount has a source unknown to this build.
    #[error("the mount at {0:?} has no known source")]
    MountSource(String),
    /// A container or a pod may not set this kernel parameter.
    #[error("the kernel parameter {0:?} is not below net, fs, kernel, user or vm")]
    Sysctl(String),
    /// A seccomp program is not whole instructions, or has too many.
    #[error("the seccomp program of {0} bytes is not 1 to {SECCOMP_INSTRUCTIONS_MAX} instructions")]
    Seccomp(usize),
    /// Linux does not have such a device number.
    #[error("the device {0:?} has a number out of range")]
    Device(String),
}

/// Largest major and minor number of Linux (12 and 20 bits).
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// Checks that a spec is valid.
pub(crate) fn check(process: &ProcessSpec) -> Result<(), SpecError> {
    let kind = process.kind.as_ref().ok_or(SpecError::Kind)?;
    check_id(process.id())?;
    match kind {
        Process::Container(spec) => {
            check_program(&spec.args)?;
            check_container(spec)
        }
        Process::Exec(spec) => check_exec(spec),
        Process::Task(spec) => {
            spec.task.kind.as_ref().ok_or(SpecError::Task)?;
            check_id(&spec.container.id)?;
            if !spec.is_running && spec.id != spec.container.id {
                return Err(SpecError::Id);
            }
            check_container(&spec.container)
        }
    }
}

fn check_program(args: &[Vec<u8>]) -> Result<(), SpecError> {
    match args.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err(SpecError::NoProgram),
    }
}

fn check_exec(spec: &ExecSpec) -> Result<(), SpecError> {
    check_id(&spec.container)?;
    check_program(&spec.args)?;
    check_lists(&[
        ("arguments", spec.args.len(), STRINGS_MAX),
        ("environment variables", spec.env.len(), STRINGS_MAX),
        ("resource limits", spec.rlimits.len(), ENTRIES_MAX),
        ("additional groups", spec.additional_groups.len(), GROUPS_MAX),
    ])?;
    check_strings(spec.args.iter().chain(&spec.env))?;
    check_path(&spec.cwd)?;
    check_seccomp(&spec.seccomp)
}

fn check_container(spec: &ContainerSpec) -> Result<(), SpecError> {
    check_lists(&[
        ("arguments", spec.args.len(), STRINGS_MAX),
        ("environment variables", spec.env.len(), STRINGS_MAX),
        ("mounts", spec.mounts.len(), ENTRIES_MAX),
        ("devices", spec.devices.len(), ENTRIES_MAX),
        ("devices of the guest", spec.guest_devices.len(), ENTRIES_MAX),
        ("masked paths", spec.masked_paths.len(), ENTRIES_MAX),
        ("read-only paths", spec.readonly_paths.len(), ENTRIES_MAX),
        ("files", spec.files.len(), ENTRIES_MAX),
        ("slots", spec.slots.len(), ENTRIES_MAX),
        ("kernel parameters", spec.sysctls.len(), ENTRIES_MAX),
        ("resource limits", spec.rlimits.len(), ENTRIES_MAX),
        ("additional groups", spec.additional_groups.len(), GROUPS_MAX),
    ])?;
    check_strings(spec.args.iter().chain(&spec.env))?;
    if spec.hostname.len() > HOSTNAME_BYTES_MAX {
        return Err(SpecError::Hostname);
    }
    paths(spec).try_for_each(check_path)?;
    if let Some(mount) = spec.mounts.iter().find(|m| m.source.is_none()) {
        return Err(SpecError::MountSource(mount.target.clone()));
    }
    if let Some(device) = spec.devices.iter().find(|d| d.major > MAJOR_MAX || d.minor > MINOR_MAX) {
        return Err(SpecError::Device(device.path.clone()));
    }
    if let Some(sysctl) = spec.sysctls.iter().find(|s| !is_parameter(&s.name)) {
        return Err(SpecError::Sysctl(sysctl.name.clone()));
    }
    check_seccomp(&spec.seccomp)
}

fn check_seccomp(program: &[u8]) -> Result<(), SpecError> {
    let bytes = program.len();
    if !bytes.is_multiple_of(8) || bytes / 8 > SECCOMP_INSTRUCTIONS_MAX {
        return Err(SpecError::Seccomp(bytes));
    }
    Ok(())
}

fn check_strings<'a>(mut strings: impl Iterator<Item = &'a Vec<u8>>) -> Result<(), SpecError> {
    match strings.any(|string| string.contains(&0)) {
        true => Err(SpecError::ZeroByte),
        false => Ok(()),
    }
}

fn check_id(id: &str) -> Result<(), SpecError> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if id.len() == 64 && id.bytes().all(is_digit) {
        Ok(())
    } else {
        Err(SpecError::Id)
    }
}

/// Checks lists, each with its length and its limit.
fn check_lists(lists: &[(&'static str, usize, usize)]) -> Result<(), SpecError> {
    match lists.iter().find(|(_, count, limit)| count > limit) {
        Some(&(list, count, limit)) => Err(SpecError::TooMany { list, count, limit }),
        None => Ok(()),
    }
}

/// Yields every path of the container in `spec`.
fn paths(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    let mounts = spec.mounts.iter().map(|m| m.target.as_str());
    let devices = spec.devices.iter().map(|d| d.path.as_str());
    let devices = devices.chain(spec.guest_devices.iter().map(|d| d.target.as_str()));
    let files = spec.files.iter().map(|f| f.path.as_str());
    let covered = spec.masked_paths.iter().chain(&spec.readonly_paths).map(String::as_str);
    mounts
        .chain(devices)
        .chain(files)
        .chain(covered)
        .chain([spec.cwd.as_str()])
}

fn check_path(path: &str) -> Result<(), SpecError> {
    let is_good = path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0');
    if is_good {
        Ok(())
    } else {
        Err(SpecError::Path(path.to_owned()))
    }
}

/// Whether a container, or a pod, may set the kernel parameter `name`, with dots. The machine is its own, so that even
/// parameters that docker refuses because they are the host's (`vm.max_map_count`) are set here.
fn is_parameter(name: &str) -> bool {
    const TREES: [&str; 5] = ["fs", "kernel", "net", "user", "vm"];
    let is_plain = |part: &str| {
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'@');
        !part.is_empty() && part.bytes().all(is_legal)
    };
    let tree = name.split_once('.').map(|(tree, _)| tree);
    name.split('.').all(is_plain) && tree.is_some_and(|tree| TREES.contains(&tree))
}

#[cfg(test)]
mod tests {
    use capsid_protocol::TaskSpec;
    use capsid_protocol::spec::task::Kind as TaskKind;
    use capsid_protocol::spec::{Sysctl, Task, Unit};

    use super::*;

    fn checked(spec: impl Into<ProcessSpec>) -> Result<(), SpecError> {
        check(&spec.into())
    }

    fn good() -> ContainerSpec {
        ContainerSpec {
            id: "0a".repeat(32),
            args: vec![b"true".to_vec()],
            cwd: "/".into(),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn a_small_spec_is_good() {
        assert_eq!(checked(good()), Ok(()));
    }

    #[test]
    fn ids_that_are_paths_are_refused() {
        for id in ["", "..", "agent", &"A".repeat(64), &format!("../{}", "a".repeat(61))] {
            assert_eq!(
                checked(ContainerSpec {
                    id: id.into(),
                    ..good()
                }),
                Err(SpecError::Id)
            );
        }
    }

    #[test]
    fn an_exec_process_names_a_container_and_a_program() {
        let exec = |container: &str, program: &str| ExecSpec {
            id: "0a".repeat(32),
            container: container.into(),
            args: vec![program.into()],
            cwd: "/".into(),
            ..ExecSpec::default()
        };
        let id = "b".repeat(64);
        assert_eq!(checked(exec(&id, "true")), Ok(()));
        assert_eq!(checked(exec("../agent", "true")), Err(SpecError::Id));
        assert_eq!(checked(exec(&id, "")), Err(SpecError::NoProgram));
        assert_eq!(checked(exec(&id, "a\0")), Err(SpecError::ZeroByte));
        let elsewhere = ExecSpec {
            cwd: "x".into(),
            ..exec(&id, "true")
        };
        assert_eq!(checked(elsewhere), Err(SpecError::Path("x".into())));
        let open = ExecSpec {
            seccomp: vec![0; 9],
            ..exec(&id, "true")
        };
        assert_eq!(checked(open), Err(SpecError::Seccomp(9)));
    }

    #[test]
    fn a_task_needs_no_program_and_is_known() {
        let task = |kind| TaskSpec {
            id: "0a".repeat(32),
            task: Task { kind },
            container: ContainerSpec { args: vec![], ..good() },
            ..TaskSpec::default()
        };
        assert_eq!(checked(task(Some(TaskKind::Mount(Unit {})))), Ok(()));
        assert_eq!(checked(task(None)), Err(SpecError::Task));
        let unknown = TaskSpec {
            container: ContainerSpec::default(),
            ..task(Some(TaskKind::Mount(Unit {})))
        };
        assert_eq!(checked(unknown), Err(SpecError::Id));
        let another = TaskSpec {
            id: "b".repeat(64),
            ..task(Some(TaskKind::Mount(Unit {})))
        };
        assert_eq!(checked(another), Err(SpecError::Id));
        assert_eq!(check(&ProcessSpec::default()), Err(SpecError::Kind));
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(
            checked(ContainerSpec { args: vec![], ..good() }),
            Err(SpecError::NoProgram)
        );
        assert_eq!(
            checked(ContainerSpec {
                env: vec![b"A=\0".to_vec()],
                ..good()
            }),
            Err(SpecError::ZeroByte)
        );
        assert_eq!(
            checked(ContainerSpec {
                cwd: "x".into(),
                ..good()
            }),
            Err(SpecError::Path("x".into()))
        );
        assert_eq!(
            checked(ContainerSpec {
                seccomp: vec![0; 9],
                ..good()
            }),
            Err(SpecError::Seccomp(9))
        );
        assert_eq!(
            checked(ContainerSpec {
                hostname: "h".repeat(65),
                ..good()
            }),
            Err(SpecError::Hostname)
        );
    }

    #[test]
    fn parameters_of_the_machine_pass_and_paths_do_not() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", true),
            ("net.ipv4.conf.eth0-1.forwarding", true),
            ("kernel.shmmax", true),
            ("fs.mqueue.msg_max", true),
            ("vm.max_map_count", true),
            ("fs.inotify.max_user_watches", true),
            ("dev.scsi.logging_level", false),
            ("vm", false),
            ("net/../kernel/panic", false),
            ("net...kernel.panic", false),
        ] {
            let sysctls = vec![Sysctl {
                name: name.into(),
                value: "1".into(),
            }];
            assert_eq!(checked(ContainerSpec { sysctls, ..good() }).is_ok(), expected, "{name}");
        }
    }
}
