//! Isolation: nothing that a container's root does reaches the agent, another pod or the host.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use capsid_tests::Capsid;
use capsid_tests::environment::accelerator;
use capsid_tests::walls::{NO_CAPABILITIES, confined_below};
use serde_json::Value;

/// Returns the whole report of an ordinary container, taken once.
fn report() -> &'static Value {
    static REPORT: OnceLock<Value> = OnceLock::new();
    REPORT.get_or_init(|| Capsid::with_probe().probe(&[]))
}

/// Capability sets of docker's default (moby, `oci/caps/defaults.go`): 14 of them.
const DOCKER_CAPABILITIES: &str = "00000000a80425fb";

#[test]
fn capabilities_are_dockers() {
    let capabilities = &report()["capabilities"];
    for set in ["permitted", "effective", "bounding"] {
        assert_eq!(capabilities[set], DOCKER_CAPABILITIES, "{set}");
    }
    for set in ["inheritable", "ambient"] {
        assert_eq!(capabilities[set], "0000000000000000", "{set}");
    }
}

#[test]
fn a_filter_of_system_calls_is_in_force() {
    assert_eq!(report()["seccomp"], 2);
}

#[test]
fn capabilities_are_added_and_dropped() {
    let capsid = Capsid::with_probe();
    let report = capsid.probe(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]);
    assert_eq!(report["capabilities"]["effective"], "0000000000001000");
    let report = capsid.probe(&["-u", "1234", "--security-opt", "no-new-privileges"]);
    assert_eq!(report["capabilities"]["effective"], "0000000000000000");
    assert_eq!(report["no_new_privs"], true);
}

#[test]
fn privileged_has_every_capability_and_no_filter() {
    let report = Capsid::with_probe().probe(&["--privileged"]);
    assert_eq!(report["capabilities"]["effective"], "000001ffffffffff");
    assert_eq!(report["seccomp"], 0);
}

/// Test by the fixed inode numbers of the machine's first namespaces (linux/proc_ns.h: PROC_*_INIT_INO).
#[test]
fn every_namespace_differs_from_the_agents() {
    let initial = [
        ("ipc", 0xEFFF_FFFF_u32),
        ("uts", 0xEFFF_FFFE),
        ("pid", 0xEFFF_FFFC),
        ("cgroup", 0xEFFF_FFFB),
    ];
    let namespaces = &report()["namespaces"];
    for (name, number) in initial {
        assert_ne!(namespaces[name], format!("{name}:[{number}]"), "{name}");
    }
    // The first mount and net namespaces have no fixed number: their content tells them apart.
    let targets: Vec<&str> = report()["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["target"].as_str().unwrap())
        .collect();
    assert!(
        targets.contains(&"/") && !targets.iter().any(|target| target.contains("capsid")),
        "{targets:?}"
    );
    assert_eq!(report()["interfaces"], serde_json::json!(["eth0", "lo"]));
    assert_eq!(report()["pid"], 1);
}

#[test]
fn mounts_are_what_a_container_expects() {
    let mounts = report()["mounts"].as_array().unwrap();
    let find = |target: &str| mounts.iter().rfind(|mount| mount["target"] == target);
    let expected = [
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
    ];
    for (target, kind) in expected {
        let mount = find(target).unwrap_or_else(|| panic!("nothing is mounted on {target}"));
        assert_eq!(mount["type"], kind, "{target}");
    }
    for target in [
        "/sys",
        "/sys/fs/cgroup",
        "/proc/sys",
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sysrq-trigger",
    ] {
        if let Some(mount) = find(target) {
            assert!(
                mount["options"].as_array().unwrap().contains(&"ro".into()),
                "{target} can be written"
            );
        }
    }
    for mount in mounts {
        assert_eq!(
            mount["propagation"],
            serde_json::json!([]),
            "{} is shared",
            mount["target"]
        );
    }
}

#[test]
fn devices_are_dockers() {
    let devices = report()["devices"].as_object().unwrap();
    let nodes: BTreeSet<&str> = devices
        .iter()
        .filter(|(_, device)| device["type"] != "link")
        .map(|(path, _)| path.as_str())
        .collect();
    let allowed = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/pts/ptmx",
    ];
    for node in &nodes {
        assert!(allowed.contains(node) || *node == "/dev/console", "{node}");
    }
    for (path, number) in [
        ("/dev/null", "1:3"),
        ("/dev/zero", "1:5"),
        ("/dev/urandom", "1:9"),
        ("/dev/tty", "5:0"),
    ] {
        assert_eq!(devices[path]["device"], number);
        assert_eq!(devices[path]["mode"], "0666", "{path}");
    }
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        assert_eq!(devices[path]["to"], target);
    }
}

