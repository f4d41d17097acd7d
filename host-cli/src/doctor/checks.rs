//! Judgements of the doctor: facts in, one [`Check`] out. Nothing here examines the host.

use std::collections::BTreeSet;
use std::path::Path;

use capsid_jail::Layer;

use super::elf::{Entry, KernelError};
use super::host::{Folder, Limits, Namespaces};
use super::{Check, Confined};
use crate::confinement::{self, Process};
use crate::error_text::describe;
use crate::model::AccelChoice;
use crate::probe::KvmVerdict;

const MIB: u64 = 1 << 20;
/// Threshold of disk space below which the next image hardly fits: a usual one takes 0.1 to 1 GiB, twice over while it
/// is converted.
const DISK_LOW: u64 = 2048 * MIB;
/// Threshold of disk space below which not even a small image and a scratch disk fit.
const DISK_NONE: u64 = 200 * MIB;
/// Threshold of memory below which a machine of usual size (512 MiB) pushes the host into swapping.
const MEMORY_LOW: u64 = 512 * MIB;
/// Threshold of open files: a pod with many connections holds up to 1 023 sockets on the host side, and each bind mount
/// its open files.
const OPEN_FILES_LOW: u64 = 4096;

/// Judges `/dev/kvm` itself; [`accelerator`] judges whether that matters.
pub(super) fn kvm(verdict: &KvmVerdict, group: Option<String>) -> Check {
    let cure = match verdict {
        KvmVerdict::Usable => return Check::ok("kvm", verdict.to_string()),
        KvmVerdict::Missing => {
            "turn on virtualization in the firmware and load kvm_intel or kvm_amd; in a VM, ask for nested virtualization"
                .to_owned()
        }
        // No group of users was set up for the device; nobody should join root's group for it.
        KvmVerdict::NotPermitted { group: 0 } => "give it to a group of its users: sudo chgrp kvm /dev/kvm && \
                                                  sudo chmod 660 /dev/kvm"
            .to_owned(),
        KvmVerdict::NotPermitted { group: number } => {
            let group = group.unwrap_or_else(|| number.to_string());
            format!("join its group and log in again: sudo usermod -aG {group} $USER")
        }
        KvmVerdict::NotKvm { .. } => "find out what made this device node, and remove it".to_owned(),
        KvmVerdict::Lacking { .. } => "use a newer kernel on this host".to_owned(),
        KvmVerdict::EmulatedRing0 { .. } => {
            "use a host with hardware or nested virtualization; here only emulation works".to_owned()
        }
        KvmVerdict::Failed { .. } => "try again when the host is less busy".to_owned(),
    };
    Check::warning("kvm", verdict.to_string(), cure)
}

/// Judges the accelerator that `run` would choose, with the reason.
pub(super) fn accelerator(wanted: AccelChoice, kvm: &KvmVerdict, qemu: bool) -> Check {
    const NAME: &str = "accelerator";
    const BOUNDARY: &str =
        "do not run hostile images on it: QEMU's authors do not call its emulation a security boundary";
    match (wanted, kvm.is_usable(), qemu) {
        (AccelChoice::Auto, true, _) => Check::ok(NAME, "auto chooses kvm"),
        (AccelChoice::Kvm, true, _) => Check::ok(NAME, "kvm, as asked"),
        (AccelChoice::Emulate, _, true) => Check::warning(NAME, "emulate, as asked", BOUNDARY),
        (AccelChoice::Auto, false, true) => {
            Check::warning(NAME, format!("auto chooses emulate, because {kvm}"), BOUNDARY)
        }
        (AccelChoice::Kvm, false, true) => {
            Check::problem(NAME, format!("kvm was asked for, but {kvm}"), "use --accel emulate")
        }
        (AccelChoice::Kvm, false, false) => {
            Check::problem(NAME, format!("kvm was asked for, but {kvm}"), "see the line of kvm")
        }
        (AccelChoice::Emulate, _, false) => Check::problem(
            NAME,
            "emulate was asked for, but there is no qemu-system-x86_64",
            "install qemu-system-x86",
        ),
        (AccelChoice::Auto, false, false) => Check::problem(
            NAME,
            format!("none is usable: {kvm}, and there is no qemu-system-x86_64"),
            "install qemu-system-x86, or see the line of kvm",
        ),
    }
}

