//! Report of a process in the container on itself and its world, as one JSON object.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde_json::{Map, Value, json};

use crate::sys;

/// Collects the whole report.
pub(crate) fn report() -> Value {
    let status = status_fields();
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    json!({
        "pid": std::process::id(),
        "parent": std::os::unix::process::parent_id(),
        "args": env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "env": env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect::<BTreeMap<_, _>>(),
        "cwd": env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        "uid": numbers(&field("Uid")),
        "gid": numbers(&field("Gid")),
        "groups": numbers(&field("Groups")),
        "umask": field("Umask"),
        "capabilities": {
            "inheritable": field("CapInh"), "permitted": field("CapPrm"), "effective": field("CapEff"),
            "bounding": field("CapBnd"), "ambient": field("CapAmb"),
        },
        "seccomp": field("Seccomp").parse::<u64>().unwrap_or(0),
        "seccomp_filters": field("Seccomp_filters").parse::<u64>().unwrap_or(0),
        "no_new_privs": field("NoNewPrivs") == "1",
        "namespaces": namespaces("self"),
        "init_namespaces": namespaces("1"),
        "mounts": mounts(),
        "rlimits": rlimits(),
        "cgroup": cgroup(),
        "cgroup_path": read("/proc/self/cgroup"),
        "hostname": read("/proc/sys/kernel/hostname"),
        "domainname": read("/proc/sys/kernel/domainname"),
        "uname": uname(),
        "kernel_command_line": read("/proc/cmdline"),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "processors": read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        "memory_total_kib": memory_total_kib(),
        "descriptors": descriptors(),
        "devices": devices("/dev"),
        "interfaces": names("/sys/class/net"),
        "processes": names("/proc").iter().filter(|name| name.parse::<u32>().is_ok()).collect::<Vec<_>>(),
        "oom_score_adj": read("/proc/self/oom_score_adj"),
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn status_fields() -> BTreeMap<String, String> {
    let text = read("/proc/self/status");
    let pair = |line: &str| {
        line.split_once(':')
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn namespaces(pid: &str) -> Map<String, Value> {
    let link = |name: &String| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    names(&format!("/proc/{pid}/ns"))
        .into_iter()
        .filter_map(|name| link(&name).map(|link| (name, json!(link.display().to_string()))))
        .collect()
}

/// Parses `/proc/self/mountinfo`, proc(5): optional fields end at " - ".
fn mounts() -> Vec<Value> {
    let parse = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let head: Vec<&str> = head.split(' ').collect();
        let tail: Vec<&str> = tail.split(' ').collect();
        Some(json!({
            "root": head.get(3)?, "target": head.get(4)?, "options": head.get(5)?.split(',').collect::<Vec<_>>(),
            "propagation": head.get(6..)?, "type": tail.first()?, "source": tail.get(1)?,
            "super_options": tail.get(2)?.split(',').collect::<Vec<_>>(),
        }))
    };
    read("/proc/self/mountinfo").lines().filter_map(parse).collect()
}

/// Parses `/proc/self/limits`: a name, two values and a unit in columns.
fn rlimits() -> Map<String, Value> {
    let text = read("/proc/self/limits");
    let parse = |line: &str| {
        let (name, values) = line.split_at_checked(26)?;
        let mut values = values.split_whitespace();
        Some((
            name.trim().to_owned(),
            json!({"soft": values.next()?, "hard": values.next()?}),
        ))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

fn cgroup() -> Map<String, Value> {
    let files = [
        "cpu.max",
        "cpu.weight",
        "cpu.weight",
        "cpu.stat",
        "cpuset.cpus",
        "cpuset.cpus.effective",
        "memory.low",
        "memory.max",
        "memory.swap.max",
        "memory.current",
        "memory.events",
        "pids.max",
        "pids.current",
        "cgroup.controllers",
        "cgroup.subtree_control",
    ];
    let value = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
    files
        .into_iter()
        .filter_map(|file| value(file).map(|text| (file.to_owned(), json!(text.trim_end()))))
        .collect()
}

fn uname() -> Value {
    // struct utsname: six fields of 65 bytes.
    let mut bytes = [0_u8; 65 * 6];
    if sys::call(libc::SYS_uname, vec![sys::Arg::Out(&mut bytes)]).is_err() {
        return Value::Null;
    }
    let field = |index: usize| {
        let raw = &bytes[index * 65..(index + 1) * 65];
        String::from_utf8_lossy(raw.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    };
    json!({"sysname": field(0), "nodename": field(1), "release": field(2), "version": field(3), "machine": field(4)})
}

fn memory_total_kib() -> u64 {
    let text = read("/proc/meminfo");
    text.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn descriptors() -> Map<String, Value> {
    let target = |name: &String| fs::read_link(format!("/proc/self/fd/{name}")).ok();
    let own_listing = format!("/proc/{}/fd", std::process::id());
    names("/proc/self/fd")
        .into_iter()
        .filter_map(|name| target(&name).map(|path| (name, path.display().to_string())))
        .filter(|(_, path)| *path != own_listing)
        .map(|(name, path)| (name, json!(path)))
        .collect()
}

fn devices(folder: &str) -> Map<String, Value> {
    let mut found = Map::new();
    for name in names(folder) {
        let path = format!("{folder}/{name}");
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            found.append(&mut devices(&path));
        } else if kind.is_symlink() {
            let link = fs::read_link(&path)
                .map(|link| link.display().to_string())
                .unwrap_or_default();
            found.insert(path, json!({"type": "link", "to": link}));
        } else {
            let letter = if kind.is_block_device() {
                "block"
            } else if kind.is_char_device() {
                "character"
            } else {
                "other"
            };
            let number = metadata.rdev();
            let device = format!("{}:{}", libc::major(number), libc::minor(number));
            found.insert(
                path,
                json!({"type": letter, "device": device, "mode": format!("{:04o}", metadata.mode() & 0o7777)}),
            );
        }
    }
    found
}