#[test]
fn only_three_descriptors_are_open() {
    let descriptors = report()["descriptors"].as_object().unwrap();
    assert!(
        descriptors
            .keys()
            .all(|number| ["0", "1", "2"].contains(&number.as_str())),
        "{descriptors:?}"
    );
}

/// Test of two pods at the same time: two kernels, two boots, two hosts' names, and no file of one in the other.
#[test]
fn two_pods_share_nothing() {
    let capsid = Capsid::with_probe();
    let start = |mark: &str| {
        let script = format!("echo {mark} > /tmp/{mark}; /probe report; echo done; sleep 20");
        capsid.run_call(["probe", "sh", "-c", &script]).spawn_with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        })
    };
    let mut children = [start("one"), start("two")];
    let reports = children.each_mut().map(|child| {
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    capsid.run(["probe", "sh", "-c", "ls /tmp"]).succeeds().prints("");
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_ne!(reports[0]["boot_id"], reports[1]["boot_id"]);
    assert_ne!(reports[0]["hostname"], reports[1]["hostname"]);
}

/// Capabilities of a file server that root runs: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SETGID, SETUID.
const FOR_FILES: &str = "00000000000000cf";

/// Files of a share that its guest may know or have open, as SECURITY.md says, and some of the server's own.
const FILES_OF_A_SHARE: u64 = 262_144 + 64;

/// Test of the barriers between a guest that took over one of its machine's processes and the host.
#[test]
fn each_process_of_a_machine_is_confined() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: what confines a process that hides its memory can be read by root only");
        return;
    }
    let capsid = Capsid::with_busybox();
    let shared = capsid.folder("shared");
    std::fs::create_dir(&shared).unwrap();
    let bind = format!("{}:/shared", shared.display());
    capsid.detached("confined", &["-v", &bind, "busybox", "sleep", "1000"]);
    let walls = confined_below(capsid.supervisor("confined"));
    let named = |name: &str| {
        walls
            .iter()
            .filter(|walls| walls.name.starts_with(name))
            .collect::<Vec<_>>()
    };
    for vmm in named("capsid-vmm") {
        vmm.assert_confined(NO_CAPABILITIES);
        assert_eq!(vmm.root, [""; 0]);
        assert_ne!(vmm.user(), Some(0));
    }
    for server in named("capsid-fs") {
        server.assert_confined(FOR_FILES);
        server.assert_limits(&[("Max open files", FILES_OF_A_SHARE), ("Max processes", 64)]);
        assert_eq!(server.root, [""; 0]);
    }
    for qemu in named("qemu") {
        qemu.assert_is_confined_qemu();
        // Of all users of this host, it is the only process of its own.
        assert!(qemu.user() > Some(1_900_000_000), "{qemu:?}");
    }
    assert_eq!(
        named("qemu").len(),
        usize::from(accelerator() == "emulate"),
        "{walls:?}"
    );
    assert_eq!(
        (named("capsid-vmm").len(), named("capsid-fs").len()),
        (1, 1),
        "{walls:?}"
    );
}

#[test]
fn killing_everything_ends_the_container_only() {
    let capsid = Capsid::with_busybox();
    let before = capsid_tests::resident::processes().len();
    capsid
        .run(["busybox", "sh", "-c", "kill -9 -1; echo alive"])
        .succeeds()
        .prints("alive\n");
    assert!(capsid_tests::resident::processes().len() + 50 > before);
}