/// Judges the guest kernel. `entry` is the result of [`elf`](super::elf) for the file at `path`.
pub(super) fn kernel(path: Option<&Path>, entry: Option<Result<Entry, KernelError>>) -> Check {
    const NAME: &str = "kernel";
    const CURE: &str = "build the guest kernel (make kernel), or name another by --kernel";
    let (Some(path), Some(entry)) = (path, entry) else {
        return Check::problem(NAME, "not found", CURE);
    };
    let path = path.display();
    match entry {
        Ok(Entry::Pvh) => Check::ok(NAME, format!("{path}")),
        Ok(Entry::NoPvh) => Check::problem(
            NAME,
            format!("{path} has no PVH note: it was built without CONFIG_PVH"),
            CURE,
        ),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            Check::problem(NAME, format!("{path} cannot be used: {error}{cause}"), CURE)
        }
    }
}

/// Judges a program that belongs to Capsid.
pub(super) fn part(name: &'static str, program: &str, path: Option<&Path>) -> Check {
    match path {
        Some(path) => Check::ok(name, path.display().to_string()),
        None => Check::problem(
            name,
            format!("{program} not found"),
            "build it with `make build`, or reinstall Capsid",
        ),
    }
}

/// Judges QEMU. [`accelerator`] reports where it is needed and missing.
pub(super) fn qemu(wanted: AccelChoice, kvm: &KvmVerdict, path: Option<&Path>, version: Option<String>) -> Check {
    const NAME: &str = "qemu";
    match (path, version) {
        (Some(path), Some(version)) => Check::ok(NAME, format!("{} ({version})", path.display())),
        (Some(path), None) => Check::warning(
            NAME,
            format!("{} does not tell its version", path.display()),
            "reinstall qemu-system-x86, which --accel emulate needs",
        ),
        (None, _) if wanted == AccelChoice::Kvm || kvm.is_usable() => {
            Check::ok(NAME, "not found, and not needed for kvm")
        }
        (None, _) => Check::warning(
            NAME,
            "not found",
            "install qemu-system-x86, which --accel emulate needs",
        ),
    }
}

/// Judges passt, the network sidecar.
pub(super) fn network(passt: Option<&Path>) -> Check {
    match passt {
        Some(path) => Check::ok("network", path.display().to_string()),
        None => Check::problem(
            "network",
            "no passt, which carries the traffic of containers with a network",
            "install passt, or run with --network none",
        ),
    }
}

/// Judges user namespaces, in which an unprivileged user's processes are confined.
pub(super) fn namespaces(facts: &Namespaces) -> Check {
    const NAME: &str = "namespaces";
    if facts.root {
        return Check::ok(NAME, "not needed: this is root");
    }
    if facts.max_user == Some(0) {
        return Check::problem(
            NAME,
            "user namespaces are off",
            "sudo sysctl user.max_user_namespaces=10000",
        );
    }
    if facts.unprivileged_clone == Some(0) {
        let cure = "sudo sysctl kernel.unprivileged_userns_clone=1";
        return Check::problem(NAME, "user namespaces are for root only", cure);
    }
    if facts.apparmor_restricts == Some(1) {
        let cure = "give capsid an AppArmor profile with userns, or: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0";
        return Check::warning(NAME, "AppArmor restricts user namespaces", cure);
    }
    Check::ok(NAME, "user namespaces are usable")
}

/// Judges the limits of this process, which machines inherit.
pub(super) fn limits(facts: &Limits) -> Check {
    const NAME: &str = "limits";
    let files = facts
        .open_files
        .map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let finding = format!("{files} open files");
    if facts.open_files.is_some_and(|limit| limit < OPEN_FILES_LOW) {
        return Check::warning(
            NAME,
            finding,
            format!("raise the hard limit (ulimit -Hn) to {OPEN_FILES_LOW} or more"),
        );
    }
    if facts.root && !facts.sys_resource {
        let finding = format!("{finding}; root without CAP_SYS_RESOURCE: limits and OOM scores stay as they are");
        return Check::warning(NAME, finding, "give the surrounding container CAP_SYS_RESOURCE");
    }
    Check::ok(NAME, finding)
}

