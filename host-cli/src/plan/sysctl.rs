//! Kernel parameters, `--sysctl`, of a container's namespaces, or of a machine that it has to itself.

use capsid_protocol::spec::Sysctl;

/// Reason why a kernel parameter is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SysctlError {
    #[error("invalid --sysctl {0:?}: write name=value")]
    Form(String),
    #[error("--sysctl {0} is no kernel parameter that can be set: use one of net.*, fs.*, kernel.*, user.* or vm.*")]
    Unknown(String),
    #[error(
        "--sysctl {0} is for the whole machine, which the containers of a pod share: use one of net.*, fs.mqueue.*, \
         kernel.msg*, kernel.sem or kernel.shm*"
    )]
    OfMachine(String),
    #[error("--sysctl {0}: use --hostname")]
    Hostname(String),
}

/// Owner of the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Container that has a machine to itself.
    Container,
    /// Pod, with all its containers.
    Pod,
}

/// Parameters that docker sets so that a container's root needs no capability for low ports and ping.
const DEFAULTS: [&str; 2] = [
    "net.ipv4.ip_unprivileged_port_start=0",
    "net.ipv4.ping_group_range=0 2147483647",
];

/// Parameters of the ipc namespace: the list of docker and runc (`libcontainer/configs/validate`).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Applies the flags to the defaults.
pub(super) fn resolve(flags: &[String], owner: Owner) -> Result<Vec<Sysctl>, SysctlError> {
    let mut sysctls: Vec<Sysctl> = Vec::new();
    for flag in DEFAULTS.into_iter().chain(flags.iter().map(String::as_str)) {
        let (name, value) = flag.split_once('=').ok_or_else(|| SysctlError::Form(flag.into()))?;
        check(name, owner)?;
        sysctls.retain(|known| known.name != name);
        sysctls.push(Sysctl {
            name: name.into(),
            value: value.into(),
        });
    }
    Ok(sysctls)
}

fn check(name: &str, owner: Owner) -> Result<(), SysctlError> {
    let is_part = |part: &str| {
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'@');
        !part.is_empty() && part.bytes().all(is_legal)
    };
    if !name.split('.').all(is_part) {
        return Err(SysctlError::Form(name.into()));
    }
    match name.split_once('.') {
        Some(("net", _)) => Ok(()),
        Some(("fs", rest)) if rest.starts_with("mqueue.") => Ok(()),
        Some(("kernel", "hostname")) => Err(SysctlError::Hostname(name.into())),
        Some(("kernel", "domainname")) => Ok(()),
        _ if IPC.contains(&name) => Ok(()),
        // The kernel is the container's own: this permits also parameters that docker refuses because they are the
        // host's.
        Some(("fs" | "kernel" | "user" | "vm", _)) => match owner {
            Owner::Container => Ok(()),
            Owner::Pod => Err(SysctlError::OfMachine(name.into())),
        },
        _ => Err(SysctlError::Unknown(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_owner_pass() {
        let resolved = |flag: &str, owner| resolve(&[flag.into()], owner);
        for flag in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.eth0-1.forwarding=",
            "kernel.shmmax=1",
            "fs.mqueue.msg_max=5",
        ] {
            assert_eq!(resolved(flag, Owner::Pod).unwrap().len(), 3, "{flag}");
        }
        for flag in [
            "vm.max_map_count=1",
            "fs.file-max=1",
            "kernel.pid_max=4242",
            "user.max_user_namespaces=0",
        ] {
            assert!(resolved(flag, Owner::Container).is_ok(), "{flag}");
            assert!(resolved(flag, Owner::Pod).is_err(), "{flag}");
        }
        let refused = resolved("vm.max_map_count=1", Owner::Pod).unwrap_err();
        assert_eq!(refused, SysctlError::OfMachine("vm.max_map_count".into()));
        for wrong in [
            "a",
            "=1",
            "net..x=1",
            "net/../kernel/panic=1",
            "dev.raid.speed_limit_max=1",
            "kernel.hostname=x",
        ] {
            assert!(resolved(wrong, Owner::Container).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_replaces_a_default() {
        let found = resolve(&["net.ipv4.ip_unprivileged_port_start=80".into()], Owner::Container).unwrap();
        assert_eq!((found.len(), found[1].value.as_str()), (2, "80"));
    }
}