#[test]
fn a_privileged_reboot_ends_its_own_machine_only() {
    let capsid = Capsid::with_busybox();
    let outcome = capsid.run(["--privileged", "busybox", "sh", "-c", "reboot -f; sleep 30"]);
    assert_ne!(outcome.code(), 0, "{outcome}");
    capsid.run(["busybox", "echo", "next"]).succeeds().prints("next\n");
}

#[test]
fn a_guest_panic_has_a_name_and_an_end() {
    let capsid = Capsid::with_busybox();
    // This kernel has no SysRq; a container that owns its machine may ask for a panic when memory runs out.
    let script = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    let flags = ["--privileged", "-m", "64m", "busybox", "sh", "-c", script];
    let outcome = capsid.run_call(flags).wait();
    assert_ne!(outcome.code(), 0, "{outcome}");
    outcome.complains("the guest kernel panicked");
}

/// Makes one attack in a container of its own, as its first process.
#[track_caller]
fn assert_blocked(attack: &str, flags: &[&str]) {
    let outcome = Capsid::with_probe().probe_call(flags, &["attack", attack]);
    assert!(outcome.code() == 0, "{attack} was not blocked\n{outcome}");
    assert_eq!(outcome.json()["blocked"], true);
}

/// Attack that is not made beside the others: there, pid 1 is the container's own, which may be traced, and is stopped
/// by it.
const ALONE: &str = "trace-processes";

/// Returns the results of all attacks but [`ALONE`], made once: one after the other in one ordinary container, each by
/// a process of its own.
fn verdicts() -> &'static BTreeMap<String, Value> {
    static VERDICTS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    VERDICTS.get_or_init(|| {
        let script =
            format!("for name in $(/probe attacks | grep -v {ALONE}); do echo \"$name $(/probe attack $name)\"; done");
        let outcome = Capsid::with_probe()
            .run_call(["probe", "sh", "-c", script.as_str()])
            .within(120)
            .wait();
        let verdict = |line: &str| {
            let (name, verdict) = line.split_once(' ').unwrap();
            (name.to_owned(), serde_json::from_str(verdict).unwrap_or(Value::Null))
        };
        outcome.text().lines().map(verdict).collect()
    })
}

macro_rules! attacks {
    ($($test:ident: $name:literal,)*) => {
        /// Attacks on an ordinary container's walls, by name.
        const ATTACKED: &[&str] = &[$($name),*];
        $(#[test] fn $test() {
            let verdict = &verdicts()[$name];
            assert_eq!(verdict["blocked"], true, "{}: {verdict}", $name);
        })*
    };
}

attacks! {
    blocks_open_block_devices: "open-block-devices",
    blocks_write_rootfs_disk: "write-rootfs-disk",
    blocks_open_memory_devices: "open-memory-devices",
    blocks_open_console: "open-console",
    blocks_io_ports: "io-ports",
    blocks_swap_on: "swap-on",
    blocks_load_module: "load-module",
    blocks_kexec: "kexec",
    blocks_reboot: "reboot",
    blocks_bpf: "bpf",
    blocks_perf_events: "perf-events",
    blocks_userfaultfd: "userfaultfd",
    blocks_keyrings: "keyrings",
    blocks_kernel_log: "kernel-log",
    blocks_set_clock: "set-clock",
    blocks_process_accounting: "process-accounting",
    blocks_write_kernel_parameters: "write-kernel-parameters",
    blocks_write_sysfs: "write-sysfs",
    blocks_sysrq: "sysrq",
    blocks_mount: "mount",
    blocks_mount_new_api: "mount-new-api",
    blocks_remount_read_write: "remount-read-write",
    blocks_unmount_masks: "unmount-masks",
    blocks_pivot_root: "pivot-root",
    blocks_join_namespaces: "join-namespaces",
    blocks_user_namespace: "user-namespace",
    blocks_set_hostname: "set-hostname",
    blocks_read_masked_files: "read-masked-files",
    blocks_leave_root_by_dotdot: "leave-root-by-dotdot",
    blocks_leave_root_by_chroot: "leave-root-by-chroot",
    blocks_leave_root_by_proc: "leave-root-by-proc",
    blocks_open_by_handle: "open-by-handle",
    blocks_mark_volume: "mark-volume",
    blocks_inherited_descriptors: "inherited-descriptors",
    blocks_overwrite_init: "overwrite-init",
    blocks_leave_cgroup: "leave-cgroup",
    blocks_release_agent: "release-agent",
    blocks_see_agent: "see-agent",
    blocks_read_agent_memory: "read-agent-memory",
    blocks_local_services: "local-services",
    blocks_vsock_host: "vsock-host",
    blocks_vsock_agent: "vsock-agent",
}