/// Judges the confinement of one kind of process.
pub(super) fn confinement(confined: &Confined, required: &BTreeSet<Layer>) -> Check {
    let process = confined.process;
    let name = match process {
        Process::Vmm => "jail-vmm",
        Process::Emulator => "jail-qemu",
        Process::FileServer => "jail-file-server",
        Process::Converter => "jail-converter",
        Process::Passt => "jail-passt",
    };
    let found = match &confined.found {
        Ok(found) => found,
        Err(error) => {
            let finding = describe(error);
            let cure = match process {
                Process::Passt => "see what the surrounding container forbids, or run with --network none",
                _ => "see what the surrounding container forbids",
            };
            return if confined.is_needed {
                Check::problem(name, finding, cure)
            } else {
                Check::warning(name, finding, cure)
            };
        }
    };
    let with = |active: bool| Layer::ALL.into_iter().filter(move |layer| found.has(*layer) == active);
    let mut finding = confinement::names(with(true), ", ");
    if let Some(abi) = found.landlock_abi() {
        finding = finding.replace(Layer::Landlock.name(), &format!("landlock (ABI {abi})"));
    }
    let (by_design, reason) = process.does_without().unwrap_or_default();
    let left_out: Vec<_> = with(false).filter(|layer| by_design.contains(layer)).collect();
    if !left_out.is_empty() {
        let names = confinement::names(left_out.iter().copied(), ", ");
        finding = format!("{finding}; not {names}: {reason}");
    }
    let missing: Vec<_> = with(false).filter(|layer| !by_design.contains(layer)).collect();
    let Some(first) = missing.first() else {
        return Check::ok(name, finding);
    };
    let names = confinement::names(missing.iter().copied(), ", ");
    let finding = format!("{finding}; without {names}");
    let is_required = missing.iter().any(|layer| required.contains(layer));
    if is_required && confined.is_needed {
        Check::problem(
            name,
            finding,
            format!("{}, or leave it out of `require`", confinement::cure(*first)),
        )
    } else {
        Check::warning(name, finding, confinement::cure(*first))
    }
}

/// Judges the free bytes where images are kept; `None`: the filesystem does not report them.
pub(super) fn disk(free: Option<u64>) -> Check {
    const NAME: &str = "disk";
    const CURE: &str = "free some space, remove images (capsid rmi), or move the data folder (CAPSID_DATA_DIR)";
    let Some(free) = free else {
        return Check::warning(
            NAME,
            "free space is unknown",
            "see that the data folder is on a mounted filesystem",
        );
    };
    let finding = format!("{} MiB free at the data folder", free / MIB);
    match free {
        0..DISK_NONE => Check::problem(NAME, finding, CURE),
        DISK_NONE..DISK_LOW => Check::warning(NAME, finding, CURE),
        _ => Check::ok(NAME, finding),
    }
}

/// Judges one of Capsid's folders; `name` is `data` or `run`.
pub(super) fn folder(name: &'static str, path: &Path, facts: &Folder) -> Check {
    let path = path.display();
    let variable = format!("CAPSID_{}_DIR", name.to_uppercase());
    match facts {
        Folder::Good => Check::ok(name, path.to_string()),
        Folder::NotYet => Check::ok(name, format!("{path} (not made yet)")),
        Folder::Foreign { owner } => Check::problem(
            name,
            format!("{path} belongs to user {owner}"),
            format!("choose another folder by {variable}, or change its owner"),
        ),
        Folder::Occupied => Check::problem(
            name,
            format!("{path} is not a folder"),
            format!("choose another by {variable}"),
        ),
        Folder::NotWritable { error } => Check::problem(
            name,
            format!("{path} cannot be written to: {error}"),
            format!("change its mode, or choose another folder by {variable}"),
        ),
    }
}

/// Judges the cgroup layout, from the lines of `/proc/self/cgroup` (cgroups(7)). Pods are limited inside their machine,
/// so every layout works; it is reported because it decides what external tools can limit.
pub(super) fn cgroups(own: &str) -> Check {
    const NAME: &str = "cgroups";
    let unified = own.lines().any(|line| line.starts_with("0::"));
    let legacy = own
        .lines()
        .any(|line| !line.starts_with("0::") && line.split(':').count() >= 3);
    match (unified, legacy) {
        (true, false) => Check::ok(NAME, "version 2"),
        (true, true) => Check::ok(
            NAME,
            "hybrid: controllers are in version 1; pods are limited inside their machines",
        ),
        (false, true) => Check::ok(NAME, "version 1; pods are limited inside their machines"),
        (false, false) => Check::ok(NAME, "none; pods are limited inside their machines"),
    }
}

