//! Attacks on namespaces and mounts: new ones, other ones, and those that hide what must stay hidden.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use super::{Verdict, all_blocked, one_call};
use crate::sys::{self, Arg};

fn mount_call(source: &str, target: &str, kind: &str, flags: u64) -> Verdict {
    let words = [source, target, kind].map(sys::c_string);
    let flags = Arg::Int(i64::try_from(flags).expect("flags of mount are small"));
    let arguments = vec![
        Arg::In(&words[0]),
        Arg::In(&words[1]),
        Arg::In(&words[2]),
        flags,
        Arg::Int(0),
    ];
    one_call(
        &format!("mount {kind} {source} on {target}"),
        sys::call(libc::SYS_mount, arguments),
    )
}

pub(crate) fn mount() -> Verdict {
    let _ = fs::create_dir("/tmp/target");
    let kinds = [
        "tmpfs",
        "proc",
        "sysfs",
        "cgroup2",
        "devtmpfs",
        "debugfs",
        "tracefs",
        "securityfs",
        "overlay",
        "bpf",
    ];
    let fresh = kinds.map(|kind| mount_call("none", "/tmp/target", kind, 0));
    let bind = mount_call("/", "/tmp/target", "none", libc::MS_BIND);
    all_blocked(fresh.into_iter().chain([bind]))
}

pub(crate) fn mount_new_api() -> Verdict {
    let (kind, root) = (sys::c_string("tmpfs"), sys::c_string("/"));
    // OPEN_TREE_CLONE is 1; MOUNT_ATTR_RDONLY would be cleared by 32 bytes of attributes.
    let attributes: Vec<u8> = [0_u64, 1, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    let set = vec![
        Arg::Int(-100),
        Arg::In(&root),
        Arg::Int(0),
        Arg::In(&attributes),
        Arg::Int(32),
    ];
    all_blocked([
        one_call("fsopen", sys::call(libc::SYS_fsopen, vec![Arg::In(&kind), Arg::Int(0)])),
        one_call(
            "open_tree",
            sys::call(libc::SYS_open_tree, vec![Arg::Int(-100), Arg::In(&root), Arg::Int(1)]),
        ),
        one_call("mount_setattr", sys::call(libc::SYS_mount_setattr, set)),
    ])
}

pub(crate) fn remount_read_write() -> Verdict {
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    all_blocked(
        ["/proc/sys", "/proc/sysrq-trigger", "/sys", "/sys/fs/cgroup"]
            .map(|path| mount_call("none", path, "none", flags)),
    )
}

pub(crate) fn unmount_masks() -> Verdict {
    all_blocked(
        ["/proc/kcore", "/proc/sys", "/sys", "/dev", "/proc", "/sys/fs/cgroup"].map(|path| {
            let target = sys::c_string(path);
            let detach = Arg::Int(i64::from(libc::MNT_DETACH));
            one_call(
                &format!("unmount {path}"),
                sys::call(libc::SYS_umount2, vec![Arg::In(&target), detach]),
            )
        }),
    )
}

pub(crate) fn pivot_root() -> Verdict {
    let (new, old) = (sys::c_string("/tmp"), sys::c_string("/tmp"));
    one_call(
        "pivot_root",
        sys::call(libc::SYS_pivot_root, vec![Arg::In(&new), Arg::In(&old)]),
    )
}

/// Joins the namespaces of every process in sight. Joining one's own user namespace fails by itself.
pub(crate) fn join_namespaces() -> Verdict {
    let mut attempts = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        for namespace in fs::read_dir(process.path().join("ns")).into_iter().flatten().flatten() {
            let what = namespace.path().display().to_string();
            let joined = File::open(namespace.path()).and_then(|file| {
                sys::call(
                    libc::SYS_setns,
                    vec![Arg::Int(i64::from(file.as_raw_fd())), Arg::Int(0)],
                )
            });
            attempts.push(one_call(&what, joined));
        }
    }
    all_blocked(attempts)
}

/// Makes a user namespace, which gives every capability over rarely reviewed parts of the kernel.
pub(crate) fn user_namespace() -> Verdict {
    let flags = Arg::Int(i64::from(libc::CLONE_NEWUSER));
    // clone3 hides its flags from seccomp: ENOSYS makes programs fall back to a call with visible flags.
    let arguments: Vec<u8> = [libc::CLONE_NEWUSER as u64]
        .into_iter()
        .chain([0; 10])
        .flat_map(u64::to_ne_bytes)
        .collect();
    let mut attempts = vec![one_call("unshare", sys::call(libc::SYS_unshare, vec![flags]))];
    for kind in [libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET] {
        attempts.push(one_call(
            "unshare",
            sys::call(libc::SYS_unshare, vec![Arg::Int(i64::from(kind))]),
        ));
    }
    match sys::call(libc::SYS_clone3, vec![Arg::In(&arguments), Arg::Int(88)]) {
        // The child of a success: the parent reports it.
        Ok(0) => std::process::exit(0),
        result => attempts.push(one_call("clone3", result)),
    }
    all_blocked(attempts)
}

pub(crate) fn set_hostname() -> Verdict {
    all_blocked([
        one_call(
            "sethostname",
            sys::call(libc::SYS_sethostname, vec![Arg::In(b"capsid"), Arg::Int(6)]),
        ),
        one_call(
            "setdomainname",
            sys::call(libc::SYS_setdomainname, vec![Arg::In(b"capsid"), Arg::Int(6)]),
        ),
    ])
}