#[test]
fn blocks_trace_processes() {
    assert_blocked(ALONE, &[]);
}

#[test]
fn every_attack_of_the_probe_is_tested() {
    let made: BTreeSet<&str> = verdicts().keys().map(String::as_str).collect();
    assert_eq!(made, ATTACKED.iter().copied().collect());
}

/// Test that the attacks can succeed: each of these does where its wall is taken down.
#[test]
fn attacks_succeed_without_walls() {
    let attacks = [
        "open-block-devices",
        "open-memory-devices",
        "open-console",
        "bpf",
        "perf-events",
        "keyrings",
        "kernel-log",
        "set-clock",
        "write-kernel-parameters",
        "write-sysfs",
        "mount",
        "mount-new-api",
        "user-namespace",
        "set-hostname",
        "read-masked-files",
        "mark-volume",
        "leave-cgroup",
        "join-namespaces",
    ];
    let script: String = attacks
        .iter()
        .map(|name| format!("/probe attack {name} > /dev/null; [ $? = 1 ] && echo {name};"))
        .collect();
    let outcome = Capsid::with_probe().run(["--privileged", "probe", "sh", "-c", &script]);
    assert_eq!(outcome.text().lines().collect::<Vec<_>>(), attacks, "{outcome}");
}

/// Test of the barriers that hold when the container owns its machine: the host's file of the image, the host's ports,
/// the agent.
#[test]
fn privileged_does_not_write_the_images_disk() {
    let capsid = Capsid::with_probe();
    let digests = || {
        let files = capsid
            .files()
            .into_iter()
            .filter(|path| path.contains("/data/") && std::path::Path::new(path).is_file());
        // Files that belong to no image: records, and the template of scratch disks, gibibytes of holes.
        files
            .filter(|path| !path.contains(".db") && !path.contains("/data/scratch"))
            .map(|path| (capsid_tests::image::sha256_hex(&std::fs::read(&path).unwrap()), path))
            .collect::<Vec<_>>()
    };
    let before = digests();
    assert!(!before.is_empty());
    let outcome = capsid.probe_call(&["--privileged"], &["attack", "write-rootfs-disk"]);
    assert!(outcome.code() == 0, "{outcome}");
    assert_eq!(digests(), before);
}

#[test]
fn privileged_reaches_no_port_of_the_host() {
    assert_blocked("vsock-host", &["--privileged"]);
}

#[test]
fn privileged_does_not_pose_as_the_host_to_the_agent() {
    assert_blocked("vsock-agent", &["--privileged"]);
}

#[test]
fn privileged_sees_no_agent() {
    assert_blocked("see-agent", &["--privileged"]);
}

#[test]
fn init_of_the_container_gives_away_nothing() {
    assert_blocked("read-agent-memory", &["--init"]);
    assert_blocked("overwrite-init", &["--init"]);
    assert_blocked("inherited-descriptors", &["--init"]);
}

#[test]
fn a_busy_container_leaves_the_host_responsive() {
    let capsid = Capsid::with_probe();
    let mut child = capsid
        .run_call(["--pids-limit", "50", "probe", "/probe", "burn", "5"])
        .spawn_with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        });
    thread::sleep(Duration::from_secs(2));
    let started = std::time::Instant::now();
    capsid.call(["version"]).wait().succeeds();
    assert!(started.elapsed() < Duration::from_secs(2));
    child.kill().unwrap();
    child.wait().unwrap();
}