/// Judges the bytes of memory that new processes can have without swapping.
pub(super) fn memory(available: Option<u64>) -> Check {
    const NAME: &str = "memory";
    let Some(available) = available else {
        return Check::warning(NAME, "available memory is unknown", "see that /proc is mounted");
    };
    let finding = format!("{} MiB available", available / MIB);
    if available < MEMORY_LOW {
        return Check::warning(NAME, finding, "end other programs, or give machines less (--memory)");
    }
    Check::ok(NAME, finding)
}

#[cfg(test)]
mod tests {
    use capsid_jail::Confinement;

    use super::super::State;
    use super::*;

    fn emulated() -> KvmVerdict {
        KvmVerdict::EmulatedRing0 {
            detail: "slow".to_owned(),
        }
    }

    #[test]
    fn the_accelerator_is_a_problem_exactly_where_run_has_none() {
        use AccelChoice::{Auto, Emulate, Kvm};
        let cases = [
            (Auto, KvmVerdict::Usable, false, State::Ok),
            (Auto, emulated(), true, State::Warning),
            (Auto, KvmVerdict::Missing, false, State::Problem),
            (Kvm, KvmVerdict::Usable, false, State::Ok),
            (Kvm, emulated(), true, State::Problem),
            (Emulate, KvmVerdict::Usable, true, State::Warning),
            (Emulate, KvmVerdict::Usable, false, State::Problem),
        ];
        for (wanted, verdict, qemu, expected) in cases {
            let check = accelerator(wanted, &verdict, qemu);
            assert_eq!(check.state, expected, "{wanted:?} {verdict:?} {qemu}: {check:?}");
        }
        assert!(accelerator(Auto, &emulated(), true).finding.contains("only imitates"));
    }

    #[test]
    fn a_device_one_may_not_open_is_cured_by_its_group() {
        let verdict = KvmVerdict::NotPermitted { group: 108 };
        let cure = |group: Option<&str>| kvm(&verdict, group.map(str::to_owned)).cure.unwrap_or_default();
        assert!(cure(Some("kvm")).contains("-aG kvm "));
        assert!(cure(None).contains("-aG 108 "));
        let of_root = kvm(&KvmVerdict::NotPermitted { group: 0 }, Some("root".to_owned()));
        assert!(
            of_root
                .cure
                .is_some_and(|cure| cure.contains("chgrp kvm") && !cure.contains("-aG"))
        );
        assert_eq!(kvm(&KvmVerdict::Usable, None).state, State::Ok);
    }

    #[test]
    fn only_a_kernel_with_the_pvh_note_will_do() {
        let path = Path::new("/boot/vmlinux");
        assert_eq!(kernel(Some(path), Some(Ok(Entry::Pvh))).state, State::Ok);
        for bad in [Ok(Entry::NoPvh), Err(KernelError::NotElf)] {
            let check = kernel(Some(path), Some(bad));
            assert!(
                check.state == State::Problem && check.finding.contains("/boot/vmlinux"),
                "{check:?}"
            );
        }
        assert_eq!(kernel(None, None).state, State::Problem);
    }

    #[test]
    fn a_missing_layer_is_a_problem_where_it_is_required() {
        let layers: Vec<_> = Layer::ALL
            .into_iter()
            .filter(|layer| *layer != Layer::Landlock)
            .collect();
        let judge = |is_needed, required: &[Layer]| {
            let confined = Confined {
                process: Process::Vmm,
                is_needed,
                found: Ok(Confinement::of(&layers)),
            };
            super::confinement(&confined, &required.iter().copied().collect())
        };
        let check = judge(true, &[]);
        assert!(
            check.state == State::Warning && check.finding.ends_with("; without landlock"),
            "{check:?}"
        );
        assert!(check.cure.is_some_and(|cure| cure.contains("lsm=")));
        assert_eq!(judge(true, &[Layer::Seccomp]).state, State::Warning);
        assert_eq!(judge(true, &[Layer::Landlock]).state, State::Problem);
        assert_eq!(judge(false, &[Layer::Landlock]).state, State::Warning);
    }

