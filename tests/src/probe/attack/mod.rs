//! Attempts to reach past the container: at the kernel, the agent, the disks, the host. Each must be blocked; what a
//! privileged container may do to its own machine is marked, what must hold even then is not.

mod devices;
mod files;
mod kernel;
mod namespaces;
mod processes;
mod vsock;

use std::fs;
use std::io;
use std::process::ExitCode;

use serde_json::json;

/// Result of an attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The attempt was refused; contains the reason.
    Blocked(String),
    /// The attempt succeeded; contains what was reached.
    Succeeded(String),
}

/// Named attempt.
pub(crate) struct Attack {
    /// Name for `capsid-probe attack NAME`.
    pub name: &'static str,
    attempt: fn() -> Verdict,
}

const fn attack(name: &'static str, attempt: fn() -> Verdict) -> Attack {
    Attack { name, attempt }
}

/// All attempts, grouped by their targets.
pub(crate) const ATTACKS: &[Attack] = &[
    // Disks and devices of the machine.
    attack("open-block-devices", devices::open_block_devices),
    attack("write-rootfs-disk", devices::write_rootfs_disk),
    attack("open-memory-devices", devices::open_memory_devices),
    attack("open-console", devices::open_console),
    attack("io-ports", devices::io_ports),
    attack("swap-on", devices::swap_on),
    // The kernel.
    attack("load-module", kernel::load_module),
    attack("kexec", kernel::kexec),
    attack("reboot", kernel::reboot),
    attack("bpf", kernel::bpf),
    attack("perf-events", kernel::perf_events),
    attack("userfaultfd", kernel::userfaultfd),
    attack("keyrings", kernel::keyrings),
    attack("kernel-log", kernel::kernel_log),
    attack("set-clock", kernel::set_clock),
    attack("process-accounting", kernel::process_accounting),
    attack("write-kernel-parameters", kernel::write_kernel_parameters),
    attack("write-sysfs", kernel::write_sysfs),
    attack("sysrq", kernel::sysrq),
    // Namespaces and mounts.
    attack("mount", namespaces::mount),
    attack("mount-new-api", namespaces::mount_new_api),
    attack("remount-read-write", namespaces::remount_read_write),
    attack("unmount-masks", namespaces::unmount_masks),
    attack("pivot-root", namespaces::pivot_root),
    attack("join-namespaces", namespaces::join_namespaces),
    attack("user-namespace", namespaces::user_namespace),
    attack("set-hostname", namespaces::set_hostname),
    // Files.
    attack("read-masked-files", files::read_masked_files),
    attack("leave-root-by-dotdot", files::leave_root_by_dotdot),
    attack("leave-root-by-chroot", files::leave_root_by_chroot),
    attack("leave-root-by-proc", files::leave_root_by_proc),
    attack("open-by-handle", files::open_by_handle),
    attack("mark-volume", files::mark_volume),
    attack("inherited-descriptors", files::inherited_descriptors),
    attack("overwrite-init", files::overwrite_init),
    attack("leave-cgroup", files::leave_cgroup),
    attack("release-agent", files::release_agent),
    // Other processes.
    attack("see-agent", processes::see_agent),
    attack("trace-processes", processes::trace_processes),
    attack("read-agent-memory", processes::read_agent_memory),
    attack("local-services", processes::local_services),
    // The host's end of the machine.
    attack("vsock-host", vsock::host),
    attack("vsock-agent", vsock::agent),
];

/// Makes one attempt and reports it.
pub(crate) fn run(name: &str) -> ExitCode {
    let Some(attack) = ATTACKS.iter().find(|attack| attack.name == name) else {
        eprintln!("capsid-probe: no attack is called {name}");
        return ExitCode::from(2);
    };
    // On any other machine these attempts might well succeed.
    if !fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .contains("-capsid")
    {
        eprintln!("capsid-probe: this is not a guest of Capsid: no attacks here");
        return ExitCode::from(2);
    }
    let (blocked, detail) = match (attack.attempt)() {
        Verdict::Blocked(detail) => (true, detail),
        Verdict::Succeeded(detail) => (false, detail),
    };
    println!("{}", json!({"blocked": blocked, "detail": detail}));
    if blocked { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Judges an attempt of one call: blocked if it failed.
fn one_call<T>(what: &str, result: io::Result<T>) -> Verdict {
    match result {
        Ok(_) => Verdict::Succeeded(what.to_owned()),
        Err(error) => Verdict::Blocked(format!("{what}: {error}")),
    }
}

/// Judges several attempts, none of which may succeed.
fn all_blocked(attempts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut details = Vec::new();
    for attempt in attempts {
        match attempt {
            Verdict::Blocked(detail) => details.push(detail),
            success @ Verdict::Succeeded(_) => return success,
        }
    }
    details.truncate(8);
    Verdict::Blocked(details.join("; "))
}