    #[test]
    fn what_confines_itself_is_well_as_it_is() {
        let layers = Layer::ALL
            .into_iter()
            .filter(|layer| !matches!(layer, Layer::Rlimits | Layer::Landlock));
        let confined = Confined {
            process: Process::Passt,
            is_needed: true,
            found: Ok(Confinement::of(&layers.collect::<Vec<_>>())),
        };
        let check = super::confinement(&confined, &BTreeSet::from([Layer::Landlock]));
        assert!(
            check.state == State::Ok && check.finding.contains("not rlimits, landlock"),
            "{check:?}"
        );
    }

    #[test]
    fn qemu_is_missed_only_where_it_is_needed() {
        let state = |wanted, verdict: &KvmVerdict| qemu(wanted, verdict, None, None).state;
        assert_eq!(state(AccelChoice::Auto, &KvmVerdict::Usable), State::Ok);
        assert_eq!(state(AccelChoice::Kvm, &KvmVerdict::Missing), State::Ok);
        assert_eq!(state(AccelChoice::Auto, &KvmVerdict::Missing), State::Warning);
        let found = qemu(
            AccelChoice::Auto,
            &KvmVerdict::Usable,
            Some(Path::new("/q")),
            Some("7.2".to_owned()),
        );
        assert_eq!(found.finding, "/q (7.2)");
    }

    #[test]
    fn user_namespaces_matter_to_users_only() {
        let off = |root| Namespaces {
            root,
            max_user: Some(0),
            ..Namespaces::default()
        };
        assert_eq!(namespaces(&off(true)).state, State::Ok);
        assert_eq!(namespaces(&off(false)).state, State::Problem);
        let debian = Namespaces {
            max_user: Some(9),
            unprivileged_clone: Some(0),
            ..Namespaces::default()
        };
        assert_eq!(namespaces(&debian).state, State::Problem);
        let ubuntu = Namespaces {
            max_user: Some(9),
            apparmor_restricts: Some(1),
            ..Namespaces::default()
        };
        assert_eq!(namespaces(&ubuntu).state, State::Warning);
        assert_eq!(namespaces(&Namespaces::default()).state, State::Ok);
    }

    #[test]
    fn scarce_things_warn_before_they_stop_run() {
        let states = [0, DISK_NONE - 1, DISK_NONE, DISK_LOW - 1, DISK_LOW].map(|free| disk(Some(free)).state);
        assert_eq!(
            states,
            [
                State::Problem,
                State::Problem,
                State::Warning,
                State::Warning,
                State::Ok
            ]
        );
        assert_eq!(disk(None).state, State::Warning);
        assert_eq!(memory(Some(MEMORY_LOW - 1)).state, State::Warning);
        assert_eq!(memory(Some(MEMORY_LOW)).state, State::Ok);
    }

    #[test]
    fn limits_warn_about_few_files_and_a_weak_root() {
        let state = |root, open_files, sys_resource| {
            limits(&Limits {
                root,
                open_files,
                sys_resource,
            })
            .state
        };
        assert_eq!(state(false, Some(1024), false), State::Warning);
        assert_eq!(state(false, Some(1 << 20), false), State::Ok);
        assert_eq!(state(true, None, false), State::Warning);
        assert_eq!(state(true, None, true), State::Ok);
    }

    #[test]
    fn cgroup_layouts_are_told_apart() {
        let finding = |own| cgroups(own).finding;
        assert_eq!(finding("0::/user.slice\n"), "version 2");
        assert!(finding("4:memory:/\n1:name=systemd:/\n0::/\n").starts_with("hybrid"));
        assert!(finding("4:memory:/\n").starts_with("version 1"));
        assert!(finding("").starts_with("none"));
    }

    #[test]
    fn a_folder_of_somebody_else_is_a_problem() {
        let path = Path::new("/var/lib/capsid");
        let check = folder("data", path, &Folder::Foreign { owner: 7 });
        assert!(
            check.state == State::Problem && check.finding.contains("user 7"),
            "{check:?}"
        );
        assert!(check.cure.is_some_and(|cure| cure.contains("CAPSID_DATA_DIR")));
        assert_eq!(folder("run", path, &Folder::NotYet).state, State::Ok);
    }
}
